"""What `decayed_trace` promises, and what it is in the cases that are known."""

import functools

import brainstate
import jax
import jax.numpy as jnp
import pytest

import etrace_algorithms
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    PlainRNN,
    assert_gradients_close,
    conformance_tests,
    gradient_alignment,
    online_gradients,
)
from etrace_template import DecayedTrace

# what every learner must keep, and what this one promises: one test for each question
test_conformance = conformance_tests('decayed_trace', level='quick')


@functools.cache
def gradient(rule):
    """Return the gradient that a rule gives to a small recurrent network, in float64."""
    with jax.enable_x64(True):
        xs = brainstate.random.RandomState(1).randn(5, 2, 2)
        learner = etrace_algorithms.compile(PlainRNN(2, 3, 1), rule, xs[0], batch_size=2)
        return online_gradients(learner, xs, loss=lambda y: jnp.sum(jnp.sin(y)))


def test_the_learner_is_found_by_name():
    spec = get_learner('etrace-template:decayed-trace')
    assert spec.load() is DecayedTrace
    assert get_learner('decayed_trace') == spec


def test_without_a_discount_it_is_d_rtrl():
    assert_gradients_close(gradient(DecayedTrace(1.0)), gradient('d_rtrl'), rtol=1e-9)


def test_a_decay_of_zero_gives_one_step_gradients():
    assert_gradients_close(gradient(DecayedTrace(0.0)), gradient('immediate'), rtol=1e-9)


def test_the_discount_weighs_the_past():
    """The negative control: between the two ends the gradient is that of neither."""
    for other in ('d_rtrl', 'immediate'):
        cosine, _ = gradient_alignment(gradient(DecayedTrace(0.5)), gradient(other))
        assert 0.5 < cosine < 1 - 1e-4


@pytest.mark.parametrize('decay', [-0.1, 1.1, float('nan')])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r'`decay` is out of range: got .*; expected 0 <= decay'):
        DecayedTrace(decay)
