"""What is measured: functions that return a gradient over a sequence, compiled and accounted.

A contender is named `rule/window`, such as `d_rtrl/1`, `d_rtrl/32`, `d_rtrl/T` or `d_rtrl/auto`, or
is one of `BASELINES`. A window of the whole sequence ends without a trace, as backpropagation does:
the next sequence begins anew. `d_rtrl/T carried` makes the trace for one that goes on.

Each becomes a pure function of arrays, so that what is timed is what XLA accounts.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
from _models import Case, Family, make_data

CARRIED = ' carried'
OPTIONS = {'d_rtrl': {}, 'pp_prop': {'decay_or_rank': 0.9}, 'immediate': {}}


@dataclasses.dataclass(frozen=True)
class Program:
    """A pure function and its arguments; what making it took; what its trace weighs."""

    run: Callable[..., Any]
    args: tuple[Any, ...]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


def prepare(family: Family, case: Case, name: str) -> Program:
    """Make the program of a contender."""
    if name in BASELINES:
        return BASELINES[name](family, case)
    rule, _, window = name.removesuffix(CARRIED).partition('/')
    carry = window != 'T' or name.endswith(CARRIED)
    return online(family, case, rule, window_of(window, case.steps), carry)


def window_of(name: str, steps: int) -> int | str:
    """Read the size of a window: a number, `T` for the whole sequence, or the learner's choice."""
    return name if name == 'auto' else min(steps if name == 'T' else int(name), steps)


def online(family: Family, case: Case, rule: str, window: int | str, carry: bool = True) -> Program:
    """Return the gradient of a learner, with parameters fixed over the sequence."""
    xs, ys = make_data(case)
    learner, notes = compiled_learner(family, case, rule, window, xs[0])
    step = step_of(family, learner, window)
    options: dict[str, Any] = {} if carry else {'carry_trace': False}

    def run(xs: Any, ys: Any) -> Any:
        return learner.etrace_grad(xs, ys, step_fn=step, chunk_size=window, **options)

    return pure(run, xs, ys, notes=notes)


def compiled_learner(
    family: Family, case: Case, rule: str, window: int | str, x: Any
) -> tuple[Any, dict[str, Any]]:
    """Return a learner, the processor time that it took to make, and the bytes of its trace."""
    model = family.build(case)
    options = dict(OPTIONS[rule])
    if not family.ours and window != 1:
        options['vjp_method'] = 'multi-step'
    start = time.process_time()
    learner = family.algorithms.compile(model, rule, x, batch_size=case.batch, **options)
    seconds = time.process_time() - start
    own = {id(state) for state in model.states().values()}
    extra = [state.value for state in learner.states().values() if id(state) not in own]
    size = sum(jnp.asarray(leaf).nbytes for leaf in jax.tree.leaves(extra))
    return learner, {'compile_s': seconds, 'trace_bytes': size}


def step_of(family: Family, learner: Any, window: int | str) -> Callable:
    """Return the loss of one step, or of a window where that is what an implementation wants."""
    if family.ours or window == 1:
        return lambda x, y: jnp.mean((learner(x) - y) ** 2)

    def losses(xs: Any, ys: Any) -> Any:
        outs = learner(family.algorithms.MultiStepData(xs))
        return jnp.mean((outs - ys) ** 2, axis=(1, 2))

    return losses


def pure(run: Callable, *data: Any, notes: dict[str, Any] | None = None) -> Program:
    """Make a function of states a function of arrays: `(states, *data) -> (states, result)`."""
    start = time.process_time()
    fun = brainstate.transform.StatefulFunction(run).make_jaxpr(*data)
    states = [state.value for state in fun.get_states(*data)]
    notes = {'trace_s': time.process_time() - start, **(notes or {})}
    return Program(jax.jit(fun.jaxpr_call), (states, *data), notes)


# ------------------------------------------------------------ baselines


