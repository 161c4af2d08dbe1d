"""What a rule may ask for beside the diagonal: old states, parameters, the output, random keys."""

from dataclasses import dataclass
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms
from etrace_algorithms import Exactness, LearningRule, check_gradients
from etrace_algorithms.rules import DiagonalRTRL, credit_traces, zero_traces
from etrace_algorithms.testing import (
    RecurrentLSTM,
    SpikingChain,
    assert_gradients_close,
    bptt_gradients,
    online_gradients,
)
from etrace_compiler import matmul

STEPS, BATCH = 6, 2


class Influence(LearningRule):
    """Real-time recurrent learning with dense matrices, one row per number of a state."""

    signal_at = 'old'
    credits = 'parameters'

    @property
    def exactness(self):
        return Exactness.EXACT

    def init(self, graph):
        params = {
            s.key: jax.tree.unflatten(s.treedef, [jnp.zeros(x.shape, x.dtype) for x in s.leaves])
            for s in graph.module_info.by_role('param')
        }
        return tuple(
            jax.tree.map(
                lambda p, g=g: jnp.zeros((*g.varshape, g.num_state, *p.shape), p.dtype), params
            )
            for g in graph.hidden_groups
        )

    def update(self, trace, lin):
        shapes = [h.shape for h in lin.hidden]
        sizes = np.cumsum([0, *(h.size for h in lin.hidden)])
        rows = jnp.eye(sizes[-1], dtype=lin.hidden[0].dtype)

        def split(row):
            return tuple(
                row[a:b].reshape(s) for a, b, s in zip(sizes, sizes[1:], shapes, strict=False)
            )

        hidden, now, _ = jax.vmap(lambda row: lin.vjp_step(split(row)))(rows)
        carried = [
            jax.tree.map(lambda e, h=h, s=s: jnp.tensordot(h, e, axes=len(s)), part)
            for h, s, part in zip(hidden, shapes, trace, strict=True)
        ]
        total = jax.tree.map(lambda *xs: sum(xs), now, *carried)
        return tuple(
            jax.tree.map(lambda m, a=a, b=b, s=s: m[a:b].reshape((*s, *m.shape[1:])), total)
            for a, b, s in zip(sizes, sizes[1:], shapes, strict=False)
        )

    def credit(self, trace, signal):
        found = [
            jax.tree.map(lambda e, s=s: jnp.tensordot(s, e, axes=s.ndim), part)
            for s, part in zip(signal.values, trace, strict=True)
        ]
        return jax.tree.map(lambda *xs: sum(xs), *found)


