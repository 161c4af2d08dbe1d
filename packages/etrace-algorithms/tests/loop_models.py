"""Steps with loops, as users write them; see `measured.Case`."""

import brainstate
import jax
import jax.numpy as jnp
from jax import lax

from etrace_compiler import element_wise, matmul

from .branch_models import leak
from .measured import N, case, hidden, parameter

#: Loops as short as these are followed inside by `ControlFlowPolicy(scan_unroll_limit=0)`.
SUBSTEPS = 3

#: `SPECIAL` are refused, or lose something on purpose.
LOOPS, SPECIAL = {}, {}


@case(LOOPS, exact='W a')
def euler(m, x):
    def body(i, h):
        return h + 0.2 * (matmul(x * jnp.cos(0.3 * i), m.W.value) - leak(m) * h)

    m.h.value = lax.fori_loop(0, SUBSTEPS, body, m.h.value)
    return m.h.value


@case(LOOPS, exact='W a')
def sequences_in_and_out(m, x):
    """A reversed loop over a drive, whose results by substep drive another state."""
    drive = jnp.sin(jnp.arange(SUBSTEPS)[:, None, None]) * matmul(x, m.W.value)

    def body(h, d):
        h = leak(m) * h + 0.3 * d
        return h, jnp.tanh(h) * d

    m.h.value, ys = lax.scan(body, m.h.value, drive, reverse=True)
    m.g.value = 0.5 * m.g.value + ys[1] + ys[-1] * ys.sum(0)
    return m.g.value


@case(LOOPS)
def recurrent_substeps(m, x):
    def body(h, t):
        drive = matmul(x * t, m.W.value) + matmul(h, m.R.value) + element_wise(m.b.value)
        return h + 0.2 * (jnp.tanh(drive) - h), h * t

    m.h.value, ys = lax.scan(body, m.h.value, jnp.linspace(0.1, 1, SUBSTEPS))
    return ys.mean(0) + m.h.value


def keep_a_key(m):
    m.key = brainstate.ShortTermState(jax.random.key(0))
    m.k = hidden(2, N, 1, seed=13)


@case(LOOPS, exact='R', setup=keep_a_key)
def several_carries(m, x):
    """Two groups, a counter and a random key."""

    def body(carry, _):
        h, k, i, key = carry
        key, now = jax.random.split(key)
        h = 0.95 * h + 0.1 * matmul(x, m.W.value) + 0.01 * jax.random.uniform(now, h.shape)
        drive = matmul(jnp.tanh(h), m.R.value)[..., None]
        return (h, 0.9 * k + 0.1 * drive * jnp.cos(i), i + 1, key), None

    carry = (m.h.value, m.k.value, jnp.int32(0), m.key.value)
    carry, _ = lax.scan(body, carry, None, length=3)
    m.h.value, m.k.value, _, m.key.value = carry
    return m.h.value * m.k.value[..., 0]


@case(LOOPS, exact='W a')
def loop_in_a_loop(m, x):
    def inner(h, s):
        return 0.95 * h + 0.1 * matmul(x * s, m.W.value), None

    def outer(h, t):
        h, _ = lax.scan(inner, h, jnp.linspace(0.2, 1, 2))
        return h - 0.2 * jnp.tanh(h) * leak(m), h[0] * t

    m.h.value, ys = lax.scan(outer, m.h.value, jnp.array([1.0, 2.0]))
    return m.h.value + ys.sum(0)


@case(LOOPS, exact='W V')
def branch_in_a_loop(m, x):
    y = matmul(x, m.W.value)

    def body(i, h):
        def swing(h):
            return h + 0.1 * jnp.tanh(matmul(x * (1 + i), m.V.value))

        return lax.cond(i % 2 == 0, lambda h: 0.9 * h + 0.1 * y, swing, h)

    m.h.value = lax.fori_loop(0, SUBSTEPS, body, m.h.value)
    return m.h.value


@case(LOOPS, exact='W')
def loop_in_a_branch(m, x):
    def loop(h):
        def body(i, h):
            return 0.9 * h + 0.1 * matmul(x * i, m.W.value)

        return lax.fori_loop(0, SUBSTEPS, body, h)

    m.h.value = lax.cond(x.sum() > 0, loop, lambda h: 0.5 * h, m.h.value)
    return m.h.value


