"""What a loop over a sequence needs at once, before it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
from etrace_algorithms.memory import array_bytes

from .window_models import Residual, inputs, loss, ready


@pytest.fixture
def learner():
    return ready(Residual(), 'd_rtrl')


def step_of(learner):
    return lambda x: loss(learner(x))


def shapes(steps):
    x = inputs(1)
    return jax.ShapeDtypeStruct((steps, *x.shape[1:]), x.dtype)


def test_it_depends_on_the_window_and_not_on_the_length(learner):
    step = step_of(learner)
    found = {
        (steps, window): learner.peak_memory(shapes(steps), step_fn=step, chunk_size=window)
        for steps, window in [(64, 1), (64, 16), (640, 16)]
    }
    per_step = array_bytes((shapes(1), jnp.ones(1)))
    assert found[640, 16].arguments - found[64, 16].arguments == 576 * per_step
    # what is stacked over steps: their losses, masked and not, and how many they are
    assert 0 <= found[640, 16].temporary - found[64, 16].temporary <= 3 * 576 * 8
    assert found[64, 16].temporary > found[64, 1].temporary
    for plan in found.values():
        assert plan.shared >= array_bytes(learner.etrace.value)
        assert plan.total == plan.arguments + plan.results + plan.temporary - plan.shared
        assert plan.results > array_bytes([s.value for s in learner.param_states.values()])


def test_nothing_runs_and_nothing_changes(learner):
    ran = []

    def step(x):
        jax.debug.callback(lambda: ran.append(1))
        return loss(learner(x))

    before = jax.tree.map(np.asarray, [s.value for s in learner.states().values()])
    ea.peak_memory(learner, shapes(4), step_fn=step, chunk_size=1)
    after = [s.value for s in learner.states().values()]
    jax.tree.map(np.testing.assert_array_equal, after, before)
    jax.effects_barrier()
    assert not ran
    learner.etrace_grad(inputs(4), step_fn=step, chunk_size=1)
    jax.effects_barrier()
    assert len(ran) == 4


def test_what_was_planned_is_what_runs():
    """The plan is that of the very loop: it is traced once for both."""
    learner, traced = ready(Residual(), 'pp_prop'), []

    def step(x):
        traced.append(1)
        return loss(learner(x))

    options = {'step_fn': step, 'chunk_size': 2, 'return_value': True}
    learner.peak_memory(inputs(5), **options)
    once = len(traced)
    found = learner.etrace_grad(inputs(5), **options)
    assert len(traced) == once
    other = ready(Residual(), 'pp_prop')
    expected = other.etrace_grad(inputs(5), step_fn=step_of(other), chunk_size=1, return_value=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, expected)


def test_sequences_that_disagree(learner):
    with pytest.raises(ValueError, match='number of steps'):
        learner.peak_memory(shapes(4), shapes(5), step_fn=step_of(learner))
    with pytest.raises(ValueError, match='number of steps'):
        learner.peak_memory(jax.ShapeDtypeStruct((), jnp.float32), step_fn=step_of(learner))


def test_it_reads_as_a_sentence():
    plan = ea.PeakMemory(arguments=3_000_000, results=2000, temporary=500, shared=1000)
    assert str(plan) == (
        '3.00 MB at once (arguments 3.00 MB, results 2.00 kB, temporary 500 B, shared 1.00 kB)'
    )
