"""`rflo` against the formula of the paper, `d_rtrl` and backpropagation."""

import jax
import jax.numpy as jnp
import pytest

from etrace_algorithms import NotSupportedError
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    LeakyIntegrator,
    PlainRNN,
    assert_gradients_close,
    online_gradients,
)
from etrace_local import RFLO


def test_where_the_leak_is_all_it_is_backpropagation(gradients):
    expected = gradients.bptt(LeakyIntegrator())
    ours = gradients.online(RFLO(0.9, 'symmetric'), LeakyIntegrator())
    assert_gradients_close(ours, expected)
    with pytest.raises(AssertionError):
        assert_gradients_close(
            gradients.online(RFLO(0.5, 'symmetric'), LeakyIntegrator()), expected
        )


def test_of_leaky_units_with_mixing_weights_it_is_d_rtrl(gradients):
    ours = gradients.online(RFLO(0.5, 'symmetric'), PlainRNN())
    assert_gradients_close(ours, gradients.online('d_rtrl', PlainRNN()))


def test_one_step_is_exact_with_symmetric_feedback(gradients):
    ours = gradients.online(RFLO(0.3, 'symmetric'), PlainRNN(), 1)
    assert_gradients_close(ours, gradients.bptt(PlainRNN(), 1))


def test_the_formula_of_the_paper(gradients):
    learner = gradients.make(RFLO(0.5), PlainRNN())
    (((matrix,),), model) = learner.etrace.value['feedback']['B'], learner.model
    ours = online_gradients(learner, gradients.inputs(), loss=gradients.loss)
    w, b, readout = model.w.value, model.b.value, model.readout.value
    h, p, expected, read = jnp.zeros((2, 4)), 0, 0, 0
    for x in gradients.inputs():
        before = jnp.concatenate([x, h], -1)
        u = before @ w + b
        p = 0.5 * p + (1 - jnp.tanh(u) ** 2)[:, None] * before[:, :, None]
        h = 0.5 * h + jnp.tanh(u)
        delta = jax.grad(gradients.loss)(h @ readout)
        expected += jnp.einsum('bj,bij->ij', delta @ matrix, p)
        read += h.T @ delta
    assert_gradients_close(ours, {('w',): expected, ('readout',): read})


def test_random_feedback_acts_step_by_step(gradients):
    with pytest.raises(NotSupportedError, match=r"got 'multi-step' and feedback='random'; expec"):
        gradients.online(RFLO(0.5), PlainRNN(), vjp_method='multi-step')
    rule = RFLO(0.9, 'symmetric')
    ours = gradients.online(rule, LeakyIntegrator(), vjp_method='multi-step', chunk_size=2)
    assert_gradients_close(ours, gradients.bptt(LeakyIntegrator()))


def test_it_is_found_by_name(gradients):
    assert get_learner('etrace-local:rflo').load() is RFLO
    by_name = gradients.online('rflo', PlainRNN(), leak=0.5)
    assert_gradients_close(by_name, gradients.online(RFLO(0.5), PlainRNN()), rtol=0)


@pytest.mark.parametrize('leak', [-0.1, 1.1, float('nan')])
def test_a_leak_out_of_range_is_refused(leak):
    with pytest.raises(ValueError, match=r'`leak` is out of range: got .*; expected 0 <= leak'):
        RFLO(leak)
