"""What the tests of all rules share: float64, and gradients beside those of backpropagation."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms
from etrace_algorithms.testing import bptt_gradients, online_gradients


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', False)


class Gradients:
    """Gradients of one loss over the same inputs, for models that begin at rest."""

    batch = 2

    def inputs(self, steps=5):
        return jnp.asarray(np.random.default_rng(1).normal(size=(steps, self.batch, 3)))

    def loss(self, y):
        return jnp.sum(jnp.sin(y + jnp.linspace(0, 1, y.shape[-1])))

    def make(self, rule, model, **options):
        x = self.inputs()[0]
        return etrace_algorithms.compile(model, rule, x, batch_size=self.batch, **options)

    def online(self, rule, model, steps=5, chunk_size=1, **options):
        learner = self.make(rule, model, **options)
        xs = self.inputs(steps)
        return online_gradients(learner, xs, loss=self.loss, chunk_size=chunk_size)

    def bptt(self, model, steps=5):
        brainstate.nn.init_all_states(model, self.batch)
        return bptt_gradients(model, self.inputs(steps), loss=self.loss)


@pytest.fixture
def gradients():
    return Gradients()
