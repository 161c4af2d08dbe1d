"""What every learner must keep, whatever it promises."""

import pickle
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms._compile import make_learner
from etrace_algorithms.testing.conformance.cases import BATCH, CASES, STEPS, probe_of
from etrace_algorithms.testing.conformance.subject import Broken, Subject, distance, has_keys
from etrace_algorithms.testing.models import LeakyIntegrator
from etrace_algorithms.testing.probe import Probe, loss_of
from etrace_compiler import CompilationError, NotSupportedError, element_wise, matmul

__all__ = ['ALWAYS']

MAIN = 'plain RNN'


def one_step(s: Subject) -> str:
    """At `T=1` the gradient of every parameter is that of backpropagation."""
    cases = list(s.cases())
    worst = max(s.must_equal(s.online(c.name, 1), s.exact(c.name, 1), c.name) for c in cases)
    return f'equal to backpropagation on {len(cases)} models, up to {worst:.0e}'


def stable_trace(s: Subject) -> str:
    """A step changes neither structure nor shapes nor dtypes of the trace."""
    for case in s.cases():
        learner, probe = s.learner(case.name), probe_of(case.name)
        probe.restart(learner)
        before = _described(learner)
        try:
            learner(probe.xs[0])
        except TypeError as error:
            raise Broken(f'{case.name}: {_first_line(error)}') from error
        after = _described(learner)
        if before != after:
            raise Broken(f'{case.name}: the trace was {before[0]}, and is {after[0]} after a step')
    return 'structure, shapes and dtypes stay the same'


def precision(s: Subject) -> str:
    """A model in float32 keeps trace and gradients in float32, also where float64 is allowed."""
    learner = s.learner(MAIN, jnp.float32)
    for path, value in s.online(MAIN, dtype=jnp.float32).items():
        for leaf in jax.tree.leaves(value):
            if leaf.dtype != jnp.float32:
                raise Broken(f'the gradient of {path} is {leaf.dtype}')
    for leaf in jax.tree.leaves(_trace(learner)):
        if leaf.dtype in (jnp.float64, jnp.complex128):
            raise Broken(f'the trace holds {leaf.dtype}')
    error = max(
        distance(a, b)
        for a, b in zip(
            s.online(MAIN, dtype=jnp.float32).values(), s.online(MAIN).values(), strict=True
        )
    )
    if not error < 1e-3 and not has_keys(_trace(learner)):
        raise Broken(f'in float32 the gradient differs by {error:.0e} from that in float64')
    return 'float32 stays float32'


def pure(s: Subject) -> str:
    """The same run twice gives the same numbers: nothing is kept outside of the trace."""
    probe, learner = probe_of(MAIN), s.learner(MAIN)
    first = s.online(MAIN)
    other = probe.another(s.algorithm, **s.options)
    for again in (probe.online(learner), probe.online(other)):
        if max(distance(again[p], first[p]) for p in first) > 0:
            raise Broken('the same run gives other numbers the second time')
    return 'runs repeat bit by bit'


def compiled_once(s: Subject) -> str:
    """A second call with other values compiles nothing."""
    probe, learner = probe_of(MAIN), s.learner(MAIN)
    calls = []

    def step(x: Any) -> Any:
        calls.append(1)
        return loss_of(learner(x))

    def traced(scale: float) -> int:
        probe.restart(learner)
        learner.etrace_grad(scale * probe.xs, step_fn=step, chunk_size=1)
        return len(calls)

    if traced(1.0) != traced(0.5):
        raise Broken('the step function is traced again on the second call')
    return 'the second call traces nothing'


def transformed(s: Subject) -> str:
    """A Python loop over `grad`, and everything under `jit`, give what `etrace_grad` gives."""
    probe, learner, wanted = probe_of(MAIN), s.learner(MAIN), s.online(MAIN)
    if not s.by_windows:
        grad = brainstate.transform.jit(  # pyright: ignore[reportCallIssue]
            brainstate.transform.grad(
                lambda x: loss_of(learner(x)), learner.param_states, check_states=False
            )
        )
        probe.restart(learner)
        steps: list[Any] = [grad(x) for x in probe.xs]
        total = {
            path: jax.tree.map(lambda *g: sum(g), *(g[path] for g in steps)) for path in wanted
        }
        s.must_equal(total, wanted, 'a loop over grad')

    def run(xs: Any) -> Any:
        return learner.etrace_grad(
            xs, step_fn=lambda x: loss_of(learner(x)), reduction='sum', chunk_size=1
        )

    probe.restart(learner)
    jitted: Any = brainstate.transform.jit(run)
    s.must_equal(jitted(probe.xs), wanted, 'under jit')
    return 'grad, jit and scan agree'


def mapped(s: Subject) -> str:
    """A learner that runs by vmap adds up its samples as one with a batch axis does."""
    xs = probe_of(MAIN).xs
    make = next(case.make for case in CASES if case.name == MAIN)
    probe = Probe(make(), xs)
    learner = probe.vmapped(s.algorithm, **s.options)
    found = probe.online(learner)
    if has_keys(_trace(learner)):
        return 'runs; its samples have random keys of their own'
    worst = s.must_equal(found, s.online(MAIN), 'by vmap')
    return f'equal to the batch of {BATCH}, up to {worst:.0e}'


def linear(s: Subject) -> str:
    """The gradient of twice a loss is twice the gradient."""
    probe, learner = probe_of(MAIN), s.learner(MAIN)
    weights = jnp.asarray([1.0, 2.0, -1.0, 0.5, 3.0])
    found = probe.online(learner, weights)
    parts = [
        probe.online(learner, jnp.where(jnp.arange(STEPS) == t, 1.0, 0.0)) for t in range(STEPS)
    ]
    total = {
        path: jax.tree.map(
            lambda *g: sum(w * x for w, x in zip(weights, g, strict=True)),
            *(p[path] for p in parts),
        )
        for path in found
    }
    s.must_equal(found, total, 'a weighted sum of losses')
    return 'gradients add up as losses do'


