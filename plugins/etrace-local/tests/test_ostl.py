"""`ostl` is backpropagation for a layer of any recurrence; without recurrence it is `d_rtrl`."""

import jax.numpy as jnp
import pytest

from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    DiagonalLSTM,
    ElementwiseDecay,
    LeakyIntegrator,
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
    assert_gradients_close,
)
from etrace_compiler import matmul
from etrace_local import OSTL, OTTT, FeedforwardOSTL


class Stack(PlainRNN):
    """Two recurrent layers, the second one reading the new states of the first."""

    hidden = ('h', 'top')

    def __init__(self):
        super().__init__()
        self.w2 = self.weight(2 * self.sizes[1], self.sizes[1])

    def read(self, h):
        both = jnp.concatenate([h, self.top.value], axis=-1)
        self.top.value = 0.3 * self.top.value + jnp.tanh(matmul(both, self.w2.value))
        return super().read(self.top.value)


@pytest.mark.parametrize('model', [PlainRNN, RecurrentLSTM, SpikingChain])
def test_of_one_layer_it_is_backpropagation(gradients, model):
    assert_gradients_close(gradients.online(OSTL(), model()), gradients.bptt(model()))


def test_of_two_layers_what_goes_on_in_time_in_the_other_is_missing(gradients):
    ours, expected = gradients.online(OSTL(), Stack()), gradients.bptt(Stack())
    assert_gradients_close(ours, {key: expected[key] for key in (('w2',), ('readout',))})
    with pytest.raises(AssertionError):
        assert_gradients_close(ours, {('w',): expected[('w',)]})
    assert_gradients_close(gradients.online(OSTL(), Stack(), 1), gradients.bptt(Stack(), 1))


def test_windows_and_vmap_are_the_step_engine(gradients):
    expected = gradients.online(OSTL(), Stack())
    for options in ({'chunk_size': 3}, {'vmap': True}):
        assert_gradients_close(gradients.online(OSTL(), Stack(), **options), expected)


def test_a_window_of_several_steps_is_credited_at_its_entry(gradients):
    ours = gradients.online(OSTL(), PlainRNN(), 4, vjp_method='multi-step', chunk_size=2)
    assert_gradients_close(ours, gradients.bptt(PlainRNN(), 4))


@pytest.mark.parametrize('model', [ElementwiseDecay, DiagonalLSTM])
def test_a_layer_without_recurrent_weights_needs_no_more(gradients, model):
    assert_gradients_close(gradients.online(FeedforwardOSTL(), model()), gradients.bptt(model()))


def test_without_recurrence_it_is_d_rtrl(gradients):
    ours = gradients.online(FeedforwardOSTL(), PlainRNN())
    assert_gradients_close(ours, gradients.online('d_rtrl', PlainRNN()))
    with pytest.raises(AssertionError):  # the recurrent matrix is missing
        assert_gradients_close(ours, gradients.bptt(PlainRNN()))


def test_of_a_constant_leak_the_trace_is_a_product(gradients):
    ours = gradients.online(FeedforwardOSTL(), LeakyIntegrator())
    assert_gradients_close(ours, gradients.online(OTTT(0.9), LeakyIntegrator()))


def test_they_are_found_by_name():
    assert get_learner('etrace-local:ostl').load() is OSTL
    assert get_learner('ostl-feedforward').load() is FeedforwardOSTL
