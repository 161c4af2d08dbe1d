"""Sequences: gradients or states over time, without a Python loop and without a tape."""

from collections.abc import Callable
from typing import Any, Literal

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms.chunks import Budget, check_chunk, warn_of_steps
from etrace_algorithms.loops import shape_dtype
from etrace_algorithms.memory import PeakMemory, array_bytes
from etrace_algorithms.windows import Unsuitable, WindowEngine
from etrace_compiler.errors import explain_error

__all__ = ['etrace_evolve', 'etrace_grad', 'peak_memory']


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
            a number of bytes such as `'64 MB'` takes as many steps as fit that budget. With
            `'auto'`, the default, that is about the size of the trace, or 32 MiB. For a
            `'multi-step'` learner ordinary automatic differentiation runs over the steps of a
            window (1 by default).
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
    loop = _gradient_loop(
        learner,
        sequences,
        step_fn=step_fn,
        mask=mask,
        chunk_size=chunk_size,
        weights=weights,
        reduction=reduction,
        loss_output=loss_output,
        has_aux=has_aux,
        return_value=return_value,
        carry_trace=carry_trace,
    )
    found = learner.drives(*loop)
    return found if len(found) > 1 else found[0]


def peak_memory(learner: Any, *sequences: Any, **options: Any) -> PeakMemory:
    """Say how much memory `etrace_grad` with these arguments would need at once.

    The loop is compiled and not run: nothing changes, and the answer is that of the compiler.

    Args:
        learner: A compiled learner.
        *sequences: Those of `etrace_grad`; of arrays only shapes and dtypes count, and
            `jax.ShapeDtypeStruct` will do.
        **options: The other arguments of `etrace_grad`, `step_fn` among them.

    Raises:
        ValueError: As `etrace_grad`.

    Example:
        >>> import brainstate, etrace_algorithms, etrace_nn, jax, jax.numpy as jnp
        >>> learner = etrace_algorithms.compile(
        ...     etrace_nn.GRUCell(3, 4), 'd_rtrl', jnp.zeros((1, 3)), batch_size=1)
        >>> step = lambda x: (learner(x) ** 2).mean()
        >>> short, long = (
        ...     peak_memory(learner, jax.ShapeDtypeStruct((steps, 1, 3), jnp.float32),
        ...                 step_fn=step, chunk_size=10)
        ...     for steps in (100, 1000))
        >>> long.arguments - short.arguments  # the inputs, and the mask
        14400
        >>> abs(long.temporary - short.temporary) < 20_000
        True
    """
    sequences = jax.tree.map(lambda x: jax.ShapeDtypeStruct(*shape_dtype(x)), sequences)
    return learner.drives.memory(*_gradient_loop(learner, sequences, **options))


def _gradient_loop(
    learner: Any,
    sequences: tuple,
    *,
    step_fn: Callable,
    mask: Any = None,
    chunk_size: int | str | None = None,
    weights: Any = None,
    reduction: str = 'mean',
    loss_output: str = 'per_step',
    has_aux: bool = False,
    return_value: bool = False,
    carry_trace: bool = True,
) -> tuple[Any, ...]:
    """What `DriveCache` wants to run a loop: the key, the function, the learner and the data."""
    _check_option('reduction', reduction, ('mean', 'sum'))
    _check_option('loss_output', loss_output, ('per_step', 'masked', 'scalar'))
    steps = _length(sequences, mask)
    weights = learner.param_states if weights is None else weights
    window = check_chunk(chunk_size, learner.vjp_method)
    learner.check_windows(step_fn, sequences, window)
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
    return key, run, learner, sequences, mask


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
        distinct = list({id(s): s for s in states}.values())
        solved = _solve_windows(learner, losses_of, distinct, data, chunk, carry_trace)
        if solved is not None:
            gradients, rest = solved
            by_state = {id(s): g for s, g in zip(distinct, gradients, strict=True)}
            return tree.unflatten([by_state[id(s)] for s in states]), rest
        chunk = 1
    assert isinstance(chunk, int)
    before = learner._get_etrace_data()
    found = _accumulate_steps(learner, losses_of, weights, data, min(chunk, steps))
    if not carry_trace:
        learner._assign_etrace_data(before)
    return found


def _solve_windows(
    learner: Any,
    losses_of: Callable,
    weights: list[brainstate.State],
    data: Any,
    chunk: int | Budget,
    carry_trace: bool,
) -> tuple[list[Any], Any] | None:
    """Run windows of fixed parameters; `None` where steps have to be run one by one."""
    steps = jax.tree.leaves(data)[0].shape[0]
    budgeted = isinstance(chunk, Budget)
    if budgeted and any(r.shares_positions for r in learner.graph.hidden_param_op_relations):
        return None  # all steps side by side look more values up than they save: steps are faster
    try:
        engine = WindowEngine(learner, losses_of, jax.tree.map(lambda x: x[0], data), weights)
        if budgeted:
            trace = array_bytes(learner._get_etrace_data())
            size = chunk.steps(engine.step_bytes, steps, trace)
        else:
            size = min(chunk, steps)
        return engine.run(data, size, carry_trace) if size > 1 else None
    except Unsuitable as reason:
        if isinstance(chunk, int):
            warn_of_steps(chunk, reason)
    return None


def _accumulate_steps(
    learner: Any, losses_of: Callable, weights: Any, data: Any, window: int
) -> tuple[Any, Any]:
    """Differentiate step by step, or by automatic differentiation over windows."""

    def window_loss(*slices: Any) -> Any:
        with learner.window():
            total, rest = brainstate.transform.for_loop(losses_of, *slices)
        return learner.end_window(jnp.sum(total)), rest

    def step_loss(*slices: Any) -> Any:
        total, rest = losses_of(*slices)
        return (total if learner.vjp_method == 'single-step' else learner.end_window(total)), rest

    def body(carry: Any, slices: Any) -> tuple[Any, Any]:
        # a parameter that the step does not use is no mistake here: its gradient is zero, and
        # the compiler has said so
        grad = brainstate.transform.grad(
            step_loss if window == 1 else window_loss,
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
        chunk_size: Steps per window, as in `etrace_grad`: a `'single-step'` learner advances its
            trace once per window. It does not change the result.
        return_outputs: Whether to return what `step_fn` returned, stacked over time.

    Raises:
        ValueError: If the sequences disagree in length.
    """
    _length(sequences, None)
    window = check_chunk(chunk_size, learner.vjp_method)
    step = learner if step_fn is None else step_fn

    def body(*slices: Any) -> Any:
        out = step(*slices)
        return out if return_outputs else None

    def run(sequences: tuple) -> Any:
        if learner.vjp_method == 'single-step' and window != 1:
            # a loss that nothing depends on: no derivative of it is ever computed
            free = lambda *slices: (jnp.zeros(()), body(*slices))  # noqa: E731
            solved = _solve_windows(learner, free, [], sequences, window, True)
            if solved is not None:
                return solved[1]
        return brainstate.transform.for_loop(body, *sequences)

    key = ('evolve', step_fn, return_outputs, window)
    outputs = learner.drives(key, run, learner, sequences)
    return outputs if return_outputs else None


def _is_state(value: Any) -> bool:
    return isinstance(value, brainstate.State)


def _length(sequences: tuple[Any, ...], mask: Any) -> int:
    shapes = [shape_dtype(x)[0] for x in jax.tree.leaves((sequences, mask))]
    lengths = {shape[0] if shape else None for shape in shapes}
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