def windows(s: Subject) -> str:
    """Windows of steps give the gradient and the trace of steps; the last window is shorter."""
    for case in s.cases():
        found, wanted = s.online(case.name, chunk=3), s.online(case.name)
        s.must_equal(found, wanted, case.name)
    learner, probe = s.learner(MAIN), probe_of(MAIN)
    traces = []
    for chunk in (1, 3):
        probe.online(learner, chunk_size=chunk)
        traces.append(_plain(_trace(learner)))
    if distance(traces[1], traces[0]) > 1e-9:
        raise Broken('the trace after windows is another one than after steps')
    return 'equal to steps, with a shorter last window'


def reset(s: Subject) -> str:
    """`reset_state` brings the trace back to its beginning."""
    learner, probe = s.learner(MAIN), probe_of(MAIN)
    probe.restart(learner)
    start = _plain(_trace(learner))
    learner(probe.xs[0])
    learner.reset_state(BATCH)
    if distance(_plain(_trace(learner)), start) > 0:
        raise Broken('the trace after reset_state is not that of the beginning')
    return 'the trace begins anew'


def checkpoint(s: Subject) -> str:
    """Stored as bytes in the middle of a sequence and loaded again, a learner goes on the same."""
    probe, learner = probe_of(MAIN), s.learner(MAIN)
    half = STEPS // 2

    def step(x: Any) -> Any:
        return loss_of(learner(x))

    def rest() -> Any:
        return learner.etrace_grad(probe.xs[half:], step_fn=step, chunk_size=1)

    probe.restart(learner)
    learner.etrace_grad(probe.xs[:half], step_fn=step, chunk_size=1)
    leaves, tree = jax.tree.flatten(_trace(learner))
    states = {p: state.value for p, state in learner.executor.states.items()}
    stored = pickle.dumps([np.asarray(x) for x in jax.tree.leaves(_plain(leaves))])
    wanted = rest()
    probe.restart(learner)
    for path, state in learner.executor.states.items():
        state.value = states[path]
    loaded = [
        jax.random.wrap_key_data(jnp.asarray(x)) if _is_key(old) else jnp.asarray(x)
        for x, old in zip(pickle.loads(stored), leaves, strict=True)
    ]
    if learner.etrace is not None:
        learner.etrace.value = tree.unflatten(loaded)
    s.must_equal(rest(), wanted, 'after loading', slack=0)
    return 'goes on bit by bit'


def refusal(s: Subject) -> str:
    """Graphs of other kinds are learned, with exact single steps, or refused in words."""
    worked, refused = [], []
    for name, make in ODD.items():
        try:
            learner = make_learner(model := make(), s.algorithm, dict(s.options))
            brainstate.nn.init_all_states(model, BATCH)
            learner.compile_graph(probe_of(MAIN).xs[0])
            probe = Probe(model, probe_of(MAIN).xs)
            found = probe.online(probe.another(s.algorithm, **s.options), probe.first)
        except (CompilationError, NotSupportedError, ValueError) as error:
            if len(str(error).split()) < 5:
                raise Broken(f'{name}: refused without a reason: {error!r}') from error
            refused.append(name)
            continue
        except Exception as error:
            raise Broken(f'{name}: {type(error).__name__}: {_first_line(error)}') from error
        if s.exact_at_one_step:
            s.must_equal(found, probe.backpropagated(probe.first), name)
        worked.append(name)
    return f'learned: {", ".join(worked) or "none"}; refused: {", ".join(refused) or "none"}'


# ---------------------------------------------------------------- helpers


def _trace(learner: Any) -> Any:
    return None if learner.etrace is None else learner.etrace.value


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(trace: Any) -> Any:
    """Random keys as numbers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, trace)


def _described(learner: Any) -> tuple[str, Any]:
    leaves, tree = jax.tree.flatten(_trace(learner))
    shapes = [(x.shape, str(x.dtype)) for x in leaves]
    return f'{len(leaves)} arrays {sorted({d for _, d in shapes})}', (tree, shapes)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class _NoTrace(LeakyIntegrator):
    """Nothing that is marked drives a state."""

    def update(self, x: Any) -> Any:
        self.h.value = 0.5 * self.h.value + x @ self.w.value + self.b.value
        return self.read(self.h.value)


class _Loop(LeakyIntegrator):
    """An operation inside a loop of the step."""

    def update(self, x: Any) -> Any:
        def body(h: Any, gain: Any) -> tuple[Any, None]:
            return 0.8 * h + matmul(gain * x, self.w.value), None

        self.h.value = jax.lax.scan(body, self.h.value, jnp.linspace(0, 1, 20))[0]
        return self.read(self.h.value)


class _Scalars(LeakyIntegrator):
    """Parameters of single positions alone."""

    def update(self, x: Any) -> Any:
        gain = jax.nn.sigmoid(element_wise(self.b.value))
        self.h.value = gain * self.h.value + jnp.sum(x, axis=-1, keepdims=True)
        return self.read(self.h.value)


ODD = {'no trace': _NoTrace, 'a loop': _Loop, 'single numbers': _Scalars}

#: Name and question, in the order of a report card.
ALWAYS = {
    'one step': one_step,
    'stable trace': stable_trace,
    'precision': precision,
    'repeatable': pure,
    'compiled once': compiled_once,
    'transformations': transformed,
    'vmap': mapped,
    'linear': linear,
    'windows': windows,
    'reset': reset,
    'checkpoint': checkpoint,
    'other graphs': refusal,
}
