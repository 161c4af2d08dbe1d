"""Small models whose exact gradient class is known, made of operators alone.

The recurrence of the *diagonal* models maps every position to itself, so that a rule that is
exact there must equal backpropagation through time at every length. The *recurrent* ones mix
positions through a matmul, which no diagonal rule follows.
"""

from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import element_wise, matmul

__all__ = [
    'DIAGONAL_MODELS',
    'RECURRENT_MODELS',
    'DiagonalLSTM',
    'ElementwiseDecay',
    'LeakyIntegrator',
    'PlainRNN',
    'RecurrentLSTM',
    'SpikingChain',
    'surrogate_spike',
]


class _Model(brainstate.nn.Module):
    """A model with a readout; `hidden` names its hidden states."""

    hidden: tuple[str, ...] = ('h',)
    h: Any

    def __init__(self, num_in: int = 3, num_hidden: int = 4, num_out: int = 2, seed: int = 0):
        super().__init__()
        self.sizes = (num_in, num_hidden, num_out)
        self._rng = np.random.default_rng(seed)
        self.readout = self.weight(num_hidden, num_out)

    def weight(self, *shape: int, scale: float = 0.6) -> brainstate.ParamState:
        """Make a parameter with normal entries."""
        return brainstate.ParamState(jnp.asarray(scale * self._rng.normal(size=shape)))

    def init_state(self, batch_size: int | None = None, **kwargs: Any) -> None:
        """Create the hidden states, zero."""
        shape = (self.sizes[1],) if batch_size is None else (batch_size, self.sizes[1])
        for name in self.hidden:
            setattr(self, name, brainstate.HiddenState(jnp.zeros(shape, self.readout.value.dtype)))

    def reset_state(self, batch_size: int | None = None, **kwargs: Any) -> None:
        """Set the hidden states to zero."""
        for name in self.hidden:
            state = getattr(self, name)
            state.value = jnp.zeros_like(state.value)

    def read(self, h: Any) -> Any:
        """Read out, by an operation that is not marked."""
        return h @ self.readout.value


class LeakyIntegrator(_Model):
    r"""Integrate with a leak: $h_t = 0.9\,h_{t-1} + x_t W + b$."""

    def __init__(self, *sizes: int, seed: int = 0):
        super().__init__(*sizes, seed=seed)
        self.w = self.weight(self.sizes[0], self.sizes[1])
        self.b = self.weight(self.sizes[1])

    def update(self, x: Any) -> Any:
        """Do one step."""
        self.h.value = 0.9 * self.h.value + matmul(x, self.w.value, self.b.value)
        return self.read(self.h.value)


class ElementwiseDecay(_Model):
    r"""$h_t = \sigma(a)\,h_{t-1} + (1-\sigma(a)) \tanh(x_t W)$ with a trainable `a`."""

    def __init__(self, *sizes: int, seed: int = 0):
        super().__init__(*sizes, seed=seed)
        self.w = self.weight(self.sizes[0], self.sizes[1])
        self.a = self.weight(self.sizes[1])

    def update(self, x: Any) -> Any:
        """Do one step."""
        a = jax.nn.sigmoid(element_wise(self.a.value))
        self.h.value = a * self.h.value + (1 - a) * jnp.tanh(matmul(x, self.w.value))
        return self.read(self.h.value)


class DiagonalLSTM(_Model):
    """An LSTM whose gates see the input alone; `h` reads the new `c`."""

    hidden = ('h', 'c')
    c: Any
    recurrent = False

    def __init__(self, *sizes: int, seed: int = 0):
        super().__init__(*sizes, seed=seed)
        fan_in = self.sizes[0] + (self.sizes[1] if self.recurrent else 0)
        self.w = self.weight(fan_in, 4 * self.sizes[1])
        self.b = self.weight(4 * self.sizes[1])

    def update(self, x: Any) -> Any:
        """Do one step."""
        if self.recurrent:
            x = jnp.concatenate([x, self.h.value], axis=-1)
        i, g, f, o = jnp.split(matmul(x, self.w.value, self.b.value), 4, axis=-1)
        self.c.value = jax.nn.sigmoid(f + 1) * self.c.value + jax.nn.sigmoid(i) * jnp.tanh(g)
        self.h.value = jax.nn.sigmoid(o) * jnp.tanh(self.c.value) + 0.2 * self.h.value
        return self.read(self.h.value)


class RecurrentLSTM(DiagonalLSTM):
    """An LSTM with one fused matmul for four gates."""

    recurrent = True


class PlainRNN(_Model):
    r"""Mix through a matmul: $h_t = 0.5\,h_{t-1} + \tanh([x_t, h_{t-1}] W + b)$."""

    def __init__(self, *sizes: int, seed: int = 0):
        super().__init__(*sizes, seed=seed)
        self.w = self.weight(self.sizes[0] + self.sizes[1], self.sizes[1])
        self.b = self.weight(self.sizes[1])

    def update(self, x: Any) -> Any:
        """Do one step."""
        z = jnp.concatenate([x, self.h.value], axis=-1)
        y = jnp.tanh(matmul(z, self.w.value, self.b.value))
        self.h.value = 0.5 * self.h.value + y
        return self.read(self.h.value)


@jax.custom_vjp
def surrogate_spike(v: Any) -> Any:
    r"""Spike where `v > 0`, with the surrogate derivative $1/(1+|v|)^2$."""
    return (v > 0).astype(v.dtype)


_rule: Any = surrogate_spike
_rule.defvjp(
    lambda v: (surrogate_spike(v), v),
    lambda v, g: (g / (1 + jnp.abs(v)) ** 2,),
)


class SpikingChain(_Model):
    """Synapse, adaptation and membrane, each reading the new value of the one before.

    The output is the spike before the reset, so that it does not pass through a new state.
    """

    hidden = ('g', 'v', 'a')
    g: Any
    v: Any
    a: Any

    def __init__(self, *sizes: int, seed: int = 0):
        super().__init__(*sizes, seed=seed)
        self.w = self.weight(self.sizes[0], self.sizes[1], scale=1.5)
        self.tau = self.weight(self.sizes[1], scale=0.3)

    def update(self, x: Any) -> Any:
        """Do one step."""
        self.g.value = 0.7 * self.g.value + matmul(x, self.w.value)
        decay = jax.nn.sigmoid(1 + element_wise(self.tau.value))
        v = decay * self.v.value + (1 - decay) * (self.g.value - self.a.value)
        spike = surrogate_spike(v - 0.5)
        self.a.value = 0.9 * self.a.value + 0.3 * spike
        self.v.value = v - spike
        return self.read(spike)


DIAGONAL_MODELS = (LeakyIntegrator, ElementwiseDecay, DiagonalLSTM, SpikingChain)
RECURRENT_MODELS = (PlainRNN, RecurrentLSTM)
