"""`three_factor`: a modulator, passed with every step, in the place of a learning signal."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms
from etrace_algorithms import NotSupportedError
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import LeakyIntegrator, SpikingChain, assert_gradients_close
from etrace_local import Modulated, ThreeFactor

STEPS, BATCH = 5, 2


def modulators(*shape):
    return jnp.asarray(np.random.default_rng(2).normal(size=(STEPS, *shape)))


def learn(gradients, rule, third, model=None, chunk_size=1, weight=1.0, **options):
    model = Modulated(LeakyIntegrator() if model is None else model)
    xs = gradients.inputs(STEPS)
    learner = etrace_algorithms.compile(model, rule, xs[0], third[0], batch_size=BATCH, **options)

    def step(x, m):
        return weight * gradients.loss(learner(x, m))

    return learner.etrace_grad(xs, third, step_fn=step, reduction='sum', chunk_size=chunk_size)


@pytest.mark.parametrize('shape', [(), (BATCH, 4)])
def test_a_modulator_of_any_shape_by_the_formula(gradients, shape):
    third = modulators(*shape)
    ours = learn(gradients, ThreeFactor(decay=0.6), third)
    e = waiting = 0
    expected = jnp.zeros((3, 4))
    for x, m in zip(gradients.inputs(STEPS), third, strict=True):
        e = 0.9 * e + x
        waiting = 0.6 * waiting + e
        full = jnp.broadcast_to(m.reshape(m.shape + (1,) * (2 - m.ndim)), (BATCH, 4))
        expected -= waiting.T @ full
    assert_gradients_close(ours, {('model', 'w'): expected})
    exact = gradients.bptt(LeakyIntegrator(), STEPS)
    assert_gradients_close(ours, {('model', 'readout'): exact[('readout',)]})


def test_the_loss_has_no_part_in_it(gradients):
    third = modulators()
    ours = learn(gradients, ThreeFactor(), third)
    assert_gradients_close(learn(gradients, ThreeFactor(), third, weight=0.0),
                           {('model', 'w'): ours[('model', 'w')]})  # fmt: skip
    twice = learn(gradients, ThreeFactor(), 2 * third)
    assert_gradients_close(twice, {('model', 'w'): 2 * ours[('model', 'w')]})


def test_with_the_learning_signal_of_each_unit_it_is_d_rtrl(gradients):
    model, h, third = LeakyIntegrator(), jnp.zeros((BATCH, 4)), []
    for x in gradients.inputs(STEPS):
        h = 0.9 * h + x @ model.w.value + model.b.value
        delta = jax.grad(gradients.loss)(h @ model.readout.value)
        third.append(-delta @ model.readout.value.T)
    ours = learn(gradients, ThreeFactor(), jnp.stack(third))
    expected = gradients.bptt(LeakyIntegrator(), STEPS)
    assert_gradients_close(ours, {('model', *path): value for path, value in expected.items()})


def test_windows_and_vmap_are_the_step_engine(gradients):
    third, rule = modulators(BATCH), ThreeFactor(0.5)
    expected = learn(gradients, rule, third)
    for options in ({'chunk_size': 3}, {'vmap': True}):
        assert_gradients_close(learn(gradients, rule, third, **options), expected)


def test_one_call_under_jit_reads_its_own_modulator(gradients):
    x, model = gradients.inputs()[0], Modulated(LeakyIntegrator())
    learner = etrace_algorithms.compile(model, 'three_factor', x, 1.0, batch_size=BATCH)
    grad = brainstate.transform.jit(
        lambda m: brainstate.transform.grad(
            lambda: gradients.loss(learner(x, m)), learner.param_states, check_states=False
        )()
    )
    for m in (1.0, -2.0):
        brainstate.nn.init_all_states(model, BATCH)
        learner.reset_state(BATCH)
        expected = jnp.broadcast_to(-m * x.sum(0)[:, None], (3, 4))
        assert_gradients_close(grad(m), {('model', 'w'): expected})


def test_one_modulator_is_for_one_step(gradients):
    with pytest.raises(NotSupportedError, match=r"got 'multi-step'; expected one modulator"):
        learn(gradients, ThreeFactor(), modulators(), vjp_method='multi-step')


def test_it_is_found_by_name_and_refuses_options_out_of_range(gradients):
    assert get_learner('etrace-local:three-factor').load() is ThreeFactor
    with pytest.raises(ValueError, match=r'`decay` is out of range: got -1; expected 0 <= decay'):
        ThreeFactor(decay=-1)
    with pytest.raises(ValueError, match=r'`observable` does not fit: .*expected one state among'):
        learn(gradients, ThreeFactor(), modulators(), SpikingChain())
