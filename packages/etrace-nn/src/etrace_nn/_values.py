"""What every layer does with its arguments: initial values, shapes and units."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp

from etrace_compiler import element_wise
from etrace_compiler.errors import explain_error

__all__ = [
    'as_activation',
    'as_size',
    'check_input',
    'check_unit',
    'in_unit_of',
    'initial_value',
    'joined',
    'marked',
    'per_position',
    'times',
]

BatchSize = int | Sequence[int] | None


def as_size(size: int | Sequence[int]) -> tuple[int, ...]:
    """Write a size as a tuple of integers."""
    return tuple(int(n) for n in size) if isinstance(size, Sequence) else (int(size),)


def initial_value(
    initializer: Any, shape: Sequence[int], subject: str, batch_size: BatchSize = None
) -> Any:
    """Make the initial value of a parameter or a state.

    Args:
        initializer: A function of the shape, or an array, quantity or number to broadcast.
        shape: Shape without batch axes.
        subject: What is initialised, for the error message.
        batch_size: One leading axis, several, or `None` for none.

    Returns:
        An array or quantity of shape `(*batch, *shape)`.

    Raises:
        ValueError: If the value does not broadcast to that shape.
    """
    batch = () if batch_size is None else as_size(batch_size)
    full = (*batch, *shape)
    if callable(initializer):
        value = initializer(full)
    else:
        # A bare number would stay weakly typed, and the state change its type in a scan.
        bare = isinstance(u.get_mantissa(initializer), bool | int | float)
        value = u.math.asarray(initializer, dtype=brainstate.environ.dftype() if bare else None)
    try:
        return u.math.broadcast_to(value, full)
    except ValueError as error:
        raise ValueError(
            explain_error(
                subject,
                'has the wrong shape',
                got=jnp.shape(u.get_mantissa(value)),
                expected=str(full),
                fix='Pass a function of the shape, or a value that broadcasts to it.',
                code='ETC601',
            )
        ) from error


def per_position(value: Any, shape: tuple[int, ...], subject: str) -> Any:
    """Accept a property of a population: a `ParamState` or a scalar is kept, the rest fills it."""
    if isinstance(value, brainstate.ParamState) or (
        not callable(value) and u.math.ndim(value) == 0
    ):
        return value
    return initial_value(value, shape, subject)


def marked(value: Any) -> Any:
    """Return the value of a property; one that is a `ParamState` is marked as trainable."""
    return element_wise(value.value) if isinstance(value, brainstate.ParamState) else value


def times(weight: Any, factor: Any) -> Any:
    """Multiply by a constant factor that takes the type of the weight."""
    return weight if factor is None else u.math.multiply(weight, factor.astype(weight.dtype))


def joined(x: Any, h: Any) -> Any:
    """Put an input and a state side by side: `(..., in)` and `(..., out)` to `(..., in + out)`."""
    if isinstance(x, u.Quantity) or isinstance(h, u.Quantity):
        return u.math.concatenate([x, h], axis=-1)
    if getattr(x, 'dtype', None) == h.dtype:
        return jax.lax.concatenate([x, h], h.ndim - 1)
    return jnp.concatenate([x, h], axis=-1)


def check_input(
    x: Any, features: Sequence[int], layer: brainstate.nn.Module, state: Any = None
) -> None:
    """Check the shape of an input before anything is computed with it.

    Args:
        x: The input, `(..., *features)`.
        features: Expected last axes.
        layer: The layer that was called, for the error message.
        state: A state value whose leading axes must be those of the input.

    Raises:
        ValueError: If the last axes or the leading axes of the input differ.
    """
    subject = type(layer).__name__
    shape, rank = u.math.shape(x), len(features)
    if shape[max(len(shape) - rank, 0) :] != tuple(features):
        raise ValueError(
            explain_error(
                f'{subject} input',
                'has the wrong size',
                got=f'shape {shape}',
                expected='(..., ' + ', '.join(map(str, features)) + ')',
                fix='Feed what the layer was built for, or build it with another `in_size`.',
                code='ETC602',
            )
        )
    if state is None:
        return
    batch, of_state = shape[: len(shape) - rank], u.math.shape(state)[: -len(features)]
    if batch != of_state:
        raise ValueError(
            explain_error(
                f'{subject} input',
                'does not fit the batch axes of the state',
                got=batch,
                expected=str(of_state),
                fix='Initialise the states again, with the `batch_size` of the input.',
                code='ETC603',
            )
        )


def check_unit(value: Any, like: Any, subject: str, other: str) -> None:
    """Check that two arguments of a layer, which meet in a sum, have the same dimension.

    Raises:
        ValueError: If they do not.
    """
    value, like = (x.value if isinstance(x, brainstate.State) else x for x in (value, like))
    in_unit_of(value, like, subject, f'Give `{subject}` the unit of {other}.')


def in_unit_of(value: Any, like: Any, subject: str, fix: str) -> Any:
    """Convert a value to the unit of another, so that a state never changes its unit.

    Raises:
        ValueError: If the two have different dimensions.
    """
    unit = u.get_unit(like)
    if not u.have_same_dim(value, like):
        raise ValueError(
            explain_error(
                subject,
                'has the wrong unit',
                got=f'[{u.get_unit(value)}]',
                expected=f'[{unit}]',
                fix=fix,
                code='ETC604',
            )
        )
    return value.to(unit) if isinstance(value, u.Quantity) and u.get_unit(value) != unit else value


def as_activation(activation: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Look up an activation function of `brainstate.nn` by name; a function is kept.

    Raises:
        ValueError: If `brainstate.nn` has no such function.
    """
    if callable(activation):
        return activation
    function = getattr(brainstate.nn, activation, None) if activation.islower() else None
    if not callable(function):
        raise ValueError(
            explain_error(
                'activation',
                'is unknown',
                got=repr(activation),
                expected="a function, or the name of one in brainstate.nn, such as 'tanh'",
                fix='Check the spelling.',
                code='ETC605',
            )
        )
    return function