def wrapped(wrap, x, m):
    def loop(h, x, w):
        def body(i, h):
            return 0.9 * h + 0.1 * matmul(x * jnp.cos(i), w) * jnp.sin(h)

        return lax.fori_loop(0, SUBSTEPS, body, h)

    return wrap(loop)(m.h.value, x, m.W.value)


@case(LOOPS, exact='W', name='loop_in_jit_in_checkpoint')
def loop_in_calls(m, x):
    m.h.value = wrapped(lambda f: jax.checkpoint(jax.jit(f)), x, m)
    return m.h.value


@case(LOOPS, exact='W')
def loop_in_vmap(m, x):
    m.h.value = wrapped(lambda f: jax.vmap(f, in_axes=(0, 0, None)), x, m)
    return m.h.value


@case(LOOPS, exact='W a')
def vmap_and_checkpoint_in_a_loop(m, x):
    @jax.checkpoint
    def body(h, t):
        def step(h, x):
            return leak(m) * h + 0.1 * matmul(x * t, m.W.value)

        return jax.vmap(step)(h, x), None

    m.h.value, _ = lax.scan(body, m.h.value, jnp.linspace(0.1, 1, SUBSTEPS))
    return m.h.value


@jax.custom_jvp
def jvp_spike(v):
    return (v > 0).astype(v.dtype)


jvp_spike.defjvp(lambda p, t: (jvp_spike(*p), t[0] / (1 + 9 * p[0] ** 2)))


@jax.custom_vjp
def vjp_spike(v):
    return (v > 0).astype(v.dtype)


vjp_spike.defvjp(lambda v: (vjp_spike(v), v), lambda v, c: (c / (1 + 9 * v**2),))


@case(LOOPS, exact='W')
def surrogates_in_a_loop(m, x):
    def body(carry, _):
        v, a = carry
        v = 0.9 * v + 0.4 * matmul(x, m.W.value) - 0.2 * a
        z = jvp_spike(v - 0.3) + 0.5 * vjp_spike(v - 0.1)
        return (v - 0.3 * z, 0.9 * a + 0.3 * z), z

    (m.h.value, m.g.value), spikes = lax.scan(body, (m.h.value, m.g.value), None, length=SUBSTEPS)
    return spikes.sum(0)


@case(LOOPS, exact='W')
def states_inside_the_loop(m, x):
    def substep(i):
        m.h.value = 0.9 * m.h.value + 0.1 * matmul(x * jnp.cos(i), m.W.value)
        m.g.value = 0.8 * m.g.value + 0.2 * jnp.tanh(m.h.value)
        return m.g.value.mean()

    means = brainstate.transform.for_loop(substep, jnp.arange(SUBSTEPS))
    return m.g.value + means.sum()


@case(LOOPS, exact='W a')
def local_carry(m, x):
    """The carry is no state: it begins at zero in every step."""

    def body(z, t):
        return leak(m) * z + matmul(x * t, m.W.value), None

    z, _ = lax.scan(body, jnp.zeros((2, N)), jnp.linspace(0.1, 1, SUBSTEPS))
    m.h.value = 0.6 * m.h.value + jnp.tanh(z)
    return m.h.value


@case(LOOPS, exact='W')
def filled_buffer(m, x):
    """Values by substep are written into an array by index."""

    def body(i, carry):
        h, seen = carry
        h = 0.8 * h + 0.1 * matmul(x * (i + 1), m.W.value)
        return h, seen.at[i].set(h)

    m.h.value, seen = lax.fori_loop(0, SUBSTEPS, body, (m.h.value, jnp.zeros((SUBSTEPS, 2, N))))
    m.g.value = 0.5 * m.g.value + jnp.tanh(seen[1]) * seen[-1]
    return m.g.value


@case(LOOPS, exact='W')
def two_loops(m, x):
    def body(i, h):
        return 0.9 * h + 0.1 * matmul(x * jnp.cos(i), m.W.value)

    m.h.value = lax.fori_loop(0, SUBSTEPS, body, m.h.value)
    m.h.value = lax.fori_loop(1, SUBSTEPS, body, jnp.tanh(m.h.value))
    return m.h.value


