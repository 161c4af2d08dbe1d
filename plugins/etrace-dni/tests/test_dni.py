"""What synthetic gradients promise, against backpropagation, whole and truncated."""

import pickle

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    PlainRNN,
    assert_gradients_close,
    bptt_gradients,
    gradient_alignment,
    online_gradients,
)
from etrace_compiler import matmul
from etrace_dni import Predictor, SyntheticGradients

BATCH, WINDOW = 2, 4


class Linear(PlainRNN):
    r"""Everything is linear: $h_t = 0.3\,h_{t-1} + [x_t, h_{t-1}] W$."""

    def update(self, x):
        z = jnp.concatenate([x, self.h.value], axis=-1)
        self.h.value = 0.3 * self.h.value + matmul(z, 0.2 * self.w.value)
        return self.read(self.h.value)


def inputs(steps, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, BATCH, 3)))


def loss(y):
    return jnp.sum(y**2)


def ready(model=PlainRNN, **options):
    learner = ea.compile(model(), 'dni', inputs(1)[0], batch_size=BATCH, **options)
    learner.step = lambda x: loss(learner(x))
    return learner


def gradients(learner, xs):
    learner.reset_state(BATCH)
    return learner.etrace_grad(xs, step_fn=learner.step, chunk_size=WINDOW, reduction='sum')


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', False)


def test_the_learner_is_found_by_name():
    assert get_learner('etrace-dni:dni').load() is SyntheticGradients
    assert type(ready()) is SyntheticGradients


@pytest.mark.parametrize('vmap', [False, True])
def test_before_it_is_fitted_it_is_truncated_backpropagation(vmap):
    xs, learner = inputs(8), ready(predictor=Predictor(width=5), vmap=vmap)
    found = online_gradients(learner, xs, loss=loss, chunk_size=WINDOW)
    other = ready()
    truncated = bptt_gradients(other.model, xs, loss=loss, stop_at=WINDOW)
    assert_gradients_close(found, truncated)
    with pytest.raises(AssertionError):
        assert_gradients_close(found, bptt_gradients(other.model, xs, loss=loss))


@pytest.mark.parametrize('window', [1, WINDOW])
def test_with_a_perfect_predictor_it_is_backpropagation(window):
    """Inputs end with the first window, after which the future is a linear function of `h`."""
    learner = ready(Linear)
    xs = jnp.concatenate([inputs(1), jnp.zeros((47, BATCH, 3))])
    step = 0.3 * jnp.eye(4) + 0.2 * learner.model.w.value[3:]
    read = learner.model.readout.value
    future, power = jnp.zeros((4, 4)), step
    for _ in range(100):
        future, power = future + 2 * power @ read @ read.T @ power.T, power @ step
    learner.predictor_state.value = [{'V': future, 'b': jnp.zeros(4)}]
    expected = bptt_gradients(learner.model, xs, loss=loss)
    found = online_gradients(learner, xs, loss=loss, chunk_size=window)
    assert_gradients_close(found, expected, rtol=1e-9)
    truncated = bptt_gradients(learner.model, xs, loss=loss, stop_at=window)
    with pytest.raises(AssertionError):
        assert_gradients_close(truncated, expected, rtol=1e-3)


@pytest.mark.parametrize('width', [None, 8])
def test_fitting_reduces_the_error_and_turns_the_gradient(width):
    learner = ready(predictor=Predictor(width=width))
    xs = inputs(48, seed=2)
    truncated = bptt_gradients(learner.model, xs, loss=loss, stop_at=WINDOW)
    whole = bptt_gradients(learner.model, xs, loss=loss)
    for seed in range(3, 9):
        learner.reset_state(BATCH)
        fit = learner.fit(inputs(200, seed), step_fn=learner.step, chunk_size=WINDOW)
    assert np.mean(fit.errors) < 0.7 * np.mean(fit.targets)
    fitted = gradients(learner, xs)
    before = gradient_alignment(truncated, whole)
    after = gradient_alignment(fitted, whole)
    assert before[0] < after[0] > 0.99
    assert abs(1 - after[1]) < abs(1 - before[1])


def test_the_target_is_the_gradient_at_the_entry_of_a_window():
    """One window, whose later losses are predicted to be zero; and its gradient."""
    learner, xs = ready(), inputs(WINDOW)
    learner.model.h.value = start = jnp.ones((BATCH, 4))
    fit = learner.fit(xs, step_fn=learner.step, chunk_size=WINDOW)
    model = ready().model
    model.h.value = start

    def total():
        return sum(loss(model(x)) for x in xs)

    grad = brainstate.transform.grad(total, model.h, return_value=True)
    target, expected = grad()
    np.testing.assert_allclose(fit.errors, [jnp.mean(target**2)], rtol=1e-10)
    np.testing.assert_allclose(fit.targets, fit.errors)
    np.testing.assert_allclose(fit.losses, [expected], rtol=1e-10)
    learner.reset_predictor()
    learner.model.h.value = start
    expected = learner.etrace_grad(xs, step_fn=learner.step, chunk_size=WINDOW, reduction='sum')
    assert_gradients_close(fit.gradients, expected)


def test_at_the_end_of_an_episode_nothing_is_predicted():
    xs = inputs(WINDOW)
    for episode in (WINDOW, None):
        learner = ready(predictor=Predictor(episode=episode))
        expected = bptt_gradients(learner.model, xs, loss=loss)
        learner.predictor_state.value = [{'V': jnp.eye(4), 'b': jnp.ones(4)}]
        found = gradients(learner, xs)
        if episode:
            assert_gradients_close(found, expected)
    with pytest.raises(AssertionError):
        assert_gradients_close(found, expected)


def test_it_is_deployed_on_what_it_was_fitted_on_alone():
    learner, xs = ready(), inputs(8)
    learner.fit(xs, step_fn=learner.step, chunk_size=WINDOW)
    gradients(learner, xs)
    with pytest.raises(ValueError, match='`window` is not the one that the predictor was fitted'):
        learner.etrace_grad(xs, step_fn=learner.step, chunk_size=2)

    def another(x):
        return 2 * loss(learner(x))

    for run in (learner.etrace_grad, learner.fit, learner.peak_memory):
        with pytest.raises(ValueError, match='`loss` is not the one that the predictor was fitted'):
            run(xs, step_fn=another, chunk_size=WINDOW)
    learner.reset_predictor()
    learner.etrace_grad(xs, step_fn=another, chunk_size=2)


def test_a_fitted_predictor_is_stored_and_used_again():
    learner, xs = ready(predictor=Predictor(width=3)), inputs(8)
    learner.fit(xs, step_fn=learner.step, chunk_size=WINDOW)
    again = ready(fitted=pickle.loads(pickle.dumps(learner.fitted)))
    assert_gradients_close(gradients(again, xs), gradients(learner, xs), rtol=1e-12)
    with pytest.raises(ValueError, match='`model` is not the one that the predictor was fitted'):
        ready(Linear, fitted=learner.fitted)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"`vjp_method` cannot be chosen .* expected 'multi-step'"):
        ready(vjp_method='single-step')
    learner = ready()
    with pytest.raises(ValueError, match=r'`sequences` do not divide .* got \[7\] steps'):
        learner.fit(inputs(7), step_fn=learner.step, chunk_size=WINDOW)
    with pytest.raises(TypeError, match='cannot be one rule of several'):
        ea.compile(PlainRNN(), {'*': 'dni'}, inputs(1)[0], vjp_method='multi-step')