def pure_step(family: Family, case: Case) -> tuple[Callable, Any, Any, tuple[Any, Any]]:
    """Return `step(params, hidden, x, y) -> (hidden, loss)`, where both start, and the data."""
    model = family.build(case)
    brainstate.nn.init_all_states(model, case.batch)
    xs, ys = make_data(case)
    fun = brainstate.transform.StatefulFunction(
        lambda x, y: jnp.mean((model(x) - y) ** 2), return_only_write=False
    )
    fun.make_jaxpr(xs[0], ys[0])
    states = fun.get_states(xs[0], ys[0])
    paths = {id(state): '.'.join(map(str, path)) for path, state in model.states().items()}
    is_param = [isinstance(state, brainstate.ParamState) for state in states]
    names = [paths[id(state)] for state in states]

    def step(params: dict, hidden: dict, x: Any, y: Any) -> tuple[dict, Any]:
        new, loss = fun.jaxpr_call([{**params, **hidden}[name] for name in names], x, y)
        new = dict(zip(names, new, strict=True))
        return {name: new[name] for name in hidden}, loss

    values = dict(zip(names, (state.value for state in states), strict=True))
    params = {n: values[n] for n, p in zip(names, is_param, strict=True) if p}
    hidden = {n: values[n] for n, p in zip(names, is_param, strict=True) if not p}
    return step, params, hidden, (xs, ys)


def backprop(family: Family, case: Case) -> Program:
    """Return the gradient by backpropagation through time: `jax.grad` of a scan."""
    step, params, hidden, data = pure_step(family, case)
    return Program(jax.jit(jax.grad(_sequence_loss(step))), (params, hidden, *data))


def checkpointed(family: Family, case: Case) -> Program:
    """Return the same, which keeps the states of about sqrt(T) steps alone."""
    step, params, hidden, data = pure_step(family, case)
    size = max(k for k in range(1, case.steps + 1) if case.steps % k == 0 and k * k <= case.steps)

    def total(params: Any, hidden: Any, *data: Any) -> Any:
        @jax.checkpoint
        def chunk(hidden: Any, data: Any) -> Any:
            return jax.lax.scan(lambda h, xy: step(params, h, *xy), hidden, data)

        chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), data)
        return jnp.mean(jax.lax.scan(chunk, hidden, chunks)[1])

    return Program(jax.jit(jax.grad(total)), (params, hidden, *data))


def forward(family: Family, case: Case) -> Program:
    """Return the loss alone."""
    step, params, hidden, data = pure_step(family, case)
    return Program(jax.jit(_sequence_loss(step)), (params, hidden, *data))


def _sequence_loss(step: Callable) -> Callable:
    def total(params: Any, hidden: Any, *data: Any) -> Any:
        return jnp.mean(jax.lax.scan(lambda h, xy: step(params, h, *xy), hidden, data)[1])

    return total


def trace_copy(family: Family, case: Case) -> Program:
    """Return a scan whose every step reads and writes as many bytes as the trace of D_RTRL has."""
    x = make_data(case)[0][0]
    _, notes = compiled_learner(family, case, 'd_rtrl', 1, x)
    # with one axis alone XLA's loop for it takes ten times as long
    trace = jnp.ones((max(notes['trace_bytes'] // 1024, 1), 256), jnp.float32)
    # a factor that is not known before, or the loop would be folded
    factors = jnp.ones((case.steps,), jnp.float32)
    run = jax.jit(lambda e, a: jax.lax.scan(lambda e, a: (e * a, None), e, a)[0])
    return Program(run, (trace, factors), notes)


def weight_products(family: Family, case: Case) -> Program:
    """Return the products of which weight gradients consist, as large as windows of 32 make them.

    With a forward pass, this is about the least that a gradient of a window takes: plain products
    as XLA computes them, and nothing else.
    """
    _, params, _, _ = pure_step(family, case)
    window = min(32, case.steps)
    rows = case.steps // window, window * case.batch
    shapes = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    factors = [[jnp.ones((*rows, size), jnp.float32) for size in shape] for shape in shapes]

    def add(total: Any, now: Any) -> tuple[Any, None]:
        return [t + x.T @ y for t, (x, y) in zip(total, now, strict=True)], None

    start = [jnp.zeros(shape, jnp.float32) for shape in shapes]
    run = jax.jit(lambda start, factors: jax.lax.scan(add, start, factors)[0])
    return Program(run, (start, factors))


BASELINES: dict[str, Callable[[Family, Case], Program]] = {
    'bptt': backprop,
    'bptt checkpointed': checkpointed,
    'forward': forward,
    'copy': trace_copy,
    'products': weight_products,
}
