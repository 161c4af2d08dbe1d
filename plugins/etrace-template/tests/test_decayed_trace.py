"""What `decayed_trace` promises, against the built-in rule and against backpropagation."""

import brainstate
import jax
import jax.numpy as jnp
import pytest

import etrace_algorithms
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    assert_gradients_close,
    bptt_gradients,
    gradient_alignment,
    online_gradients,
)
from etrace_compiler import element_wise, matmul
from etrace_template import DecayedTrace

STEPS, BATCH, SIZE = 7, 2, 3


class Cell(brainstate.nn.Module):
    """A recurrent cell with a leak for each unit, a marked bias and a readout."""

    def __init__(self):
        super().__init__()
        random = brainstate.random.RandomState(0)
        self.w = brainstate.ParamState(random.randn(2 + SIZE, SIZE) / 2)
        self.leak = brainstate.ParamState(random.randn(SIZE))
        self.b = brainstate.ParamState(random.randn(SIZE) / 2)
        self.out = brainstate.ParamState(random.randn(SIZE, 1))

    def init_state(self, batch_size=None):
        self.h = brainstate.HiddenState(jnp.zeros((batch_size, SIZE)))

    def reset_state(self, batch_size=None):
        self.h.value = jnp.zeros((batch_size, SIZE))

    def update(self, x):
        h = self.h.value
        leak = element_wise(self.leak.value, weight_fn=jax.nn.sigmoid)
        drive = matmul(jnp.concatenate([x, h], -1), self.w.value, self.b.value)
        self.h.value = leak * h + jnp.tanh(drive)
        return self.h.value @ self.out.value


def loss(y):
    return jnp.sum(jnp.sin(y))


def gradients(rule, steps=STEPS, **options):
    """Return the gradient of a rule or named learner, and that of backpropagation."""
    xs = brainstate.random.RandomState(1).randn(steps, BATCH, 2)
    learner = etrace_algorithms.compile(Cell(), rule, xs[0], batch_size=BATCH, **options)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    return online_gradients(learner, xs, loss=loss), expected


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', False)


def test_the_learner_is_found_and_made_by_name():
    spec = get_learner('etrace-template:decayed-trace')
    assert spec.load() is DecayedTrace
    assert get_learner('decayed_trace') == spec
    by_name, _ = gradients('decayed_trace', decay=0.5)
    by_rule, _ = gradients(DecayedTrace(0.5))
    assert_gradients_close(by_name, by_rule, rtol=0)


def test_without_decay_it_is_d_rtrl():
    ours, _ = gradients(DecayedTrace(1.0))
    theirs, _ = gradients(etrace_algorithms.D_RTRL)
    assert_gradients_close(ours, theirs, rtol=1e-9)


def test_one_step_is_exact():
    ours, expected = gradients(DecayedTrace(0.5), steps=1)
    assert_gradients_close(ours, expected, rtol=1e-9)


def test_a_decay_of_zero_gives_one_step_gradients():
    ours, _ = gradients(DecayedTrace(0.0))
    theirs, _ = gradients(etrace_algorithms.Immediate)
    assert_gradients_close(ours, theirs, rtol=1e-9)


def test_the_decay_weighs_the_past():
    """Each factor of the discount moves the gradient away from that of `d_rtrl`."""
    reference, _ = gradients(DecayedTrace(1.0))
    cosines = [gradient_alignment(gradients(DecayedTrace(d))[0], reference)[0]
               for d in (0.9, 0.5, 0.1)]  # fmt: skip
    assert 1 > cosines[0] > cosines[1] > cosines[2]


def test_the_comparison_notices_a_wrong_update():
    """The negative control: a rule that forgets the past is not `d_rtrl`."""

    class Forgetful(DecayedTrace):
        def update(self, trace, lin):
            return super().update(jax.tree.map(jnp.zeros_like, trace), lin)

    ours, _ = gradients(Forgetful(1.0))
    theirs, _ = gradients(etrace_algorithms.D_RTRL)
    with pytest.raises(AssertionError):
        assert_gradients_close(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize('decay', [-0.1, 1.1, float('nan')])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r'`decay` is out of range: got .*; expected 0 <= decay'):
        DecayedTrace(decay)