class TwoLayers(brainstate.nn.Module):
    """Two recurrent layers; the second has a weight that is not marked, and acts back."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(0)
        self.w = brainstate.ParamState(
            {'in': random.normal(size=(2, 3)), 'rec': random.normal(size=(3, 3)) / 2}
        )
        self.u = brainstate.ParamState(random.normal(size=(3, 3)) / 2)
        self.r = brainstate.ParamState(random.normal(size=(3, 3)) / 2)

    def init_state(self, batch_size=None):
        shape = (3,) if batch_size is None else (batch_size, 3)
        self.a = brainstate.HiddenState(jnp.zeros(shape))
        self.b = brainstate.HiddenState(jnp.zeros(shape))

    def reset_state(self, batch_size=None):
        self.a.value, self.b.value = jnp.zeros_like(self.a.value), jnp.zeros_like(self.b.value)

    def update(self, x):
        w = self.w.value
        drive = matmul(x, w['in']) + matmul(self.a.value, w['rec'])
        self.a.value = jnp.tanh(drive + 0.3 * self.b.value[..., ::-1])
        self.b.value = jnp.tanh(self.a.value @ self.u.value + matmul(self.b.value, self.r.value))
        return {'out': self.b.value, 'steps': jnp.arange(2)}


def loss(out):
    out = out['out'] if isinstance(out, dict) else out
    return jnp.sum(jnp.sin(out) + out**2)


def sequence(size, steps=STEPS):
    return jnp.asarray(np.random.default_rng(1).normal(size=(steps, BATCH, size)))


def learner_for(model, rule, size, **options):
    return etrace_algorithms.compile(
        model, rule, jnp.zeros((BATCH, size)), batch_size=BATCH, **options
    )


MODELS = {'two layers': (TwoLayers, 2), 'LSTM': (RecurrentLSTM, 3), 'spiking': (SpikingChain, 3)}


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('options', [{}, {'vmap': True}, {'vjp_method': 'multi-step'}], ids=str)
def test_the_whole_influence_is_backpropagation(name, options):
    """Signals at the old states and the complete trace: every parameter, marked or not."""
    make, size = MODELS[name]
    xs = sequence(size)
    learner = learner_for(make(), Influence(), size, **options)
    chunks = 1 if options else 4
    expected = bptt_gradients(learner_for(make(), 'd_rtrl', size).model, xs, loss=loss)
    found = online_gradients(learner, xs, loss=loss, chunk_size=chunks)
    assert_gradients_close(found, expected, rtol=1e-9)
    if not options:
        learner.reset_state(BATCH)
        assert_gradients_close(online_gradients(learner, xs, loss=loss, chunk_size=1), expected)
        assert check_gradients(learner, xs).ok


def test_a_wrong_influence_is_noticed():
    """The negative control: without the ways of the second layer it is no backpropagation."""

    class Half(Influence):
        def credit(self, trace, signal):
            return super().credit((trace[0], jax.tree.map(jnp.zeros_like, trace[1])), signal)

    learner = learner_for(TwoLayers(), Half(), 2)
    found = check_gradients(learner, sequence(2))
    assert not found.ok


def test_parameters_are_credited_at_old_states_alone():
    with pytest.raises(TypeError, match=r'ETA113'):

        class Wrong(Influence):
            signal_at = 'new'


# ---------------------------------------------------------------- the output


@dataclass(frozen=True)
class Broadcast(LearningRule):
    """What reaches the output goes to every unit alike."""

    reads_output = True
    exact_at_one_step = False

    def init(self, graph):
        return zero_traces(graph)

    def update(self, trace, lin):
        return DiagonalRTRL().update(trace, lin)

    def credit(self, trace, signal):
        return credit_traces(trace, signal)

    def gradient(self, before, after, lin, signal, bypass, direct):
        error = signal.output['out'] if isinstance(signal.output, dict) else signal.output
        error = jnp.sum(error, axis=-1)[..., None, None]
        values = tuple(jnp.broadcast_to(error, v.shape) for v in signal.values)
        return self.credit(after, etrace_algorithms.LearningSignal(signal.graph, values))


@pytest.mark.parametrize('options', [{}, {'vmap': True}], ids=str)
def test_a_rule_reads_what_reaches_the_output(options):
    """The rule of the sum: the readout's weights do not enter what the recurrent ones learn."""

    class Read(RecurrentLSTM):
        hidden = ('h',)

        def update(self, x):
            self.h.value = 0.5 * self.h.value + jnp.tanh(matmul(x, self.w.value))
            return {'out': self.read(self.h.value), 'count': jnp.arange(3)}

        def __init__(self):
            super().__init__(3, 4, 2)
            self.w = self.weight(3, 4)
            del self.b

    xs = sequence(3)
    model = Read()
    learner = learner_for(model, Broadcast(), 3, **options)
    found = {
        k: online_gradients(learner, xs, loss=loss, chunk_size=k)
        for k in (1, 4)
        if learner.reset_state(None if options else BATCH) is None
    }
    assert_gradients_close(found[4], found[1], rtol=1e-9)

    def surrogate(w, feedback):
        """The same model, whose output error comes back as a sum."""

        @jax.custom_vjp
        def read(h):
            return h @ model.readout.value

        read.defvjp(
            lambda h: (read(h), h), lambda h, g: (jnp.sum(g, -1, keepdims=True) * jnp.ones_like(h),)
        )
        h, total = jnp.zeros((BATCH, 4)), 0.0
        for x in xs:
            h = 0.5 * h + jnp.tanh(x @ w)
            total += loss(read(h) if feedback else h @ model.readout.value)
        return total

    expected = jax.grad(surrogate)(model.w.value, True)
    assert_gradients_close({('w',): found[1]['w',]}, {('w',): expected}, rtol=1e-9)
    plain = jax.grad(surrogate)(model.w.value, False)
    assert not np.allclose(expected, plain)


def test_the_output_is_given_to_those_alone_who_read_it():
    seen = []

    class Spy(Broadcast):
        reads_output = False

        def gradient(self, before, after, lin, signal, bypass, direct):
            seen.append(signal.output)
            return LearningRule.gradient(self, before, after, lin, signal, bypass, direct)

    online_gradients(learner_for(TwoLayers(), Spy(), 2), sequence(2), loss=loss, chunk_size=1)
    assert seen == [None]


# ---------------------------------------------------------------- random keys


@dataclass(frozen=True)
class Noisy(DiagonalRTRL):
    """Carries a key, and scales the trace with noise from it."""

    seed: int = 0

    def init(self, graph):
        return jax.random.key(self.seed), super().init(graph)

    def update(self, trace, lin):
        key, inner = trace
        key, now = jax.random.split(key)
        noise = 1 + 0.5 * jax.random.normal(now)
        return key, jax.tree.map(lambda e: noise * e, super().update(inner, lin))

    def credit(self, trace, signal):
        return super().credit(trace[1], signal)

    def gradient(self, *args: Any):
        return LearningRule.gradient(self, *args)

    def history(self, *args: Any):
        return LearningRule.history(self, *args)

    def window(self, *args: Any):
        return LearningRule.window(self, *args)


def test_a_trace_holds_a_random_key():
    xs = sequence(3)
    learner = learner_for(SpikingChain(), Noisy(seed=3), 3)
    first = online_gradients(learner, xs, loss=loss, chunk_size=1)
    learner.reset_state(BATCH)
    assert_gradients_close(online_gradients(learner, xs, loss=loss, chunk_size=3), first)
    other = learner_for(SpikingChain(), Noisy(seed=4), 3)
    found = online_gradients(other, xs, loss=loss)
    assert not np.allclose(found['w',], first['w',])


def test_samples_of_a_batch_have_keys_of_their_own():
    learner = learner_for(SpikingChain(), Noisy(), 3, vmap=True)
    keys = jax.random.key_data(learner.etrace.value[0])
    assert keys.shape[0] == BATCH
    assert (keys[0] != keys[1]).any()
    online_gradients(learner, sequence(3), loss=loss)
    keys = jax.random.key_data(learner.etrace.value[0])
    assert (keys[0] != keys[1]).any()
