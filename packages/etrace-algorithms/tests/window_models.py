"""Everything that `etrace_grad` gives and leaves behind, window by window and step by step."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

import etrace_algorithms as ea
from etrace_algorithms.algebra import outer
from etrace_algorithms.rule import LearningRule
from etrace_algorithms.rules import credit_traces, zero_traces
from etrace_algorithms.testing import PlainRNN
from etrace_compiler import CompilationWarning, matmul

from .measured import parameter, values

BATCH = 2
LEARNERS = {
    'd_rtrl': {},
    'd_rtrl_literal': {'fast_solve': False},
    'pp_prop': {'decay_or_rank': 0.6},
    'pp_prop_literal': {'decay_or_rank': 0.6, 'fast_solve': False},
    'immediate': {},
}


def inputs(steps, *, batch=BATCH, seed=7):
    """A sequence for models of three inputs."""
    return values(steps, batch, 3, seed=seed, scale=1.0)


def loss(y):
    return jnp.sum(y**2 + jnp.sin(y))


def ready(model, name='d_rtrl', *, x=None, **options):
    """A learner that is compiled; a name of `LEARNERS` says its options."""
    options = {**LEARNERS.get(name, {}), **options} if isinstance(name, str) else options
    name = name.removesuffix('_literal') if isinstance(name, str) else name
    x = inputs(1)[0] if x is None else x
    return ea.compile(model, name, x, batch_size=BATCH, seed=0, **options)


# ---------------------------------------------------------------- comparing


def outcome(learner, *sequences, step_fn, beside=(), **options):
    """What `etrace_grad` returns, and all states after it; the states are set back.

    Args:
        learner: A learner.
        *sequences: Passed on.
        step_fn: Passed on.
        beside: States outside the learner that `step_fn` uses.
        **options: Passed on.
    """
    states = [*learner.states().values(), *beside, brainstate.random.DEFAULT]
    kept = [state.value for state in states]
    trace = jax.tree.map(jnp.copy, learner.etrace.value)  # the next one may take its memory
    brainstate.random.seed(3)
    found = learner.etrace_grad(*sequences, step_fn=step_fn, return_value=True, **options)
    after = [state.value for state in states]
    for state, value in zip(states, kept, strict=True):
        state.value = value
    learner.etrace.value = trace
    return found, after


def assert_same(actual, expected, rtol=1e-9):
    """Structure (units too), dtypes and values agree, array by array."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        exact = not jnp.issubdtype(a.dtype, jnp.inexact)
        a, b = (np.asarray(x if exact else x.astype(_wide(x.dtype))) for x in (a, b))
        assert exact or np.isfinite(b).all()
        size = 0 if exact else float(np.max(np.abs(b), initial=0))
        np.testing.assert_allclose(a, b, rtol=0 if exact else rtol, atol=rtol * size)


def _wide(dtype):
    return jnp.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.float64


def check_windows(learner, *sequences, step_fn, chunks: Sequence[Any] = (2,), rtol=1e-9, **options):
    """Windows give what steps give, and they are windows: nothing is said of falling back."""
    expected = outcome(learner, *sequences, step_fn=step_fn, chunk_size=1, **options)
    for chunk in chunks:
        with warnings.catch_warnings():
            warnings.simplefilter('error', CompilationWarning)
            found = outcome(learner, *sequences, step_fn=step_fn, chunk_size=chunk, **options)
        assert_same(found, expected, rtol)
    return expected


# ---------------------------------------------------------------- models and rules


class Residual(PlainRNN):
    """Its output reads the old state beside the new one; `W` alone drives the state."""

    def update(self, x):
        old = self.h.value
        return super().update(x) + self.read(jnp.sin(old))


class Rich(PlainRNN):
    """Random inputs, running statistics, and a second layer, of its own shape."""

    hidden = ('h', 'g')

    def __init__(self):
        super().__init__()
        self.mean = brainstate.LongTermState(jnp.zeros(4))
        self.v = parameter(2, 4, seed=31)

    def update(self, x):
        kept = brainstate.random.bernoulli(0.7, x.shape)
        below = super().update(x * kept)
        self.g.value = 0.8 * self.g.value + matmul(jnp.tanh(below), self.v.value)
        self.mean.value = 0.9 * self.mean.value + 0.1 * self.g.value.mean(0)
        return self.g.value - self.mean.value


