"""What the compiler says that a gradient is worth, against backpropagation on the model."""

import functools

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import etrace_algorithms as ea
from etrace_algorithms.testing import bptt_gradients, gradient_alignment, online_gradients
from etrace_compiler import DiagnosticKind, Verdict, element_wise, matmul

EXACT, WITHIN, APPROXIMATE, ZERO = (
    Verdict.EXACT,
    Verdict.WITHIN_LAYER,
    Verdict.APPROXIMATE,
    Verdict.ZERO,
)
K = DiagnosticKind


def values(*shape, seed, scale=0.5):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale)


#: Models, each with the verdicts that its weights are to have in `expected`.
MODELS = []


def judged(**expected):
    def add(model):
        model.expected = expected
        MODELS.append(model)
        return model

    return add


class Model(brainstate.nn.Module):
    """Two input weights, two square ones; states `h` and `k`, and one that is not hidden."""

    def __init__(self):
        super().__init__()
        self.W, self.V = (brainstate.ParamState(values(3, 4, seed=s)) for s in (1, 2))
        self.R, self.Q = (brainstate.ParamState(values(4, 4, seed=s)) for s in (3, 4))
        self.a = brainstate.ParamState(values(4, seed=5))

    def init_state(self, batch_size=None):
        self.h, self.k = (brainstate.HiddenState(values(2, 4, seed=s)) for s in (6, 7))
        self.o = brainstate.ShortTermState(values(2, 4, seed=8))


@judged(W=EXACT, a=EXACT, R=EXACT, V=ZERO)
class Diagonal(Model):
    def update(self, x):
        leak = jax.nn.sigmoid(element_wise(self.a.value))
        self.h.value = leak * self.h.value + matmul(x, self.W.value)
        return self.h.value @ self.R.value


@judged(W=EXACT)
class Bypass(Model):
    """The old state acts on the output beside the new one, as a spike before the reset does."""

    def update(self, x):
        before = self.h.value
        self.h.value = 0.6 * before + jnp.tanh(matmul(x, self.W.value))
        return jnp.sin(before) * self.h.value + before**2


@judged(W=WITHIN, R=EXACT)
class Stack(Model):
    def update(self, x):
        self.h.value = 0.6 * self.h.value + matmul(x, self.W.value)
        self.k.value = 0.7 * self.k.value + matmul(jnp.tanh(self.h.value), self.R.value)
        return self.k.value


@judged(W=WITHIN, V=WITHIN, R=WITHIN, Q=WITHIN)
class BothWays(Model):
    """Each group feeds the other; neither comes back to itself within a step."""

    def update(self, x):
        h, k = self.h.value, self.k.value
        self.h.value = jnp.tanh(0.6 * h + matmul(x, self.W.value) + matmul(k, self.R.value))
        self.k.value = jnp.tanh(0.7 * k + matmul(x, self.V.value) + matmul(h, self.Q.value))
        return self.h.value + self.k.value


@judged(W=WITHIN, R=WITHIN, Q=APPROXIMATE)
class Sequential(Model):
    """The second group reads the new state of the first, which reads the old of the second."""

    def update(self, x):
        drive = matmul(x, self.W.value) + matmul(self.k.value, self.R.value)
        self.h.value = 0.6 * self.h.value + jnp.tanh(drive)
        self.k.value = 0.7 * self.k.value + matmul(self.h.value, self.Q.value)
        return self.h.value * self.k.value


@judged(W=APPROXIMATE, R=APPROXIMATE)
class Recurrent(Model):
    def update(self, x):
        self.h.value = jnp.tanh(matmul(x, self.W.value) + matmul(self.h.value, self.R.value))
        return self.h.value


@judged(W=APPROXIMATE)
class Tied(Model):
    """One weight in two operations, of which one is followed and the other mixes on its way."""

    def update(self, x):
        mixed = matmul(x**2, self.W.value).mean(axis=-1, keepdims=True)
        self.h.value = 0.6 * self.h.value + matmul(x, self.W.value) * mixed
        return self.h.value


@judged(W=APPROXIMATE)
class ExactAndCut(Model):
    """One weight that drives one group position by position, and another through a mean."""

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.6 * self.h.value + y
        self.k.value = 0.7 * self.k.value + jnp.sin(y).mean(axis=-1, keepdims=True)
        return self.h.value * self.k.value


@judged(W=APPROXIMATE, V=EXACT)
class Unmarked(Model):
    def update(self, x):
        self.h.value = 0.6 * self.h.value + x @ self.W.value + matmul(x, self.V.value)
        return self.h.value


