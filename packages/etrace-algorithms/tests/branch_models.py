"""Steps with branches, as users write them; see `measured.Case`."""

import brainstate
import jax
import jax.numpy as jnp
from jax import lax

from etrace_compiler import element_wise, matmul

from .measured import N, case, parameter

#: `SAFE` are branches that are not taken, where derivatives are infinite.
BRANCHES, SAFE = {}, {}


def leak(m):
    """A trainable decay of 0.4 to 0.8, one per neuron."""
    return 0.4 + 0.4 * jax.nn.sigmoid(element_wise(m.a.value))


# ---------------------------------------------------------------- branches


@case(BRANCHES, exact='W a')
def tails_in_branches(m, x):
    y = matmul(x, m.W.value)
    m.h.value = lax.cond(
        x.sum() > 0, lambda h: 0.8 * h + jnp.tanh(y), lambda h: leak(m) * jnp.sin(h) + y, m.h.value
    )
    return m.h.value


@case(BRANCHES, exact='W V b')
def operators_in_branches(m, x):
    m.h.value = lax.cond(
        x.sum() > 0,
        lambda h: 0.8 * h + matmul(x, m.W.value),
        lambda h: jnp.sin(h) + matmul(x, m.V.value, m.b.value),
        m.h.value,
    )
    return m.h.value


@case(BRANCHES)
def recurrence_in_a_branch(m, x):
    m.h.value = lax.cond(
        x.sum() > 0,
        lambda h: 0.8 * h + matmul(x, m.W.value),
        lambda h: 0.3 * h + jnp.tanh(matmul(h, m.R.value)),
        m.h.value,
    )
    return m.h.value


@case(BRANCHES, exact='W')
def branch_by_state(m, x):
    y = matmul(x, m.W.value)
    m.h.value, m.g.value = lax.cond(
        m.h.value.sum() > 0,
        lambda h, g: (0.8 * h + y, 0.9 * g + h),
        lambda h, g: (0.5 * h - g, 0.4 * g + jnp.tanh(y)),
        *(m.h.value, m.g.value),
    )
    return m.h.value * m.g.value


@case(BRANCHES, exact='W a')
def switch_of_three(m, x):
    h = m.h.value
    branches = (
        lambda h: 0.8 * h + matmul(x, m.W.value),
        lambda h: jnp.tanh(h) + matmul(x**2, m.W.value),
        lambda h: leak(m) * h,
    )
    m.h.value = lax.switch(jnp.int32(jnp.abs(3 * x[0, 0])) % 3, branches, h)
    return h * m.h.value


@case(BRANCHES, exact='W V')
def branch_in_a_branch(m, x):
    def outer(h):
        deeper = lax.cond(x[0, 0] > 0, lambda h: 0.7 * h, lambda h: h**2, h)
        return deeper + matmul(x, m.W.value)

    m.h.value = lax.cond(x.sum() > 0, outer, lambda h: 0.6 * h + matmul(x, m.V.value), m.h.value)
    return m.h.value


@case(BRANCHES, exact='W a')
def elementwise_selection(m, x):
    y = matmul(x, m.W.value)
    h = m.h.value
    m.h.value = jnp.where(h > 0, 0.8 * h + y, leak(m) * jnp.sin(h) + y)
    return m.h.value


@case(BRANCHES, exact='W')
def branch_with_states_inside(m, x):
    def integrate():
        m.h.value = 0.9 * m.h.value + matmul(x, m.W.value)

    def rest():
        m.h.value = jnp.tanh(m.h.value)

    brainstate.transform.cond(x.sum() > 0, integrate, rest)
    return m.h.value


@case(BRANCHES, exact='E', weights=lambda m: setattr(m, 'E', parameter(3, 3, N, seed=21)))
def experts(m, x):
    chosen = jnp.int32(jnp.abs(3 * x[0, 0])) % 3
    branches = [lambda k=k: matmul(x, m.E.value[k]) for k in range(3)]
    m.h.value = 0.8 * m.h.value + lax.switch(chosen, branches)
    return m.h.value


# ---------------------------------------------------------------- infinite derivatives, not taken


@case(SAFE, exact='W')
def root_of_zero_data(m, x):
    y = matmul(x * jnp.array([[1.0], [0.0]]), m.W.value)
    m.h.value = lax.cond(x.sum() > 1e3, lambda h: jnp.sqrt(y) + h, lambda h: 0.5 * h + y, m.h.value)
    return m.h.value


@case(SAFE, exact='W')
def logarithm_of_zero_state(m, x):
    start = m.h.value * jnp.array([1.0, 0.0, 1.0, 0.0])
    change = lax.cond(x.sum() > 1e3, lambda: jnp.log(start**2), lambda: 0.5 * start)
    m.h.value = change + matmul(x, m.W.value)
    return m.h.value


@case(SAFE, exact='W')
def root_of_a_product_in_the_branch(m, x):
    """The operator stands inside the branch: its weight enters without a gate."""
    silent = 0.0 * x
    m.h.value = 0.5 * m.h.value + lax.cond(
        x.sum() > 1e3, lambda: jnp.sqrt(matmul(silent, m.W.value)), lambda: matmul(x, m.W.value)
    )
    return m.h.value


@case(SAFE, exact='W a')
def root_in_an_inner_branch(m, x):
    silent = 0.0 * x

    def outer():
        def root():
            return jnp.sqrt(matmul(silent, m.W.value) * element_wise(m.a.value))

        return lax.cond(x.sum() < 1e3, root, lambda: matmul(x, m.W.value))

    m.h.value = 0.5 * m.h.value * leak(m)
    m.h.value += lax.cond(x.sum() > 1e3, outer, lambda: matmul(x, m.W.value))
    return m.h.value
