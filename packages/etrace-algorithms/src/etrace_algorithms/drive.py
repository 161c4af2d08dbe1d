"""Sequences: gradients or states over time, without a Python loop and without a tape."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms.chunks import Budget, check_chunk, warn_of_steps
from etrace_algorithms.windows import Unsuitable, WindowEngine
from etrace_compiler import is_traced
from etrace_compiler.errors import explain_error

__all__ = ['DriveCache', 'etrace_evolve', 'etrace_grad']


def etrace_grad(
    learner: Any,
    *sequences: Any,
    step_fn: Callable[..., Any],
    mask: Any = None,
    chunk_size: int | str | None = None,
    weights: Any = None,
    reduction: Literal['mean', 'sum'] = 'mean',
    loss_output: Literal['per_step', 'masked', 'scalar'] = 'per_step',
    has_aux: bool = False,
    return_value: bool = False,
    carry_trace: bool = True,
) -> Any:
    """Accumulate online gradients over a sequence.

    The gradient of each step is taken as the step is made and added up: memory does not grow
    with the length of the sequence (losses and auxiliary outputs are stacked).

    Args:
        learner: A compiled learner.
        *sequences: Pytrees of arrays with time on the first axis, one slice per call of `step_fn`.
        step_fn: Calls the learner once and returns the loss of one step, a scalar or an array;
            with `has_aux` a pair `(loss, aux)`. It is traced once, as by `jit`: pass the same
            function again, not a new one, and nothing is compiled again.
        mask: Weights of the steps, `(T,)`, or of the elements of each step's loss, `(T, ...)`.
        chunk_size: Steps per window; the last window may be shorter. For a `'single-step'` learner
            only time and memory depend on it: a window is solved at once, 1 is step by step, and
            `'auto'`, the default, or a number of bytes such as `'64 MB'`, takes as many steps
            as fit that budget. For a `'multi-step'` learner ordinary automatic differentiation
            runs over the steps of a window (1 by default).
        weights: Parameters to differentiate: a pytree of states, all of the learner's by default.
        reduction: `'mean'` over all (masked) losses, or `'sum'`.
        loss_output: With `return_value`: losses as they are, multiplied by the mask, or reduced.
        has_aux: Whether `step_fn` returns auxiliary output.
        return_value: Whether to return losses beside the gradients.
        carry_trace: Whether the trace is advanced to the end of the sequence. `False` leaves it as
            it was, and saves the work of its last window: for sequences that each begin anew.

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
    window = check_chunk(chunk_size, learner.vjp_method)
    mask = jnp.ones((steps,)) if mask is None else jnp.asarray(mask)

    def run(sequences: tuple, mask: Any) -> Any:
        losses_of = _masked_loss(step_fn, has_aux)
        data = (*sequences, mask)
        total, rest = _accumulate(learner, losses_of, weights, data, window, carry_trace)
        losses, masked, counts, aux = rest
        scale = jnp.ones(())
        if reduction == 'mean':
            scale = 1 / jnp.maximum(jnp.sum(counts), 1e-12)
        gradients = jax.tree.map(lambda g: g * scale.astype(jax.dtypes.result_type(g)), total)
        outputs = {'per_step': losses, 'masked': masked, 'scalar': jnp.sum(masked) * scale}
        found = (gradients, outputs[loss_output]) if return_value else (gradients,)
        return (*found, aux) if has_aux else found

    states, tree = jax.tree.flatten(weights, is_leaf=_is_state)
    options = (window, reduction, loss_output, has_aux, return_value, carry_trace)
    key = ('grad', step_fn, tuple(map(id, states)), tree, *options)
    found = learner.drives(key, run, learner, sequences, mask)
    return found if len(found) > 1 else found[0]


def _masked_loss(step_fn: Callable, has_aux: bool) -> Callable:
    """Make a step's loss a scalar: the sum of its (masked) elements, and what else is wanted."""

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

    return losses_of


def _accumulate(
    learner: Any,
    losses_of: Callable,
    weights: Any,
    data: Any,
    chunk: int | Budget,
    carry_trace: bool,
) -> tuple[Any, Any]:
    """Add up the gradients of steps, or of windows of steps, and stack the rest over time."""
    steps = jax.tree.leaves(data)[0].shape[0]
    if learner.vjp_method == 'single-step' and chunk != 1:
        states, tree = jax.tree.flatten(weights, is_leaf=_is_state)
        try:
            distinct = list({id(s): s for s in states}.values())
            engine = WindowEngine(learner, losses_of, jax.tree.map(lambda x: x[0], data), distinct)
            budgeted = isinstance(chunk, Budget)
            size = chunk.steps(engine.step_bytes, steps) if budgeted else min(chunk, steps)
            if size > 1:
                gradients, rest = engine.run(data, size, carry_trace)
                by_state = {id(s): g for s, g in zip(distinct, gradients, strict=True)}
                return tree.unflatten([by_state[id(s)] for s in states]), rest
        except Unsuitable as reason:
            if isinstance(chunk, int):
                warn_of_steps(chunk, reason)
        chunk = 1
    assert isinstance(chunk, int)
    before = learner._get_etrace_data()
    found = _accumulate_steps(learner, losses_of, weights, data, min(chunk, steps))
    if not carry_trace:
        learner._assign_etrace_data(before)
    return found