@judged(R=APPROXIMATE, W=EXACT)
class DataInWeight(Model):
    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.6 * self.h.value + y + matmul(x @ self.V.value, self.R.value * x[0, 0])
        return self.h.value


@judged(W=APPROXIMATE, R=EXACT)
class WeightToWeight(Model):
    def update(self, x):
        self.h.value = 0.6 * self.h.value + matmul(jnp.tanh(matmul(x, self.W.value)), self.R.value)
        return self.h.value


@judged(W=APPROXIMATE)
class Neighbours(Model):
    def update(self, x):
        h = self.h.value
        self.h.value = 0.6 * h + 0.3 * jnp.roll(h, 1, axis=-1) + matmul(x, self.W.value)
        return self.h.value


@judged(W=APPROXIMATE)
class WeightToOther(Model):
    """A weight acts on a state that is not hidden, beside a hidden one."""

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.6 * self.h.value + y
        self.o.value = 0.8 * self.o.value + jnp.sin(y)
        return self.h.value * self.o.value


@judged(W=APPROXIMATE)
class GroupToOther(Model):
    """A hidden state acts on one that is not hidden, which acts on the hidden state."""

    def update(self, x):
        h, o = self.h.value, self.o.value
        self.h.value = 0.6 * h - 0.4 * jnp.tanh(o) + matmul(x, self.W.value)
        self.o.value = 0.8 * o + h
        return self.h.value


@judged(W=APPROXIMATE)
class OnlyOther(Model):
    """All that a weight does is kept in a state that is not hidden: it learns nothing."""

    def update(self, x):
        before = self.o.value
        self.o.value = 0.8 * before + matmul(x, self.W.value)
        return before @ self.R.value


@judged(W=APPROXIMATE)
class TwoOthers(Model):
    """The first is read by the second alone, and that by the output."""

    def init_state(self, batch_size=None):
        super().init_state(batch_size)
        self.second = brainstate.ShortTermState(values(2, 4, seed=9))

    def update(self, x):
        y = matmul(x, self.W.value)
        before, self.o.value = self.o.value, jnp.tanh(y)
        self.second.value = 0.5 * self.second.value + before
        self.h.value = 0.6 * self.h.value + y
        return self.h.value * self.second.value


@judged(W=EXACT)
class Monitor(Model):
    """A running mean that nothing reads costs nothing."""

    def update(self, x):
        self.h.value = 0.6 * self.h.value + matmul(x, self.W.value)
        self.o.value = 0.8 * self.o.value + 0.2 * self.h.value
        return self.h.value


@judged(W=EXACT)
class OtherWithoutPast(Model):
    """A state that is written and read within the step is a variable like any other."""

    def update(self, x):
        self.o.value = matmul(x, self.W.value)
        self.h.value = 0.6 * self.h.value + jnp.tanh(self.o.value)
        return self.h.value


@judged(W=EXACT)
class OtherOfInputs(Model):
    """A state of floats that no weight acts on."""

    def update(self, x):
        self.o.value = 0.8 * self.o.value + x[:, :1]
        self.h.value = 0.6 * self.h.value + matmul(x, self.W.value) * self.o.value
        return self.h.value


@judged(W=EXACT)
class OtherStopped(Model):
    def update(self, x):
        h = self.h.value
        self.o.value = 0.8 * self.o.value + 0.2 * jax.lax.stop_gradient(h)
        self.h.value = 0.6 * h + matmul(x, self.W.value) - self.o.value
        return self.h.value


@judged(W=EXACT)
class HiddenInteger(Model):
    def init_state(self, batch_size=None):
        super().init_state(batch_size)
        self.n = brainstate.HiddenState(jnp.zeros((2, 4), int))

    def update(self, x):
        self.h.value = 0.6 * self.h.value + matmul(x, self.W.value)
        self.n.value = self.n.value + (self.h.value > 0)
        return self.h.value * jnp.sin(0.3 * self.n.value)


@judged(R=EXACT, W=EXACT)
class HiddenWithoutPast(Model):
    """A hidden state that nothing reads in the next step: not marked, and yet complete."""

    def update(self, x):
        self.h.value = 0.6 * self.h.value + matmul(x, self.W.value)
        self.k.value = jnp.tanh(self.h.value @ self.R.value)
        return self.k.value


