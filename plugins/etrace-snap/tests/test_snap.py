"""SnAp-n and exact real-time recurrent learning against backpropagation."""

import functools

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms
import etrace_nn
from etrace_algorithms import MultiStepData
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    DIAGONAL_MODELS,
    RecurrentLSTM,
    assert_gradients_close,
    bptt_gradients,
    check_learner,
    conformance_tests,
    gradient_alignment,
    online_gradients,
)
from etrace_compiler import NotSupportedError, matmul
from etrace_snap import RTRL, SnAp

STEPS, BATCH, SIZE = 6, 2, 3


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update('jax_enable_x64', True)
    with brainstate.environ.context(precision=64):
        yield
    jax.config.update('jax_enable_x64', False)


def loss(y):
    return jnp.sum(jnp.real(jnp.sin(y) + y**2))


def sequence(size=SIZE, steps=STEPS, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, BATCH, size)))


def gradients(make, rule, xs=None, *, chunk=1, **options):
    """Return the online gradient, and that of backpropagation."""
    xs = sequence() if xs is None else xs
    learner = etrace_algorithms.compile(make(), rule, xs[0], batch_size=BATCH, seed=3, **options)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    return online_gradients(learner, xs, loss=loss, chunk_size=chunk), expected


class Wide(brainstate.nn.Module):
    """Layers of cells, and a readout."""

    def __init__(self, *kinds):
        super().__init__()
        self.cells = [kind(SIZE, SIZE) for kind in kinds]
        self.out = etrace_nn.Linear(SIZE, 2)

    def update(self, x):
        for cell in self.cells:
            x = cell(x)
        return self.out(x)


def seeded(make):
    """Make a model with the same weights each time."""

    def made():
        brainstate.random.seed(5)
        return make()

    return made


MODELS = {
    'vanilla': lambda: Wide(functools.partial(etrace_nn.ValinaRNNCell, activation='tanh')),
    'LSTM': RecurrentLSTM,
    'two layers': lambda: Wide(etrace_nn.GRUCell, etrace_nn.MinimalRNNCell),
    'complex': lambda: Wide(etrace_nn.LRUCell),
    'not marked': lambda: Wide(brainstate.nn.GRUCell),
}


@pytest.mark.parametrize('name', MODELS)
def test_everything_kept_is_backpropagation(name):
    """Two ways to the same matrix: whole columns, and kept entries row by row."""
    make = seeded(MODELS[name])
    exact, expected = gradients(make, RTRL())
    assert_gradients_close(exact, expected, rtol=1e-9)
    assert all(jnp.abs(g).max() > 1e-3 for g in jax.tree.leaves(expected))  # nothing is dead
    kept, _ = gradients(make, SnAp(n=9))
    assert_gradients_close(kept, expected, rtol=1e-9)


@pytest.mark.parametrize('make', DIAGONAL_MODELS[2:], ids=lambda make: make.__name__)
def test_the_nearest_is_enough_where_the_recurrence_is_diagonal(make):
    found, expected = gradients(make, SnAp(n=1))
    assert_gradients_close(found, expected, rtol=1e-9)
    diagonal, _ = gradients(make, 'd_rtrl')
    assert_gradients_close(found, diagonal, rtol=1e-9)


class Chain(brainstate.nn.Module):
    """Units that hear themselves and the one before; `masked` in the program, or not known."""

    def __init__(self, size=6):
        super().__init__()
        random = np.random.default_rng(0)
        self.mask = np.eye(size) + np.eye(size, k=1)
        self.w = brainstate.ParamState(jnp.asarray(random.normal(size=(size, size))))
        self.v = brainstate.ParamState(jnp.asarray(random.normal(size=(SIZE, size))))
        self.b = brainstate.ParamState(jnp.asarray(random.normal(size=size)))  # is not marked
        self.size = size

    def init_state(self, batch_size=None):
        shape = (self.size,) if batch_size is None else (batch_size, self.size)
        self.h = brainstate.HiddenState(jnp.zeros(shape))

    def reset_state(self, batch_size=None):
        self.h.value = jnp.zeros_like(self.h.value)

    def update(self, x):
        drive = matmul(self.h.value, 0.9 * self.w.value * self.mask) + matmul(x, self.v.value)
        self.h.value = jnp.tanh(drive + self.b.value)
        return self.h.value[..., -1:]


@functools.cache
def chain_gradients(steps):
    """The gradient of backpropagation of the chain."""
    model = Chain()
    brainstate.nn.init_all_states(model, BATCH)
    return bptt_gradients(model, sequence(steps=steps), loss=loss)


