"""Delay lines and shift registers, as users write them; see `measured.Case`."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from etrace_compiler import element_wise, matmul

from .measured import N, case, hidden
from .wiring_models import extra

DELAYS = {}


def line(*shape):
    at = lambda: brainstate.ShortTermState(jnp.int32(0))  # noqa: E731
    return extra(line=lambda: hidden(*shape, seed=14), at=at)


def drive(m, x):
    m.h.value = 0.8 * m.h.value + matmul(x, m.W.value)
    return m.h.value


@case(DELAYS, exact='W', setup=line(3, 2, N))
def put_in_front(m, x):
    out = m.line.value[-1]
    m.line.value = jnp.concatenate([drive(m, x)[None], m.line.value[:-1]])
    return out


@case(DELAYS, exact='W', setup=line(2, N, 3))
def put_behind(m, x):
    out = m.line.value[..., 0]
    m.line.value = jnp.concatenate([m.line.value[..., 1:], drive(m, x)[..., None]], axis=-1)
    return out


@case(DELAYS, exact='W', setup=line(2, N, 3))
def rolled_and_set(m, x):
    out = m.line.value[..., -1]
    m.line.value = jnp.roll(m.line.value, 1, axis=-1).at[..., 0].set(drive(m, x))
    return out


@case(DELAYS, exact='W', setup=line(3, 2, N))
def ring_by_dynamic_update(m, x):
    at = m.at.value
    out = lax.dynamic_index_in_dim(m.line.value, at, 0, keepdims=False)
    m.line.value = lax.dynamic_update_index_in_dim(m.line.value, drive(m, x), at, 0)
    m.at.value = (at + 1) % 3
    return out


@case(DELAYS, exact='W', setup=line(2, N, 3))
def ring_by_index(m, x):
    at = m.at.value
    out = m.line.value[..., at]
    m.line.value = m.line.value.at[..., at].set(drive(m, x))
    m.at.value = (at + 1) % 3
    return out


@case(DELAYS, exact='W a', setup=line(3, 2, N))
def ring_that_feeds_back(m, x):
    at = m.at.value
    back = m.line.value[at] * jax.nn.sigmoid(element_wise(m.a.value))
    m.h.value = 0.6 * m.h.value + matmul(x, m.W.value) + 0.5 * back
    m.line.value = m.line.value.at[at].set(m.h.value)
    m.at.value = (at + 1) % 3
    return m.h.value


@case(DELAYS, exact='W', setup=line(3, 2, N))
def delay_per_neuron(m, x):
    m.line.value = jnp.concatenate([drive(m, x)[None], m.line.value[:-1]])
    return m.line.value[np.array([0, 2, 1, 1]), :, np.arange(N)].T


def two_lines(m):
    m.line, m.more = hidden(2, 2, N, seed=14), hidden(2, 2, N, seed=15)


@case(DELAYS, exact='W', setup=two_lines)
def line_after_line(m, x):
    middle, out = m.line.value[-1], m.more.value[-1]
    m.line.value = jnp.concatenate([drive(m, x)[None], m.line.value[:-1]])
    m.more.value = jnp.concatenate([middle[None], m.more.value[:-1]])
    return out + middle


@case(DELAYS, exact='W V', setup=extra(line=lambda: hidden(3, 2, 3, seed=14)))
def register_of_inputs(m, x):
    m.line.value = jnp.concatenate([x[None], m.line.value[:-1]])
    product = matmul(m.line.value[-1], m.W.value) + matmul(m.line.value[0], m.V.value)
    m.h.value = 0.8 * m.h.value + product
    return m.h.value


@case(DELAYS, setup=line(3, 2, N))
def delayed_recurrence(m, x):
    product = matmul(x, m.W.value) + matmul(m.line.value[-1], m.R.value)
    m.h.value = jnp.tanh(0.8 * m.h.value + product)
    m.line.value = jnp.concatenate([m.h.value[None], m.line.value[:-1]])
    return m.h.value


@case(DELAYS, setup=line(40, 2, N))
def too_long(m, x):
    out = m.line.value[2]
    m.line.value = jnp.concatenate([drive(m, x)[None], m.line.value[:-1]])
    return out
