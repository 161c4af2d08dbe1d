"""A spike is a step; its derivative is the documented formula."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_nn import surrogate

V = np.linspace(-3.0, 3.0, 41)


def sigmoid(v, alpha=4.0):
    s = 1 / (1 + np.exp(-alpha * v))
    return alpha * s * (1 - s)


def relu(v, alpha=0.3, width=1.0):
    return alpha * np.maximum(0, 1 - np.abs(v) / width)


def arctan(v, alpha=2.0):
    return alpha / 2 / (1 + (math.pi / 2 * alpha * v) ** 2)


def gaussian(v, sigma=0.5, alpha=0.5):
    return alpha / (math.sqrt(2 * math.pi) * sigma) * np.exp(-(v**2) / (2 * sigma**2))


def normal(v, sigma):
    return np.exp(-(v**2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)


def multi_gaussian(v, sigma=0.5, alpha=0.5, h=0.15, s=6.0):
    sides = normal(v - sigma, s * sigma) + normal(v + sigma, s * sigma)
    return alpha * ((1 + h) * normal(v, sigma) - h * sides)


def inv_square(v, alpha=10.0):
    return 1 / (1 + alpha * np.abs(v)) ** 2


def slayer(v, alpha=1.0):
    return np.exp(-alpha * np.abs(v))


def rectangle(v, width=1.0):
    return (np.abs(v) < width / 2) / width


FORMULAS = [
    (surrogate.sigmoid_grad, sigmoid, {'alpha': 2.5}),
    (surrogate.relu_grad, relu, {'alpha': 0.7, 'width': 2.0}),
    (surrogate.arctan_grad, arctan, {'alpha': 3.0}),
    (surrogate.gaussian_grad, gaussian, {'sigma': 0.8, 'alpha': 1.5}),
    (surrogate.multi_gaussian_grad, multi_gaussian, {'sigma': 0.4, 'h': 0.3, 's': 3.0}),
    (surrogate.inv_square_grad, inv_square, {'alpha': 5.0}),
    (surrogate.slayer_grad, slayer, {'alpha': 2.0}),
    (surrogate.rectangle_grad, rectangle, {'width': 1.7}),
]


@pytest.mark.parametrize(('spike', 'formula', 'options'), FORMULAS)
def test_a_spike_is_a_step(spike, formula, options, x64):
    np.testing.assert_array_equal(spike(V, **options), (V >= 0).astype(float))


@pytest.mark.parametrize('set_options', [False, True])
@pytest.mark.parametrize(('spike', 'formula', 'options'), FORMULAS)
def test_the_derivative_is_the_formula(spike, formula, options, set_options, x64):
    options = options if set_options else {}
    spike, formula = partial(spike, **options), partial(formula, **options)
    _, forward = jax.jvp(spike, (jnp.asarray(V),), (jnp.ones_like(V),))
    reverse = jax.jit(jax.vmap(jax.grad(spike)))(jnp.asarray(V))
    np.testing.assert_allclose(forward, formula(V), rtol=1e-12)
    np.testing.assert_allclose(reverse, formula(V), rtol=1e-12)
    assert (forward != 0).any()


@pytest.mark.parametrize(('spike', 'formula', 'options'), FORMULAS)
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
def test_keeps_the_type(spike, formula, options, dtype):
    v = jnp.linspace(-1, 1, 5, dtype=dtype)
    assert spike(v).dtype == dtype
    assert jax.grad(lambda v: spike(v).sum())(v).dtype == dtype