def influence_by_hand(model, xs, steps):
    """The masked recursion of one sample in NumPy, with a dense Jacobian."""
    size, w, v = model.size, *(np.asarray(s.value) for s in (model.w, model.v))
    w, h, hops = 0.9 * w * model.mask, np.zeros(model.size), np.eye(model.size)
    for _ in range(steps - 1):
        hops = hops @ model.mask
    m, total = np.zeros((size, SIZE, size)), np.zeros((SIZE, size))  # of `v` alone: state last
    for x in xs:
        new = np.tanh(h @ w + x @ v + np.asarray(model.b.value))
        slope = 1 - new**2
        signal = np.zeros(size)
        signal[-1] = np.cos(new[-1]) + 2 * new[-1]
        now = np.einsum('i,j,jk->kij', x, slope, np.eye(size))
        carried = np.einsum('kl,lij->kij', slope[:, None] * w.T, m)
        total += np.einsum('k,kij->ij', signal, carried + now)
        m = (hops.T[:, None, :] > 0) * (carried + now)
        h = new
    return total


@pytest.mark.parametrize('n', [1, 3])
def test_the_masked_recursion_written_out(n):
    xs = sequence()
    learner = etrace_algorithms.compile(Chain(), SnAp(n), xs[0], batch_size=BATCH)
    found = online_gradients(learner, xs, loss=loss, chunk_size=1)
    expected = sum(influence_by_hand(Chain(), xs[:, b], n) for b in range(BATCH))
    np.testing.assert_allclose(found[('v',)], expected, rtol=1e-9)


def test_more_steps_come_nearer_to_backpropagation():
    """What the inputs of the first units do to the last one, which alone is seen."""
    xs, far = sequence(steps=8), np.s_[:, :4]
    cosines, sizes = [], []
    for n in (1, 2, 3, 6):
        learner = etrace_algorithms.compile(Chain(), SnAp(n), xs[0], batch_size=BATCH)
        sizes.append(sum(m.size for m in jax.tree.leaves(learner.etrace.value)))
        found, expected = online_gradients(learner, xs, loss=loss, chunk_size=1), chain_gradients(8)
        cosines.append(gradient_alignment(*({0: g[('v',)][far]} for g in (found, expected)))[0])
    assert cosines == sorted(cosines)
    assert cosines[0] < 0.5
    assert cosines[-1] == pytest.approx(1, abs=1e-12)
    assert sizes == sorted(sizes)
    assert sizes[0] * 3 < sizes[-1]


def test_control_a_wrong_influence_is_noticed():
    class Forgetful(RTRL):
        def update(self, trace, lin):
            return super().update(jax.tree.map(jnp.zeros_like, trace), lin)

    found, expected = gradients(Chain, Forgetful())
    with pytest.raises(AssertionError, match='v'):
        assert_gradients_close(found, expected, rtol=1e-2)


test_conformance = conformance_tests('snap', level='quick', n=1)


def test_the_exact_learner_conforms():
    """In part: the same code runs it."""
    report = check_learner('rtrl', only=('declaration', 'precision', 'reset', 'exact'))
    assert report.ok, report.to_str()


def test_several_steps_in_one_call():
    """A call with `MultiStepData` is a window; two of them still are backpropagation."""
    xs = sequence()

    def total(learner):
        halves = xs.reshape((2, STEPS // 2, *xs.shape[1:]))
        return sum(loss(learner(MultiStepData(part))) for part in halves)

    learner = etrace_algorithms.compile(
        Chain(), RTRL(), xs[0], batch_size=BATCH, vjp_method='multi-step'
    )
    found = brainstate.transform.grad(lambda: total(learner), learner.param_states)()
    assert_gradients_close(found, chain_gradients(STEPS), rtol=1e-9)


def test_learners_are_found_by_name():
    assert get_learner('rtrl').load() is RTRL
    assert get_learner('etrace-snap:snap').load() is SnAp


def test_each_parameter_has_its_own_part_of_the_trace():
    learner = etrace_algorithms.compile(Chain(), RTRL(), sequence()[0], batch_size=BATCH)
    assert learner.get_etrace_of('b')['b'].shape == (BATCH * 6, 6)


@pytest.mark.parametrize('n', [0, -1, 1.5, True, '2'])
def test_a_number_of_steps_that_is_none_is_refused(n):
    with pytest.raises(
        ValueError, match=r'`n` is out of range: got .*; expected an integer from 1'
    ):
        SnAp(n)


def test_a_pattern_that_is_too_large_is_refused():
    """Nothing is computed: neither by `compile` nor by a plan of all learners."""
    model = etrace_nn.GRUCell(8, 256)
    x = jax.ShapeDtypeStruct((64, 8), float)
    plan = etrace_algorithms.memory_plan(model, x, batch_size=64, learners=('d_rtrl', 'rtrl'))
    assert plan['rtrl'].trace_bytes > 100 * plan['d_rtrl'].trace_bytes
    with pytest.raises(NotSupportedError, match=r'got .* positions; expected .*vmap.*SNAP102'):
        etrace_algorithms.memory_plan(model, x, batch_size=64, learners=('snap',))