@judged(W=APPROXIMATE, R=EXACT)
class InFrontWithoutPast(Model):
    """The group in front has no past, so that no old state of it feeds the other one."""

    def update(self, x):
        self.h.value = jnp.tanh(matmul(x, self.W.value))
        self.k.value = 0.7 * self.k.value + matmul(self.h.value, self.R.value)
        return self.k.value


@judged(W=EXACT)
class Around(Model):
    """A group comes back to itself through another of another shape, within one step."""

    def init_state(self, batch_size=None):
        super().init_state(batch_size)
        self.m = brainstate.HiddenState(values(2, 4, 1, seed=9))

    def update(self, x):
        self.m.value = 0.7 * self.h.value[..., None]
        self.h.value = (
            0.3 * self.h.value + matmul(x, self.W.value) + 0.4 * jnp.tanh(self.m.value[..., 0])
        )
        return self.h.value


@judged(W=EXACT)
class SideBySide(Model):
    """One operation drives two groups, both without loss."""

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.6 * self.h.value + y
        self.k.value = 0.9 * self.k.value + jnp.sin(y[:, ::-1])
        return self.h.value * self.k.value


@judged(p=APPROXIMATE, R=EXACT)
class Pytree(Model):
    """A parameter of which one part is followed, another is not marked, and one is not used."""

    def __init__(self):
        super().__init__()
        self.p = brainstate.ParamState(
            {'w': values(3, 4, seed=1), 'b': values(4, seed=2), 'c': values(4, seed=3)}
        )

    def update(self, x):
        p = self.p.value
        self.h.value = 0.6 * self.h.value + matmul(x, p['w']) * jnp.tanh(p['b'])
        return self.h.value @ self.R.value


