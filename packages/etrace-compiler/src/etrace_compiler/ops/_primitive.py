"""Registration of operators: the table from a primitive to its facts."""

from collections.abc import Callable
from typing import Any

from etrace_compiler import _jax
from etrace_compiler.errors import explain_error
from etrace_compiler.ops._facts import Likeness, Operator
from etrace_compiler.ops._lift import (
    lift_batching,
    lift_forward,
    lift_like,
    lift_w_block,
    lift_x_block,
    lift_y_block,
)

__all__ = ['operator_named', 'operator_of', 'operators', 'register_primitive']

_BY_NAME: dict[str, Operator] = {}


def register_primitive(
    name: str,
    forward: Callable[..., Any],
    *,
    x_block: Callable[..., Any],
    w_block: Callable[..., Any],
    y_block: Callable[..., Any],
    has_input: bool = True,
    batching: Callable[..., Any] | None = None,
    like: Callable[..., Likeness | None] = lambda *shapes, **params: None,
) -> Operator:
    """Register an operator by its forward function and its facts.

    Args:
        name: Unique name of the new primitive.
        forward: Forward function `(x, weight, **params) -> y`, made of JAX operations.
        x_block: See [`Operator`][etrace_compiler.ops.Operator].
        w_block: See `Operator`.
        y_block: See `Operator`.
        has_input: Whether `forward` takes an input beside the weight.
        batching: vmap rule `(args, axes, **params) -> (out, axis)`; an axis is `None`
            where an argument is not batched. By default the functions above are mapped.
        like: See `Operator`.

    Returns:
        The registered operator; bind it with `operator.primitive.bind(x, weight, **params)`.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _BY_NAME:
        raise ValueError(
            explain_error(
                name,
                'is already the name of an operator',
                got='a second registration',
                expected='a new name',
                fix='Choose another name for your operator.',
                code='ETC801',
            )
        )
    if batching is None:
        forward = lift_forward(forward, has_input)
        x_block, w_block = lift_x_block(x_block), lift_w_block(w_block)
        y_block, like = lift_y_block(y_block), lift_like(like)
    primitive = _jax.new_primitive(name, forward, like)
    _jax.register_batching(primitive, batching or lift_batching(primitive.bind, has_input))
    operator = Operator(name, forward, x_block, w_block, y_block, has_input, primitive, like)
    _BY_NAME[name] = operator
    return operator


def operator_of(primitive: Any) -> Operator | None:
    """Return the operator that a primitive marks, or `None` for any other primitive."""
    operator = _BY_NAME.get(primitive.name)
    return operator if operator is not None and operator.primitive is primitive else None


def operator_named(name: str) -> Operator:
    """Return a registered operator by its name.

    Raises:
        KeyError: If there is no such operator.
    """
    if name not in _BY_NAME:
        raise KeyError(f'no operator is named {name!r}; registered: {sorted(_BY_NAME)}')
    return _BY_NAME[name]


def operators() -> tuple[Operator, ...]:
    """Return every registered operator, in order of registration."""
    return tuple(_BY_NAME.values())