class Everything:
    """A step function of two sequences with all that a training script puts into it."""

    def __init__(self, learner):
        self.learner = learner
        self.readout, self.bias = parameter(4, 2, seed=41), parameter(2, seed=42)
        self.unused = parameter(3, seed=43)
        self.leaky = brainstate.HiddenState(jnp.ones((BATCH, 2)))
        self.seen = brainstate.ShortTermState(0)

    @property
    def own(self):
        return {'readout': self.readout, 'rest': [self.bias, self.unused]}

    @property
    def beside(self):
        return [self.readout, self.bias, self.unused, self.leaky, self.seen]

    def __call__(self, x, target):
        model = self.learner.model
        before = model.h.value
        out = self.learner(x)
        kept = brainstate.random.bernoulli(0.5, out.shape)
        self.leaky.value = 0.7 * self.leaky.value + (out * kept) @ self.readout.value
        self.seen.value = self.seen.value + 1
        error = jnp.sum((self.leaky.value + self.bias.value - target) ** 2, axis=-1)
        rates = 0.1 * jnp.sum(model.h.value**2 + (model.g.value - before) ** 2, axis=-1)
        decay = 0.01 * (jnp.sum(model.w.value**2) + jnp.sum(self.readout.value**4))
        return error + rates + decay, {'out': out, 'seen': self.seen.value}


@dataclass(frozen=True)
class Forgetful(LearningRule):
    """A rule of three functions alone: a trace with a fixed leak."""

    leak: float = 0.7

    def init(self, graph):
        return zero_traces(graph)

    def update(self, trace, lin):
        drive = {r.key: tuple(outer(f, lin.x[r.key], r.substeps) for f in lin.f[r.key])
                 for r in lin.relations}  # fmt: skip
        return jax.tree.map(lambda old, new: self.leak * old + new, trace, drive)

    def credit(self, trace, signal):
        return credit_traces(trace, signal)


@dataclass(frozen=True)
class Complete(LearningRule):
    """Real-time recurrent learning with complete Jacobians, for operations that run once.

    The trace of a relation has, per group, one column of `(*varshape, S)` per weight.
    """

    transposed: bool = False

    def init(self, graph):
        return {
            r.key: tuple(
                jnp.zeros((*g.varshape, g.num_state, *r.block_shape[1:]), g.dtype)
                for g in graph.hidden_groups
            )
            for r in graph.hidden_param_op_relations
        }

    def update(self, trace, lin):
        return {r.key: self._advance(trace[r.key], lin, r) for r in lin.relations}

    def _advance(self, old, lin, r):
        shape = r.block_shape[1:]
        columns = tuple(t.reshape((*t.shape[:-3], -1)) for t in old)
        carried = jax.vmap(lambda v: self._carry(lin, v), in_axes=-1, out_axes=-1)(columns)
        found = [c.reshape((*c.shape[:-1], *shape)) for c in carried]
        heads, _, fan_out = shape
        for i, f in enumerate(lin.f[r.key]):
            group = r.hidden_groups[i]
            drive = jnp.einsum(
                'ghos,ghi,hk,op->ghoskip', f, lin.x[r.key], jnp.eye(heads), jnp.eye(fan_out)
            )
            flat = found[group.index].reshape((group.positions, group.num_state, *shape))
            flat = flat.at[r.positions[i]].add(drive)
            found[group.index] = flat.reshape(found[group.index].shape)
        return tuple(found)

    def _carry(self, lin, tangents):
        if not self.transposed:
            return lin.jvp_h(tangents)
        return jax.linear_transpose(lin.vjp_h, lin.hidden)(tangents)[0]

    def credit(self, trace, signal):
        return {
            key: sum(
                jnp.einsum('n,nhio->hio', s.ravel(), t.reshape((s.size, *t.shape[-3:])))
                for s, t in zip(signal.values, parts, strict=True)
            )
            for key, parts in trace.items()
        }
