"""Passes over a trace: sums over many samples, and windows that go sample by sample."""

from dataclasses import dataclass, replace

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import etrace_algorithms as ea
import etrace_nn
from etrace_algorithms import rules
from etrace_algorithms.algebra import (
    Pattern,
    advance,
    contract,
    passes,
    read_and_advance,
)
from etrace_algorithms.rule import LearningRule
from etrace_compiler import matmul, transition_pattern

from . import measured
from .test_windows import ZOO, plainly
from .window_models import LEARNERS, Residual, check_windows, inputs, outcome, ready

KEYS = jax.random.split(jax.random.key(0), 5)


@pytest.fixture(autouse=True)
def whatever_the_number_of_cores(monkeypatch):
    monkeypatch.setattr(passes, '_CORES', 2**10)


def normal(key, shape, dtype=jnp.float64):
    return jax.random.normal(KEYS[key], shape, dtype)


# ---------------------------------------------------------------- sums over samples


@pytest.mark.parametrize('states', [1, 2])
@pytest.mark.parametrize('batch', [1, 32, 33, 48, 70])
@pytest.mark.parametrize('dtype', [jnp.float64, jnp.complex128])
def test_a_contraction_is_a_sum_over_samples_and_states(batch, states, dtype):
    """Written out, in blocks, and in blocks with a rest."""
    signal = normal(0, (batch, 2, 5, states), dtype)
    trace = tuple(normal(1, (states, batch, 2, 3, 5), dtype))
    expected = jnp.einsum('ghos,sghio->hio', signal, jnp.stack(trace))
    for found in (contract(signal, trace), jax.jit(contract)(signal, trace)):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    mapped = jax.vmap(contract)(signal[None], tuple(e[None] for e in trace))
    np.testing.assert_allclose(mapped[0], expected, rtol=1e-12, atol=1e-12)


def test_a_contraction_of_many_samples_has_the_wider_dtype():
    trace = (normal(1, (40, 1, 3, 5), jnp.bfloat16),)
    assert contract(normal(0, (40, 1, 5, 1), jnp.float32), trace).dtype == jnp.float32


# ---------------------------------------------------------------- a window's pass


def literal(trace, signal, diagonal, f, x):
    """What `read_and_advance` says."""
    read = jnp.einsum('ghos,sghio->hio', signal, jnp.stack(trace))
    new = jnp.einsum('kghos,kghi->sghio', f, x)
    new += jnp.einsum('ghort,tghio->rghio', diagonal, jnp.stack(trace))
    return read, tuple(new)


SPARSE = {
    'neuron and synapse': ([[1, 1], [0, 1]], [1, 1]),
    'threshold': ([[1, 1, 1], [1, 1, 0], [0, 0, 1]], [1, 0, 1]),
    'a state that nothing reaches': ([[1, 0], [0, 0]], [1, 0]),
    'drives alone': ([[0, 1], [0, 1]], [1, 0]),
}


def pattern_named(name):
    return Pattern(*(np.array(part, bool) for part in SPARSE[name]))


@pytest.mark.parametrize('name', SPARSE)
@pytest.mark.parametrize('steps', [1, 6])
@pytest.mark.parametrize('large', [0, 2**30], ids=['by sample', 'at once'])
def test_what_a_pattern_leaves_out_counts_for_nothing(name, steps, large, monkeypatch):
    """Numbers where a pattern has zeros are not looked at."""
    monkeypatch.setattr(passes, '_LARGE', large)
    pattern = pattern_named(name)
    states = len(pattern.drives)
    trace = tuple(normal(0, (states, 3, 2, 4, 5)))
    signal, diagonal, f, x = (
        normal(1, (3, 2, 5, states)),
        normal(2, (3, 2, 5, states, states)),
        normal(3, (steps, 3, 2, 5, states)),
        normal(4, (steps, 3, 2, 4)),
    )
    zeros = jnp.where(pattern.carries, diagonal, 0), jnp.where(pattern.drives, f, 0), x
    expected = jax.tree.leaves(literal(trace, signal, *zeros))
    found = jax.tree.leaves(read_and_advance(trace, signal, diagonal, f, x, pattern))
    found += advance(trace, diagonal, f, x, pattern)
    for a, b in zip(found, [*expected, *expected[1:]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda s: st.tuples(
    st.lists(st.lists(st.booleans(), min_size=s, max_size=s), min_size=s, max_size=s),
    st.lists(st.booleans(), min_size=s, max_size=s))))  # fmt: skip