@case(LOOPS, exact='W')
def map_over_samples(m, x):
    def sample(hx):
        h, x = hx
        return 0.7 * jnp.tanh(h) + matmul(x, m.W.value)

    m.h.value = lax.map(sample, (m.h.value, x))
    return m.h.value


@case(LOOPS, exact='W', shape=(5, 3), setup=lambda m: setattr(m, 'h', hidden(5, N, seed=11)))
def map_in_batches(m, x):
    def sample(hx):
        h, x = hx
        return 0.7 * jnp.tanh(h) + matmul(x, m.W.value)

    m.h.value = lax.map(sample, (m.h.value, x), batch_size=2)
    return m.h.value


# ---------------------------------------------------------------- what is refused or dropped


def detached_halves(m, x):
    """The same as `halving`, with a loop of a fixed length that passes no derivative."""

    def body(i, h):
        return jnp.where(jnp.abs(h).sum() > 2, 0.5 * h, h)

    small = lax.fori_loop(0, 60, body, lax.stop_gradient(m.h.value))
    m.h.value = 0.5 * m.h.value + 0.3 * small + matmul(x, m.W.value)
    return m.h.value


@case(SPECIAL, loose='W', twin=detached_halves)
def halving(m, x):
    """A `while` without a weight: its value counts, and it passes no derivative."""
    small = lax.while_loop(lambda h: jnp.abs(h).sum() > 2, lambda h: 0.5 * h, m.h.value)
    m.h.value = 0.5 * m.h.value + 0.3 * small + matmul(x, m.W.value)
    return m.h.value


@case(SPECIAL)
def weight_in_while(m, x):
    def body(h):
        return 0.5 * h + matmul(x, m.W.value)

    m.h.value = lax.while_loop(lambda h: jnp.abs(h).sum() > 3, body, m.h.value)
    return m.h.value


@case(SPECIAL)
def bounds_from_data(m, x):
    """The number of substeps depends on the input: JAX makes a `while` of it."""

    def body(i, h):
        return 0.9 * h + 0.1 * matmul(x, m.W.value)

    m.h.value = lax.fori_loop(0, jnp.int32(jnp.abs(x[0, 0])), body, m.h.value)
    return m.h.value


@jax.custom_vjp
def scaled_backward(x, w):
    return matmul(x, w)


scaled_backward.defvjp(
    lambda x, w: (scaled_backward(x, w), (x, w)),
    lambda kept, c: (c @ kept[1].T, 0.5 * kept[0].T @ c),
)


@case(SPECIAL, exact='V')
def operator_with_a_rule(m, x):
    """A marked operator in a function with a derivative rule of its own."""
    drive = scaled_backward(x, m.W.value) + matmul(x, m.V.value)
    m.h.value = 0.6 * m.h.value + drive
    return m.h.value


@case(SPECIAL, exact='S V', weights=lambda m: setattr(m, 'S', parameter(SUBSTEPS, 3, N, seed=22)))
def weight_by_substep(m, x):
    def body(h, w):
        return (0.9 * h + 0.2 * matmul(x, w), None)

    m.h.value, _ = lax.scan(body, m.h.value + matmul(x, m.V.value), m.S.value)
    return m.h.value


def substeps(count):
    """A loop of some length, with an operator and a decay inside."""

    def step(m, x):
        def body(i, h):
            return leak(m) * h + 0.1 * matmul(x * jnp.cos(i), m.W.value)

        m.h.value = lax.fori_loop(0, count, body, m.h.value)
        return m.h.value

    return step


case(SPECIAL, exact='W a', name='long_loop')(substeps(20))


def mapped(count):
    """A map over copies of the state."""

    def step(m, x):
        y = matmul(x, m.W.value)
        seen = lax.map(lambda t: jnp.tanh(m.h.value) * t + y, jnp.linspace(0, 0.05, count))
        m.h.value = seen.mean(0) + seen[-1]
        return m.h.value

    return step
