"""A network that is to remember a cue, with three mistakes: nothing in it learns."""

import brainstate
import jax
import jax.numpy as jnp


class Forgetful(brainstate.nn.Module):
    def __init__(self, n_in=16, n=4):
        super().__init__()
        random = brainstate.random.RandomState(0)
        self.input = brainstate.ParamState(random.randn(n_in, n) / n_in**0.5)
        self.leak = brainstate.ParamState(jnp.ones(n))
        self.readout = brainstate.ParamState(random.randn(n, 1) / n**0.5)

    def init_state(self, batch_size=None):
        shape = (batch_size, *self.leak.value.shape)
        self.h = brainstate.ShortTermState(jnp.zeros(shape))

    def reset_state(self, batch_size=None):
        self.h.value = jnp.zeros_like(self.h.value)

    def update(self, x):
        leak = jax.lax.stop_gradient(jax.nn.sigmoid(self.leak.value))
        self.h.value = leak * self.h.value + x @ self.input.value
        return jnp.tanh(self.h.value) @ self.readout.value