@jax.custom_vjp
def clipped(x):
    """The value, with a gradient that is clipped: not linear."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.3, 0.3),))


@jax.custom_vjp
def centred(x):
    """A function of every position alone, with a gradient that mixes them."""
    return jnp.sin(x)


centred.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (g - 0.5 * g.mean(-1, keepdims=True),))


@jax.custom_vjp
def straight(x):
    """Signs, with the gradient of the identity."""
    return jnp.sign(x)


straight.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))


@jax.custom_jvp
def shrunk(z):
    """Shorten a complex number; its modulus is hidden in a rule."""
    return z * jnp.tanh(jnp.abs(z))


@shrunk.defjvp
def _(primals, tangents):
    return jax.jvp(lambda z: z * jnp.tanh(jnp.abs(z)), primals, tangents)


@judged(W=APPROXIMATE)
class ClippedState(Model):
    def update(self, x):
        self.h.value = clipped(0.6 * self.h.value) + matmul(x, self.W.value)
        return self.h.value


@judged(W=APPROXIMATE)
class CentredDrive(Model):
    def update(self, x):
        self.h.value = 0.6 * self.h.value + centred(matmul(x, self.W.value))
        return self.h.value


@judged(W=APPROXIMATE, V=EXACT)
class ClippedWeight(Model):
    def update(self, x):
        drive = matmul(x, clipped(self.W.value)) + matmul(x, straight(self.V.value))
        self.h.value = 0.6 * self.h.value + drive
        return self.h.value


@judged(W=EXACT, R=EXACT)
class ClippedOutput(Model):
    """What does not come back to a state is not summed over losses."""

    def update(self, x):
        self.h.value = straight(0.6 * self.h.value) + jax.nn.softplus(matmul(x, self.W.value))
        return clipped(self.h.value @ clipped(self.R.value))


@judged(W=APPROXIMATE)
class ComplexRule(Model):
    def init_state(self, batch_size=None):
        self.z = brainstate.HiddenState(values(2, 4, seed=6) * (1 + 0.5j))

    def update(self, x):
        self.z.value = shrunk(self.z.value) + (1 + 2j) * matmul(x, self.W.value)
        return self.z.value.real + self.z.value.imag


def loss(y):
    return jnp.sum(jnp.sin(y))


@functools.cache
def measure(model, steps=5):
    """Return the graph, and per parameter key the online gradient and that of BPTT."""
    model = model()
    xs = values(steps, 2, 3, seed=10, scale=1.5)
    learner = ea.compile(model, 'd_rtrl', xs[0], batch_size=2)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    actual = online_gradients(learner, xs, loss=loss)
    return learner.graph, {'.'.join(path): (actual[path], expected[path]) for path in expected}


@pytest.mark.parametrize('model', MODELS)
def test_the_verdict_is_what_is_measured(model):
    graph, measured = measure(model)
    for key, verdict in model.expected.items():
        actual, expected = measured[key]
        assert graph.exactness[key].verdict is verdict, key
        a, b = ({('w',): g} for g in (actual, expected))
        if verdict is ZERO:
            assert not np.any(actual)
            assert not np.any(expected)
            continue
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0, key
        cosine, ratio = gradient_alignment(a, b)
        is_bptt = abs(cosine - 1) < 1e-9 and abs(ratio - 1) < 1e-9
        assert is_bptt is (verdict is EXACT), (key, cosine, ratio)


@pytest.mark.parametrize('model', MODELS)
def test_one_step_is_complete_whatever_the_verdict(model):
    _, measured = measure(model, steps=1)
    for actual, expected in measured.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), actual, expected)


@pytest.mark.parametrize('model', MODELS)
def test_a_weight_that_loses_something_says_what(model):
    graph, _ = measure(model, steps=1)
    for weight in graph.exactness.values():
        assert bool(weight.dropped) is (weight.verdict in (WITHIN, APPROXIMATE))
        assert {d for g in weight.groups for d in g.dropped} <= set(weight.dropped)
        for dropped in weight.dropped:
            assert dropped.message
            assert dropped.source.file == __file__


@pytest.mark.parametrize(
    ('model', 'key', 'groups'),
    [
        (ExactAndCut, 'W', [EXACT, APPROXIMATE]),
        (SideBySide, 'W', [EXACT, EXACT]),
        (Stack, 'W', [WITHIN]),
        (Stack, 'R', [EXACT]),
        (Tied, 'W', [APPROXIMATE]),
        (WeightToOther, 'W', [EXACT]),
        (GroupToOther, 'W', [APPROXIMATE]),
        (OnlyOther, 'W', []),
    ],
)
def test_verdicts_of_the_groups(model, key, groups):
    graph, _ = measure(model, steps=1)
    assert [g.verdict for g in graph.exactness[key].groups] == groups


@pytest.mark.parametrize(
    ('model', 'key', 'reason', 'primitive'),
    [
        (Stack, 'W', K.HISTORY_LEAVES_GROUP, 'tanh'),
        (Recurrent, 'R', K.RECURRENCE_CUT, 'etp_matmul'),
        (Tied, 'W', K.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT, 'reduce_sum'),
        (ExactAndCut, 'W', K.RELATION_PARTIAL_PATH, 'reduce_sum'),
        (Unmarked, 'W', K.PARAMETER_UNMARKED, 'dot_general'),
        (DataInWeight, 'R', K.TRAINABLE_INVAR_NOT_PARAMSTATE, 'etp_matmul'),
        (WeightToWeight, 'W', K.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT, 'etp_matmul'),
        (WeightToOther, 'W', K.STATE_NOT_HIDDEN, 'add'),
        (GroupToOther, 'W', K.STATE_NOT_HIDDEN, 'add'),
        (ClippedState, 'W', K.RECURRENCE_CUT, 'custom_vjp_call'),
        (ClippedWeight, 'W', K.UNKNOWN_PRIMITIVE, 'custom_vjp_call'),
        (ComplexRule, 'W', K.RECURRENCE_CUT, 'custom_jvp_call'),
    ],
)
def test_what_is_dropped_and_where(model, key, reason, primitive):
    graph, _ = measure(model, steps=1)
    assert (reason, primitive) in [(d.reason, d.primitive) for d in graph.exactness[key].dropped]


@pytest.mark.parametrize('model', MODELS)
def test_a_state_beside_the_groups_is_recorded_where_it_matters(model):
    graph, _ = measure(model, steps=1)
    found = [r.hidden_paths for r in graph.explain(kind=K.STATE_NOT_HIDDEN)]
    names = {WeightToOther: ['o'], GroupToOther: ['o'], OnlyOther: ['o'], TwoOthers: ['o']}
    assert found == [((name,),) for name in names.get(model, [])]


# ---------------------------------------------------------------- random models

SHAPE = (2, 4)


@jax.custom_jvp
def spike(v):
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _(primals, tangents):
    (v,), (t,) = primals, tangents
    return spike(v), t / (1 + 9 * v**2)


TAILS = {
    'tanh': jnp.tanh,
    'spike': spike,
    'roll': lambda a: jnp.roll(a, 1, axis=-1),
    'flip': lambda a: a[:, ::-1],
    'centre': lambda a: a - a.mean(axis=-1, keepdims=True),
    'shift': lambda a: jnp.pad(a, ((0, 0), (1, 0)))[:, :-1],
    'first two': lambda a: a.at[:, 2:].set(0.3),
    'silu': lambda a: jax.jit(jax.nn.silu)(a),
    'stopped': jax.lax.stop_gradient,
    'above the mean': lambda a: jnp.where(a > a.mean(), a, 0.1),
    'turned': lambda a: (a * (1 + 0.5j) * jnp.exp(1j * a)).real,
}

number = st.integers(0, 20)
instructions = st.one_of(
    st.tuples(st.just('tail'), number, st.sampled_from(sorted(TAILS))),
    *(
        st.tuples(st.just(verb), number, number)
        for verb in (
            'add', 'multiply', 'product', 'plain product', 'data in weight', 'gain', 'write',
            'read', 'leak', 'leak', 'leak', 'column', 'read column', 'turn', 'read turn', 'other',
            'read other', 'count', 'read count',
        )
    ),
)  # fmt: skip


class Scripted(brainstate.nn.Module):
    """A step that follows a list of instructions; the output shows every hidden state."""

    def __init__(self, script):
        super().__init__()
        self.script = script
        self.W = brainstate.ParamState(values(3, 4, seed=1))
        self.U = brainstate.ParamState(values(4, 4, seed=2))
        for i in range(3):
            setattr(self, f'P{i}', brainstate.ParamState(values(4, 4, seed=3 + i)))
            setattr(self, f'gain{i}', brainstate.ParamState(values(4, seed=6 + i)))

    def init_state(self, batch_size=None):
        for i in range(3):
            setattr(self, f'h{i}', brainstate.HiddenState(values(*SHAPE, seed=50 + i)))
        self.column = brainstate.HiddenState(values(*SHAPE, 1, seed=60))
        self.turn = brainstate.HiddenState(values(*SHAPE, seed=61) * (1 + 0.3j))
        self.other = brainstate.ShortTermState(values(*SHAPE, seed=62))
        self.count = brainstate.ShortTermState(jnp.zeros(SHAPE, int))

    def update(self, x):
        pool = [matmul(x, self.W.value), self.h0.value]
        for verb, a, b in self.script:
            p = pool[a % len(pool)]
            if verb == 'tail':
                pool.append(TAILS[b](p))
                continue
            h = getattr(self, f'h{b % 3}')
            q, weight = pool[b % len(pool)], getattr(self, f'P{b % 3}').value
            gain = jax.nn.sigmoid(element_wise(getattr(self, f'gain{b % 3}').value))
            if verb == 'write':
                h.value = p
            elif verb == 'leak':
                h.value = 0.6 * h.value + p
            elif verb == 'column':
                self.column.value = 0.5 * (b % 2) * self.column.value + jnp.sin(p)[..., None]
            elif verb == 'turn':
                self.turn.value = (0.5 + 0.2j) * self.turn.value + 1j * p
            elif verb == 'other':
                self.other.value = 0.5 * (b % 2) * self.other.value + p
            elif verb == 'count':
                self.count.value = self.count.value + (p > 0)
            else:
                made = {
                    'add': lambda p=p, q=q: p + q,
                    'multiply': lambda p=p, q=q: p * jnp.tanh(q),
                    'product': lambda p=p, w=weight: matmul(p, w),
                    'plain product': lambda p=p: p @ self.U.value,
                    'data in weight': lambda p=p: matmul(p, self.U.value * x.mean()),
                    'gain': lambda p=p, g=gain: g * p,
                    'read': lambda h=h: h.value,
                    'read column': lambda: jnp.cos(self.column.value[..., 0]),
                    'read turn': lambda: (self.turn.value * (1 - 0.2j)).real,
                    'read other': lambda: self.other.value,
                    'read count': lambda: jnp.sin(self.count.value.astype(x.dtype)),
                }
                pool.append(made[verb]())
        # so that there is always something to train
        self.h0.value = 0.5 * self.h0.value + jnp.tanh(pool[-1]) * jnp.sin(pool[0])
        states = (self.h0, self.h1, self.h2, self.column, self.turn)
        return pool[len(pool) // 2], *(state.value for state in states)


def check_random_model(script):
    xs = values(3, 2, 3, seed=99, scale=1.2)
    learner = ea.compile(Scripted(script), 'd_rtrl', xs[0])
    report = ea.check_gradients(learner, xs, tolerance=1e-7)
    assert report.ok, report
    for row in report.weights:
        if row.verdict is ZERO:
            assert row.online_norm == row.bptt_norm == 0


@given(st.lists(instructions, min_size=3, max_size=14))
@settings(max_examples=8)
def test_random_model(script):
    check_random_model(script)
