"""What a random model is made of: shapes, derivative rules, weights and their chains, states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

N_IN, N, BATCH = 3, 4, 2
SHAPE = (BATCH, N)


def values(*shape, seed=0, scale=0.5):
    """Fixed random numbers in float64."""
    return jnp.asarray(np.random.RandomState(seed).randn(*shape) * scale)


def fit(a, shape):
    """Bring an array of any shape to `(N,)` or `(BATCH, N)`."""
    if a.shape == shape:
        return a
    rows = shape[:-1]
    if len(rows) == 1 and a.ndim and a.shape[0] % BATCH == 0:
        a = a.reshape(BATCH, -1)
    else:
        a = a.reshape(-1)
    if a.shape[-1] < N:
        a = jnp.concatenate([a] * -(-N // a.shape[-1]), axis=-1)
    return jnp.broadcast_to(a[..., :N], shape)


# ---------------------------------------------------------------- derivative rules of the user


@jax.custom_jvp
def spike(v):
    """A step with a surrogate derivative."""
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _(primals, tangents):
    (v,), (t,) = primals, tangents
    return spike(v), t / (1 + 9 * v**2)


@jax.custom_vjp
def straight(x):
    """A sign with the derivative of the identity."""
    return jnp.sign(x)


straight.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))


@jax.custom_vjp
def clipped(x):
    """The value, with a gradient that is clipped: not linear."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.3, 0.3),))


@jax.custom_vjp
def centred(x):
    """A function of every position alone, with a gradient that mixes them."""
    return jnp.sin(x)


centred.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (g - 0.5 * g.mean(-1, keepdims=True),))


@jax.custom_jvp
def gated(x, y):
    """A product whose rule knows a derivative for the first factor alone."""
    return x * jnp.tanh(y)


@gated.defjvp
def _(primals, tangents):
    x, y = primals
    return gated(x, y), tangents[0] * jnp.tanh(y)


# ---------------------------------------------------------------- weights

#: Name of a parameter -> its value, from a seed.
PARAMETERS: dict[str, Callable] = {
    'W': lambda: values(N_IN, N, seed=1),
    'V': lambda: values(N_IN, N, seed=2),
    'P': lambda: values(N, N, seed=3),
    'Q': lambda: values(N, N, seed=4),
    'wide': lambda: values(N, 2 * N, seed=5),
    'down': lambda: values(N, 2, seed=6),
    'up': lambda: values(2, N, seed=7),
    'gain': lambda: values(N, seed=8),
    'leak': lambda: values(N, seed=9),
    'scale': lambda: values(seed=10) + 0.8,
    'linear': lambda: {'weight': values(N, N, seed=11), 'bias': values(N, seed=12)},
    'volt': lambda: values(N_IN, N, seed=13) * u.mV,
}


def looped(w, length):
    """Change a weight a little, several times."""
    return jax.lax.fori_loop(0, length, lambda i, w: 0.9 * w + 0.1 * jnp.sin(w), w)


#: Functions of a weight of any shape, and of a function that gives other parameters.
CHAINS: tuple[Callable, ...] = (
    lambda w, get: w,
    lambda w, get: w,
    lambda w, get: 0.5 * w,
    lambda w, get: jnp.tanh(w),
    lambda w, get: w * (np.arange(w.size).reshape(w.shape) % 3 > 0),
    lambda w, get: w / jnp.sqrt(jnp.sum(w**2) + 0.1),
    lambda w, get: jnp.abs(w) * np.where(np.arange(w.shape[-1]) % 2, 1, -1),
    lambda w, get: w[..., ::-1],
    lambda w, get: jnp.concatenate([w[1:], w[:1]]),
    lambda w, get: w.T if w.shape[0] == w.shape[-1] else w,
    lambda w, get: w + jnp.resize(get('gain'), w.shape),
    lambda w, get: w + jnp.resize(get('down') @ get('up'), w.shape),
    lambda w, get: w * get('scale'),
    lambda w, get: jax.nn.softmax(w, -1),
    lambda w, get: looped(w, 3),
    lambda w, get: looped(w, 18),
    lambda w, get: jax.lax.map(jnp.sin, w),
    lambda w, get: jax.lax.cond(w.sum() > 0, lambda w: w, jnp.sin, w),
    lambda w, get: jax.lax.stop_gradient(w) + 0.5 * w,
    lambda w, get: straight(w) * 0.5,
    lambda w, get: clipped(w),
    lambda w, get: jax.jit(jax.checkpoint(lambda w: jnp.sin(w) * w))(w),
    lambda w, get: w.at[0].set(0.2),
)  # fmt: skip

