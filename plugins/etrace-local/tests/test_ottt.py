"""`ottt` against backpropagation where it is complete, and its formula."""

import brainstate
import jax
import jax.numpy as jnp
import pytest

from etrace_algorithms import MultiStepData
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    LeakyIntegrator,
    PlainRNN,
    assert_gradients_close,
)
from etrace_algorithms.testing.models import surrogate_spike
from etrace_local import OTTT


class Spiking(LeakyIntegrator):
    """Integrate with a leak and send out spikes; the reset has no derivative."""

    def update(self, x):
        spiked = jax.lax.stop_gradient(surrogate_spike(self.h.value - 1))
        self.h.value = self.h.value - spiked
        return super().update(x)

    def read(self, h):
        return super().read(surrogate_spike(h - 1))


@pytest.mark.parametrize('model', [LeakyIntegrator, Spiking])
def test_of_a_constant_leak_it_is_backpropagation(gradients, model):
    expected = gradients.bptt(model(), 6)
    assert_gradients_close(gradients.online(OTTT(0.9), model(), 6), expected)
    with pytest.raises(AssertionError):
        assert_gradients_close(gradients.online(OTTT(0.5), model(), 6), expected)


def test_the_formula_of_the_paper(gradients):
    """Of gates, too, it is the trace of what comes in times the derivative of the present."""
    model = Spiking()
    ours = gradients.online(OTTT(0.7), model)
    h, trace, expected, spikes = jnp.zeros((2, 4)), 0, 0, 0
    for x in gradients.inputs():
        trace = 0.7 * trace + x
        h = 0.9 * (h - (h > 1)) + x @ model.w.value + model.b.value
        z = (h > 1).astype(h.dtype)
        delta = jax.grad(gradients.loss)(z @ model.readout.value)
        slope = 1 / (1 + jnp.abs(h - 1)) ** 2
        expected += trace.T @ (delta @ model.readout.value.T * slope)
        spikes += z.sum()
    assert 4 < spikes < 36
    assert_gradients_close(ours, {('w',): expected})


def test_several_steps_at_once_are_the_step_engine(gradients):
    learner = gradients.make(OTTT(0.5), PlainRNN())
    grad = brainstate.transform.grad(
        lambda: jnp.sum(jax.vmap(gradients.loss)(learner(MultiStepData(gradients.inputs())))),
        learner.param_states,
        check_states=False,
    )
    assert_gradients_close(grad(), gradients.online(OTTT(0.5), PlainRNN()))


def test_a_window_of_several_steps_is_credited_at_its_entry(gradients):
    rule = OTTT(0.9)
    ours = gradients.online(rule, LeakyIntegrator(), 6, vjp_method='multi-step', chunk_size=2)
    assert_gradients_close(ours, gradients.bptt(LeakyIntegrator(), 6))


def test_its_trace_is_as_large_as_input_and_result(gradients):
    learner = gradients.make(OTTT(0.9), LeakyIntegrator())
    sizes = [leaf.size for leaf in jax.tree.leaves(learner.get_etrace_of('w'))]
    assert sorted(sizes) == [2 * 3, 2 * 4]


def test_it_is_found_by_name(gradients):
    assert get_learner('etrace-local:ottt').load() is OTTT
    with pytest.raises(ValueError, match=r'`leak` is out of range: got 2; expected 0 <= leak <= 1'):
        gradients.make('ottt', LeakyIntegrator(), leak=2)
