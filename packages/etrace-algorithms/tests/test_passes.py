"""Passes over a trace: sums over many samples, and windows that go sample by sample."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_algorithms import rules
from etrace_algorithms.algebra import carry, contract, passes, read_and_carry
from etrace_algorithms.rule import LearningRule

from . import measured
from .test_windows import ZOO, plainly
from .window_models import LEARNERS, Residual, check_windows, inputs, outcome, ready

KEYS = jax.random.split(jax.random.key(0), 5)


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
    """What `read_and_carry` says."""
    read = jnp.einsum('ghos,sghio->hio', signal, jnp.stack(trace))
    new = jnp.einsum('kghos,kghi->sghio', f, x) + jnp.stack(carry(diagonal, trace))
    return read, tuple(new)


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
    for run in (read_and_carry, jax.jit(lambda *args: read_and_carry(*args))):
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
    read, (new,) = read_and_carry(trace, *given)
    assert (read.dtype, new.dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    'name', ['four_gates_reshaped', 'two_populations', 'stacked_states', 'ComplexDiagonal',
             'UnitNeurons', 'recurrent_substeps'],
)  # fmt: skip
def test_windows_that_go_sample_by_sample(name, monkeypatch):
    monkeypatch.setattr(passes, '_LARGE', 0)
    seen, by_sample = [], passes._by_sample
    monkeypatch.setattr(passes, '_by_sample', lambda *args: seen.append(0) or by_sample(*args))
    learner = measured.compiled(ZOO[name], 'd_rtrl', None)
    check_windows(
        learner, ZOO[name].xs[:5], step_fn=lambda x: measured.loss(learner(x)), chunks=(2, 5)
    )
    assert seen


def test_control_a_sample_that_is_forgotten_is_found(monkeypatch):
    monkeypatch.setattr(passes, '_LARGE', 0)
    put = jax.lax.dynamic_update_slice_in_dim

    def forget_first(e, part, start_index, axis):
        return put(e, jnp.where(start_index == 0, 0, part), start_index, axis)

    monkeypatch.setattr(jax.lax, 'dynamic_update_slice_in_dim', forget_first)
    learner = ready(Residual())
    with pytest.raises(AssertionError, match='Not equal to tolerance'):
        check_windows(learner, inputs(4), step_fn=plainly(learner))


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