# ---------------------------------------------------------------- states


@dataclass(frozen=True)
class Held:
    """How a state is made, read and written.

    Attributes:
        make: Makes the state.
        read: Function of the state that returns an array of floats.
        new: Function of the state, of what is left of its old value, and of what is put in.
    """

    make: Callable[[], brainstate.State]
    read: Callable[[Any], Any] = lambda s: s.value
    new: Callable[[Any, float, Any], Any] = lambda s, keep, p: keep * s.value + p


def _plain(seed, *shape, kind=brainstate.HiddenState, **rest):
    return Held(lambda: kind(values(*(shape or SHAPE), seed=seed, scale=0.7)), **rest)


def _tree(s, keep, p):
    v, a = s.get_value('v'), s.get_value('a')
    return {'v': keep * v - 0.2 * a + p, 'a': 0.5 * a + 0.1 * v**2}


STATES: dict[str, Held] = {
    **{f'h{i}': _plain(50 + i) for i in range(3)},
    'column': _plain(60, *SHAPE, 1, new=lambda s, keep, p: keep * s.value + jnp.sin(p)[..., None]),
    'pairs': _plain(61, *SHAPE, N, read=lambda s: s.value.sum(-1),
                    new=lambda s, keep, p: keep * s.value + 0.2 * p[:, :, None] * p[:, None, :]),
    'long': _plain(62, BATCH, 2 * N,
                   new=lambda s, keep, p: keep * s.value + jnp.concatenate([p, jnp.sin(p)], -1)),
    'shared': _plain(63, N, new=lambda s, keep, p: keep * s.value + p.mean(0)),
    'number': _plain(64, BATCH, 1,
                     new=lambda s, keep, p: keep * s.value + p.mean(-1, keepdims=True)),
    'turned': _plain(65, N, BATCH, read=lambda s: s.value.T,
                     new=lambda s, keep, p: keep * s.value + p.T),
    'stacked': _plain(66, *SHAPE, 2, kind=brainstate.HiddenGroupState,
                      read=lambda s: s.value[..., 0] * jnp.cos(s.value[..., 1]),
                      new=lambda s, keep, p: jnp.stack(
                          [keep * s.value[..., 0] + p, 0.5 * s.value[..., 1] + jnp.sin(p)], -1)),
    'tree': Held(lambda: brainstate.HiddenTreeState(
        {'v': values(*SHAPE, seed=67), 'a': values(*SHAPE, seed=68)}),
                 read=lambda s: s.get_value('v') - s.get_value('a'), new=_tree),
    'complex': Held(lambda: brainstate.HiddenState(values(*SHAPE, seed=69) * (1 + 0.3j)),
                    read=lambda s: (s.value * (1 - 0.2j)).real,
                    new=lambda s, keep, p: keep * (0.9 + 0.3j) * s.value + 1j * p),
    'line': _plain(70, 3, *SHAPE, read=lambda s: s.value[2] + 0.3 * s.value[0],
                   new=lambda s, keep, p: jnp.concatenate([p[None], s.value[:-1]])),
    'ring': _plain(71, 3, *SHAPE, read=lambda s: s.value[1],
                   new=lambda s, keep, p: jnp.roll(s.value, 1, 0).at[0].set(p)),
    'counted': Held(lambda: brainstate.HiddenState(jnp.zeros(SHAPE, int)),
                    read=lambda s: jnp.sin(0.5 * s.value),
                    new=lambda s, keep, p: s.value + (p > 0)),
    'still': _plain(72, new=lambda s, keep, p: s.value),
    'other': _plain(73, kind=brainstate.ShortTermState),
    'average': _plain(74, kind=brainstate.LongTermState),
    'seen': Held(lambda: brainstate.ShortTermState(jnp.zeros(SHAPE, int)),
                 read=lambda s: jnp.cos(0.5 * s.value), new=lambda s, keep, p: s.value + (p > 0)),
    'volts': Held(lambda: brainstate.HiddenState(values(*SHAPE, seed=75) * u.mV),
                  read=lambda s: s.value.to_decimal(u.mV),
                  new=lambda s, keep, p: keep * s.value + p * u.mV),
}  # fmt: skip

#: States by how often they are taken.
SHELF = (*['h0', 'h1', 'h2'] * 4, *STATES)