def test_the_pattern_of_several_steps_has_room_for_all_products(drawn):
    """Whatever the values, and for every number of steps from one on."""
    pattern = Pattern(*map(np.array, drawn))
    several = pattern.over_steps()
    rng = np.random.default_rng(0)
    product, f = np.eye(len(pattern.drives)), np.zeros(len(pattern.drives))
    for _ in range(len(pattern.drives) + 2):
        diagonal = rng.uniform(1, 2, pattern.carries.shape) * pattern.carries
        product = diagonal @ product
        f = diagonal @ f + rng.uniform(1, 2, f.shape) * pattern.drives
        assert not product[~several.carries].any()
        assert not f[~several.drives].any()
    assert sorted(pattern.order) == list(range(len(f)))


def test_a_state_is_written_when_no_other_wants_its_old_value():
    assert pattern_named('neuron and synapse').order == [0, 1]
    chain = Pattern(np.tri(3, dtype=bool), np.ones(3, bool))
    assert chain.order == [2, 1, 0]


@pytest.mark.parametrize('large', [0, 2**30], ids=['by sample', 'at once'])
@pytest.mark.parametrize('states', [1, 2])
@pytest.mark.parametrize('dtype', [jnp.float64, jnp.complex128])
def test_reading_and_carrying(large, states, dtype, monkeypatch):
    monkeypatch.setattr(passes, '_LARGE', large)
    trace = tuple(normal(0, (states, 3, 2, 4, 5), dtype))
    given = (
        normal(1, (3, 2, 5, states), dtype),
        normal(2, (3, 2, 5, states, states), dtype),
        normal(3, (6, 3, 2, 5, states), dtype),
        normal(4, (6, 3, 2, 4)),
    )
    expected = jax.tree.leaves(literal(trace, *given))
    for run in (read_and_advance, jax.jit(lambda *args: read_and_advance(*args))):
        for a, b in zip(jax.tree.leaves(run(trace, *given)), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('large', [0, 2**30], ids=['by sample', 'at once'])
def test_a_trace_of_low_precision_stays_one(large, monkeypatch):
    monkeypatch.setattr(passes, '_LARGE', large)
    trace = tuple(normal(0, (1, 3, 1, 4, 5), jnp.bfloat16))
    given = (
        normal(1, (3, 1, 5, 1), jnp.float32),
        normal(2, (3, 1, 5, 1, 1), jnp.float32),
        normal(3, (6, 3, 1, 5, 1), jnp.float32),
        normal(4, (6, 3, 1, 4), jnp.float32),
    )
    read, (new,) = read_and_advance(trace, *given)
    assert (read.dtype, new.dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    'name', ['four_gates_reshaped', 'two_populations', 'stacked_states', 'ComplexDiagonal',
             'UnitNeurons', 'recurrent_substeps'],
)  # fmt: skip
def test_windows_that_go_sample_by_sample(name, monkeypatch):
    monkeypatch.setattr(passes, '_LARGE', 0)
    seen, by_sample = [], passes._by_sample
    monkeypatch.setattr(
        passes, '_by_sample', lambda *args, **kw: seen.append(0) or by_sample(*args, **kw)
    )
    learner = measured.compiled(ZOO[name], 'd_rtrl', None)
    check_windows(
        learner, ZOO[name].xs[:5], step_fn=lambda x: measured.loss(learner(x)), chunks=(2, 5)
    )
    assert seen


def test_many_cores_take_all_samples_at_once(monkeypatch):
    monkeypatch.setattr(passes, '_LARGE', 0)
    monkeypatch.setattr(passes, '_CORES', 4)
    monkeypatch.setattr(passes.os, 'cpu_count', lambda: 8)
    monkeypatch.setattr(passes, '_by_sample', lambda *args, **kw: pytest.fail('by sample'))
    learner = ready(Residual())
    check_windows(learner, inputs(4), step_fn=plainly(learner))


def test_control_a_sample_that_is_forgotten_is_found(monkeypatch):
    monkeypatch.setattr(passes, '_LARGE', 0)
    put = jax.lax.dynamic_update_slice_in_dim

    def forget_first(e, part, start_index, axis):
        return put(e, jnp.where(start_index == 0, 0, part), start_index, axis)

    monkeypatch.setattr(jax.lax, 'dynamic_update_slice_in_dim', forget_first)
    learner = ready(Residual())
    with pytest.raises(AssertionError, match='Not equal to tolerance'):
        check_windows(learner, inputs(4), step_fn=plainly(learner))


# ---------------------------------------------------------------- a single step's pass


class Neurons(brainstate.nn.Module):
    """Potentials, driven by synapses that sum their input up, and perhaps the other way round."""

    def __init__(self, *, coupled=False):
        super().__init__()
        self.coupled = coupled
        self.w = brainstate.ParamState(normal(0, (60, 50), jnp.float32))

    def init_state(self, batch_size=None):
        self.v, self.g = (
            brainstate.HiddenState(jnp.zeros((batch_size, 50), jnp.float32)) for _ in 'vg'
        )

    def update(self, x):
        back = 0.1 * jnp.sin(self.v.value) if self.coupled else 0.0
        self.g.value = 0.9 * self.g.value + matmul(x, self.w.value) + back
        self.v.value = 0.8 * self.v.value + jnp.tanh(self.g.value)
        return self.v.value


@pytest.mark.parametrize(
    ('model', 'copies'),
    [
        (etrace_nn.GRUCell(60, 50), 0),
        (Neurons(), 0),
        (Neurons(coupled=True), 1),
        (etrace_nn.LSTMCell(60, 50), 1),
    ],
    ids=['GRU', 'synapse', 'coupled', 'LSTM'],
)
def test_how_many_arrays_of_the_trace_single_steps_copy(model, copies):
    """What a compiled loop needs beside its arguments and results has room for no more."""
    x = jnp.ones((16, 60), jnp.float32)
    learner = ea.compile(model, 'd_rtrl', x, batch_size=16)
    found = learner.peak_memory(
        jnp.stack([x] * 3), step_fn=lambda x: measured.loss(learner(x)), chunk_size=1
    )
    largest = max(e.nbytes for e in jax.tree.leaves(learner.etrace.value))
    assert copies <= found.temporary / largest < copies + 0.5


@pytest.mark.parametrize('as_compiled', [False, True])
def test_values_that_a_rule_puts_into_d_count_unless_it_says_that_there_are_none(as_compiled):
    x = jnp.ones((2, 60), jnp.float32)
    learner = ea.compile(Neurons(), 'd_rtrl', x, batch_size=2)
    graph, states = learner.graph, learner.executor.state_values()
    lin = learner.executor.lineariser((x,), states)[2]
    trace = jax.tree.map(jnp.ones_like, rules.zero_traces(graph))
    found = rules.advance_traces(
        trace, replace(lin, D=tuple(d + 1 for d in lin.D)), as_compiled=as_compiled
    )
    plain = rules.advance_traces(trace, lin)
    (group,) = graph.hidden_groups
    many = transition_pattern(graph, group).sum(1) if as_compiled else [2, 2]
    ((new,), (old,)) = found['w'], plain['w']
    for a, b, entries in zip(new, old, many, strict=True):
        np.testing.assert_allclose(a - b, float(entries), rtol=1e-6)


# ---------------------------------------------------------------- a last window


@pytest.mark.parametrize('name', LEARNERS)
@pytest.mark.parametrize('chunk', [2, 3, 4])
def test_a_last_window_without_a_trace_has_the_same_gradient(name, chunk):
    learner = ready(Residual(), name)
    options = {'step_fn': plainly(learner), 'chunk_size': chunk}
    expected = outcome(learner, inputs(4), **options)[0]
    found = outcome(learner, inputs(4), carry_trace=False, **options)[0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@dataclass(frozen=True)
class OtherWindow(rules.DiagonalRTRL):
    def window(self, *args):
        return super().window(*args)


@dataclass(frozen=True)
class OtherUpdate(rules.DiagonalRTRL):
    def update(self, *args):
        return super().update(*args)


@dataclass(frozen=True)
class Both(rules.DiagonalRTRL):
    def window(self, *args):
        return super().window(*args)

    def window_gradient(self, *args):
        return super().window_gradient(*args)


def test_a_rule_with_a_window_of_its_own_takes_its_gradient_from_there():
    assert OtherWindow.window_gradient is LearningRule.window_gradient
    assert OtherUpdate.window is LearningRule.window
    assert OtherUpdate.window_gradient is LearningRule.window_gradient
    assert Both.window_gradient is not LearningRule.window_gradient
