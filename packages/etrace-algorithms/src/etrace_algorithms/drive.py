"""Sequences: gradients or states over time, without a Python loop and without a tape."""

from collections.abc import Callable
from typing import Any, Literal

import brainstate
import jax
import jax.numpy as jnp

from etrace_compiler.errors import explain_error

__all__ = ['etrace_evolve', 'etrace_grad']


def etrace_grad(
    learner: Any,
    *sequences: Any,
    step_fn: Callable[..., Any],
    mask: Any = None,
    chunk_size: int | None = None,
    weights: Any = None,
    reduction: Literal['mean', 'sum'] = 'mean',
    loss_output: Literal['per_step', 'masked', 'scalar'] = 'per_step',
    has_aux: bool = False,
    return_value: bool = False,
) -> Any:
    """Accumulate online gradients over a sequence.

    The gradient of each step is taken as the step is made and added up: memory does not grow
    with the length of the sequence (losses and auxiliary outputs are stacked).

    Args:
        learner: A compiled learner.
        *sequences: Pytrees of arrays with time on the first axis, one slice per call of `step_fn`.
        step_fn: Calls the learner once and returns the loss of one step, a scalar or an array;
            with `has_aux` a pair `(loss, aux)`.
        mask: Weights of the steps, `(T,)`, or of the elements of each step's loss, `(T, ...)`.
        chunk_size: For a `'multi-step'` learner, the number of steps that ordinary automatic
            differentiation runs over (1 by default; the last window may be shorter). For a
            `'single-step'` learner it does not change the result.
        weights: Parameters to differentiate: a pytree of states, all of the learner's by default.
        reduction: `'mean'` over all (masked) losses, or `'sum'`.
        loss_output: With `return_value`: losses as they are, multiplied by the mask, or reduced.
        has_aux: Whether `step_fn` returns auxiliary output.
        return_value: Whether to return losses beside the gradients.

    Returns:
        `gradients`, with `return_value` `(gradients, losses)`, and with `has_aux` the stacked
        auxiliary outputs at the end.

    Raises:
        ValueError: If sequences or mask disagree in length, or an option is unknown.

    Example:
        >>> import brainstate, etrace_algorithms, etrace_nn, jax.numpy as jnp
        >>> learner = etrace_algorithms.compile(
        ...     etrace_nn.GRUCell(3, 4), 'd_rtrl', jnp.zeros((1, 3)), batch_size=1)
        >>> xs = jnp.ones((20, 1, 3))
        >>> grads, losses = etrace_grad(
        ...     learner, xs, step_fn=lambda x: (learner(x) ** 2).mean(), return_value=True)
        >>> losses.shape
        (20,)
    """
    _check_option('reduction', reduction, ('mean', 'sum'))
    _check_option('loss_output', loss_output, ('per_step', 'masked', 'scalar'))
    steps = _length(sequences, mask)
    weights = learner.param_states if weights is None else weights
    multi = learner.vjp_method == 'multi-step'
    window = min(_check_chunk(chunk_size) or 1, steps) if multi else 1
    mask = jnp.ones((steps,)) if mask is None else jnp.asarray(mask)

    def losses_of(*slices: Any) -> Any:
        *xs, weight = slices
        out = step_fn(*xs)
        loss, aux = out if has_aux else (out, None)
        loss = jnp.asarray(loss)
        weight = weight.astype(loss.dtype)
        weight = weight.reshape(weight.shape + (1,) * max(loss.ndim - weight.ndim, 0))
        masked = jnp.where(weight != 0, loss * weight, jnp.zeros((), loss.dtype))
        count = jnp.sum(jnp.broadcast_to(weight, masked.shape))
        return jnp.sum(masked), (loss, masked, count, aux)

    def window_loss(*slices: Any) -> Any:
        with learner.window():
            total, rest = brainstate.transform.for_loop(losses_of, *slices)
        return jnp.sum(total), rest

    def advance(function: Callable) -> Callable:
        # a parameter that the step does not use is no mistake here: its gradient is zero, and
        # the compiler has said so
        grad = brainstate.transform.grad(
            function, weights, has_aux=True, return_value=True, check_states=False
        )

        def body(carry: Any, slices: Any) -> tuple[Any, Any]:
            found: Any = grad(*slices)
            gradients, _, rest = found
            return jax.tree.map(jnp.add, carry, gradients), rest

        return body

    zeros = jax.tree.map(
        jnp.zeros_like,
        jax.tree.map(lambda s: s.value, weights, is_leaf=lambda s: isinstance(s, brainstate.State)),
    )
    data = (*sequences, mask)
    if window == 1:
        total, rest = brainstate.transform.scan(advance(losses_of), zeros, data)
    else:
        whole = steps // window * window
        chunks = jax.tree.map(
            lambda x: x[:whole].reshape((steps // window, window, *x.shape[1:])), data
        )
        total, rest = brainstate.transform.scan(advance(window_loss), zeros, chunks)
        rest = jax.tree.map(lambda x: x.reshape((whole, *x.shape[2:])), rest)
        if whole < steps:
            total, last = advance(window_loss)(total, jax.tree.map(lambda x: x[whole:], data))
            rest = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rest, last)

    losses, masked, counts, aux = rest
    scale = 1 / jnp.maximum(jnp.sum(counts), 1e-12) if reduction == 'mean' else jnp.ones(())
    gradients = jax.tree.map(lambda g: g * scale.astype(jax.dtypes.result_type(g)), total)
    if not return_value:
        return (gradients, aux) if has_aux else gradients
    value = {'per_step': losses, 'masked': masked, 'scalar': jnp.sum(masked) * scale}[loss_output]
    return (gradients, value, aux) if has_aux else (gradients, value)


def etrace_evolve(
    learner: Any,
    *sequences: Any,
    step_fn: Callable[..., Any] | None = None,
    chunk_size: int | None = None,
    return_outputs: bool = False,
) -> Any:
    """Advance states and traces over a sequence, without a gradient.

    Args:
        learner: A compiled learner.
        *sequences: Pytrees of arrays with time on the first axis.
        step_fn: Called once per step; the learner itself by default.
        chunk_size: Accepted for symmetry with `etrace_grad`; it does not change the result.
        return_outputs: Whether to return what `step_fn` returned, stacked over time.

    Raises:
        ValueError: If the sequences disagree in length.
    """
    _length(sequences, None)
    _check_chunk(chunk_size)
    step = learner if step_fn is None else step_fn

    def body(*slices: Any) -> Any:
        out = step(*slices)
        return out if return_outputs else None

    outputs = brainstate.transform.for_loop(body, *sequences)
    return outputs if return_outputs else None


def _length(sequences: tuple[Any, ...], mask: Any) -> int:
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jax.tree.leaves(sequences)}
    if mask is not None:
        lengths |= {jnp.shape(mask)[0] if jnp.ndim(mask) else None}
    length = next(iter(lengths)) if len(lengths) == 1 else None
    if not length:
        raise ValueError(
            explain_error(
                'sequences',
                'do not agree on the number of steps',
                got=f'leading axes {sorted(lengths, key=str)}',
                expected='the same number of steps, at least 1, in every sequence and the mask',
                fix='Put time on the first axis of every array.',
                code='ETA106',
            )
        )
    return length


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            explain_error(
                name,
                'is unknown',
                got=repr(value),
                expected=' or '.join(map(repr, allowed)),
                fix=f'Leave {name} out for {allowed[0]!r}.',
                code='ETA107',
            )
        )


def _check_chunk(chunk_size: int | None) -> int | None:
    if chunk_size is None or (isinstance(chunk_size, int) and chunk_size >= 1):
        return chunk_size
    raise ValueError(
        explain_error(
            'chunk_size',
            'is out of range',
            got=repr(chunk_size),
            expected='None, or an integer of at least 1',
            fix='Leave it out.',
            code='ETA108',
        )
    )