def _accumulate_steps(
    learner: Any, losses_of: Callable, weights: Any, data: Any, window: int
) -> tuple[Any, Any]:
    """Differentiate step by step, or by automatic differentiation over windows."""

    def window_loss(*slices: Any) -> Any:
        with learner.window():
            total, rest = brainstate.transform.for_loop(losses_of, *slices)
        return jnp.sum(total), rest

    def body(carry: Any, slices: Any) -> tuple[Any, Any]:
        # a parameter that the step does not use is no mistake here: its gradient is zero, and
        # the compiler has said so
        grad = brainstate.transform.grad(
            losses_of if window == 1 else window_loss,
            weights,
            has_aux=True,
            return_value=True,
            check_states=False,
        )
        found: Any = grad(*slices)
        gradients, _, rest = found
        return jax.tree.map(jnp.add, carry, gradients), rest

    zeros = jax.tree.map(
        lambda s: jax.tree.map(jnp.zeros_like, s.value), weights, is_leaf=_is_state
    )
    if window == 1:
        return brainstate.transform.scan(body, zeros, data)
    steps = jax.tree.leaves(data)[0].shape[0]
    whole = steps // window * window
    chunks = jax.tree.map(lambda x: x[:whole].reshape((-1, window, *x.shape[1:])), data)
    total, rest = brainstate.transform.scan(body, zeros, chunks)
    rest = jax.tree.map(lambda x: x.reshape((whole, *x.shape[2:])), rest)
    if whole < steps:
        total, last = body(total, jax.tree.map(lambda x: x[whole:], data))
        rest = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rest, last)
    return total, rest


def etrace_evolve(
    learner: Any,
    *sequences: Any,
    step_fn: Callable[..., Any] | None = None,
    chunk_size: int | str | None = None,
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
    check_chunk(chunk_size, learner.vjp_method)
    step = learner if step_fn is None else step_fn

    def body(*slices: Any) -> Any:
        out = step(*slices)
        return out if return_outputs else None

    def run(sequences: tuple) -> Any:
        return brainstate.transform.for_loop(body, *sequences)

    outputs = learner.drives(('evolve', step_fn, return_outputs), run, learner, sequences)
    return outputs if return_outputs else None


class DriveCache:
    """Compiled loops over sequences, so that the second call of one compiles nothing.

    A step function is traced once for all calls with the same shapes, as by `jit`: what it
    reads besides its arguments and states is fixed by then. The trace is updated in place.
    Inside a transformation the loop is part of what is being traced, and nothing is kept.
    """

    def __init__(self, size: int = 16):
        self._size = size
        self._kept: OrderedDict[Any, Callable] = OrderedDict()

    def __call__(self, key: Any, run: Callable, learner: Any, *data: Any) -> Any:
        """Run a loop on data, compiled unless it is being traced."""
        states = learner.states().values()
        if is_traced((data, [state.value for state in states])):
            return run(*data)
        # a compiled loop holds the states that it was traced with: new ones need a new loop
        key = (key, *map(id, states))
        if key not in self._kept:
            self._kept[key] = _compiled(run, learner.etrace)
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key](*data)

    def clear(self) -> None:
        """Forget every loop."""
        self._kept.clear()


def _compiled(run: Callable, in_place: brainstate.State | None) -> Callable:
    """`jit` of a function of states, which gives the memory of one state to its new value."""
    function = brainstate.transform.StatefulFunction(run)

    def call(given: dict[int, Any], values: dict[int, Any], *data: Any) -> Any:
        merged = {**values, **given}
        return function.jaxpr_call([merged[i] for i in range(len(merged))], *data)

    jitted = jax.jit(call, donate_argnums=0)

    def compiled(*data: Any) -> Any:
        states = function.get_states(*data)
        written = {id(state) for state in function.get_write_states(*data)}
        values = {i: state.value for i, state in enumerate(states)}
        if in_place is not None:
            _check_alive(in_place)
        given = {i: values.pop(i) for i, state in enumerate(states)
                 if state is in_place and id(state) in written}  # fmt: skip
        new, out = jitted(given, values, *data)
        for state, value in zip(states, new, strict=True):
            if id(state) in written:
                state.value = value
        return out

    return compiled


def _check_alive(state: brainstate.State) -> None:
    """Check that a state holds arrays whose memory was not given away."""
    if any(x.is_deleted() for x in jax.tree.leaves(state.value) if isinstance(x, jax.Array)):
        raise ValueError(
            explain_error(
                'trace',
                'is gone',
                got='arrays that an earlier call has updated in place',
                expected='arrays of its own',
                fix='Keep a copy, jax.tree.map(jnp.copy, learner.etrace.value), and put that back.',
                code='ETA112',
            )
        )


def _is_state(value: Any) -> bool:
    return isinstance(value, brainstate.State)


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
