"""`otpe` against backpropagation, where a layer of linear leaks follows."""

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import PlainRNN, assert_gradients_close
from etrace_algorithms.testing.models import surrogate_spike
from etrace_compiler import matmul
from etrace_local import OTPE


class Two(brainstate.nn.Module):
    """Spiking neurons, whose spikes are a state, before a layer of leaks."""

    def __init__(self, leak=0.7):
        super().__init__()
        random, self.leak = np.random.default_rng(0), leak
        self.w = brainstate.ParamState(jnp.asarray(random.normal(size=(3, 4))))
        self.out = brainstate.ParamState(jnp.asarray(random.normal(size=(4, 2))))

    def init_state(self, batch_size=None):
        for name, size in (('v', 4), ('z', 4), ('u', 2)):
            shape = (size,) if batch_size is None else (batch_size, size)
            setattr(self, name, brainstate.HiddenState(jnp.zeros(shape)))

    def update(self, x):
        self.v.value = 0.8 * self.v.value + matmul(x, self.w.value) - self.z.value
        self.z.value = surrogate_spike(self.v.value - 1)
        self.u.value = self.leak * self.u.value + matmul(self.z.value, self.out.value)
        return self.u.value


def test_before_a_layer_of_leaks_it_is_backpropagation(gradients):
    """Not with another leak, without the name of the output layer, without the estimate."""
    expected = gradients.bptt(Two())
    assert_gradients_close(gradients.online(OTPE(0.7, output='out'), Two()), expected)
    for rule in (OTPE(0.5, 'out'), OTPE(0.7), 'd_rtrl'):
        with pytest.raises(AssertionError):
            assert_gradients_close(gradients.online(rule, Two()), expected)


def test_without_a_leak_it_is_d_rtrl(gradients):
    ours = gradients.online(OTPE(0.0), PlainRNN())
    assert_gradients_close(ours, gradients.online('d_rtrl', PlainRNN()))


def test_inside_of_a_window_the_next_layer_is_no_estimate(gradients):
    ours = gradients.online(OTPE(0.7, 'out'), Two(), vjp_method='multi-step', chunk_size=5)
    assert_gradients_close(ours, gradients.bptt(Two()))
    ours, theirs = (
        gradients.online(rule, Two(), 4, vjp_method='multi-step', chunk_size=2)
        for rule in (OTPE(0.7, 'out'), 'd_rtrl')
    )
    assert_gradients_close(ours, theirs)


def test_it_is_found_by_name(gradients):
    assert get_learner('etrace-local:otpe').load() is OTPE
    with pytest.raises(ValueError, match=r"`readout` does not fit: got 'top'; expected a path am"):
        gradients.make('otpe', Two(), leak=0.5, output='top')
