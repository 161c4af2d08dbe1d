"""What a random model may do in a step: operations, loops and branches.

Every entry is one idiom that a user may write. Values in a step have any shape; `fit` brings one to
the shape in which the next operation works, by slicing and broadcasting.
"""

from collections.abc import Callable

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import element_wise, matmul

from .random_parts import SHELF, N, centred, clipped, gated, spike, straight

# ---------------------------------------------------------------- functions of one value

PERMUTATION = np.array([2, 0, 3, 1])
MIXING = np.random.RandomState(40).randn(N, N) * 0.5

#: Functions that keep every element where it is.
POINTWISE: dict[str, Callable] = {
    'tanh': jnp.tanh,
    'half': lambda a: 0.5 * a,
    'square': lambda a: 0.3 * a**2,
    'relu': jax.nn.relu,
    'silu': lambda a: jax.jit(jax.nn.silu)(a),
    'softplus': jax.nn.softplus,
    'bell': lambda a: jnp.exp(-(a**2)),
    'ratio': lambda a: a / (1 + a**2),
    'abs': jnp.abs,
    'clip': lambda a: jnp.clip(a, -0.7, 0.7),
    'floor': jnp.floor,
    'above zero': lambda a: (a > 0).astype(float),
    'where': lambda a: jnp.where(a > 0.1, a, 0.2 * a),
    'stopped': jax.lax.stop_gradient,
    'half stopped': lambda a: jax.lax.stop_gradient(a) * a,
    'turned': lambda a: (a * (1 + 0.5j) * jnp.exp(1j * a)).real,
    'masked': lambda a: a * np.array([1.0, 0.0, 0.5, 1.0]),
    'spike': spike,
    'straight': straight,
    'clipped': clipped,
    'centred': centred,
    'while': lambda a: a + jax.lax.while_loop(
        lambda c: jnp.sum(jnp.abs(c)) > 1, lambda c: 0.5 * c, jax.lax.stop_gradient(a)),
}  # fmt: skip

#: Functions that move or mix elements, or change the shape.
STRUCTURAL: dict[str, Callable] = {
    'roll': lambda a: jnp.roll(a, 1, -1),
    'flip': lambda a: a[..., ::-1],
    'flip rows': lambda a: a[::-1],
    'shift': lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(1, 0)])[..., :-1],
    'swap halves': lambda a: jnp.concatenate(jnp.split(a, 2, -1)[::-1], -1),
    'mixed halves': lambda a: jnp.concatenate([a[..., :2] * a[..., 2:], a[..., 1:3]], -1),
    'turn': lambda a: a.T.reshape(a.shape),
    'pairs': lambda a: a.reshape(*a.shape[:-1], 2, 2).swapaxes(-1, -2),
    'gather': lambda a: a[..., PERMUTATION],
    'repeat': lambda a: a[..., np.array([0, 0, 1, 2])],
    'take': lambda a: jnp.take_along_axis(a, jnp.argsort(a, axis=-1), -1),
    'where it is most': lambda a: jax.lax.dynamic_slice_in_dim(
        jnp.concatenate([a, a], -1), jnp.argmax(a.reshape(-1)) % N, N, axis=-1),
    'first two': lambda a: a.at[..., 2:].set(0.3),
    'add at': lambda a: a.at[..., np.array([0, 0, 3])].add(0.5 * a[..., :3]),
    'max': lambda a: jax.lax.top_k(a, 1)[0],  # whose derivative compares no rounded copies
    'mean': lambda a: a.mean(-1, keepdims=True),
    'mean of rows': lambda a: a.mean(0),
    'total': lambda a: 0.1 * a.sum(),
    'softmax': lambda a: jax.nn.softmax(a, -1),
    'layer norm': lambda a: (a - a.mean(-1, keepdims=True)) / jnp.sqrt(
        a.var(-1, keepdims=True) + 0.1),
    'batch norm': lambda a: (a - a.mean(0)) / jnp.sqrt(a.var(0) + 0.1),
    'sort': lambda a: jnp.sort(a, -1),
    'cumsum': lambda a: 0.4 * jnp.cumsum(a, -1),
    'outer': lambda a: 0.4 * a[..., :, None] * a[..., None, :],
    'column': lambda a: jnp.sin(a)[..., None],
    'stack': lambda a: jnp.stack([a, a**2], -2),
    'twice': lambda a: jnp.concatenate([a, 0.5 * a[..., ::-1]], -1),
    'half of it': lambda a: a[..., 1:3],
    'fixed product': lambda a: a @ MIXING,
    'diagonal product': lambda a: a @ np.diag([0.9, 0.5, -0.5, 0.7]),
    'eye': lambda a: jnp.einsum('...i,ij->...ij', a, jnp.eye(N)).sum(-1),
}  # fmt: skip

# ---------------------------------------------------------------- operations of several values


def _product(f, p, q, k):
    return matmul(p, f.weight('PQ'[k % 2], k))


def _ring_write(f, p, q, k):
    """A write at a place that is data: a delay line with a pointer."""
    if f.pure:
        return None
    line, at = f.state('line'), f.state('seen')
    line.value = line.value.at[at.value[0, 0] % 3].set(p)
    at.value = at.value + 1
    return None


def _noise(f, p, q, k):
    if f.pure:
        return p + 0.1 * jax.random.normal(jax.random.key(k), p.shape)
    return p + 0.1 * brainstate.random.randn(*p.shape)


#: Functions of the frame, two values and a number that return a new value, or `None`.
OPERATIONS: dict[str, Callable] = {
    'input': lambda f, p, q, k: matmul(f.x, f.weight('WV'[k % 2], k)),
    'product': _product,
    'wide product': lambda f, p, q, k: matmul(p, f.weight('wide', k)),
    'product with bias': lambda f, p, q, k: matmul(
        p, f.param('linear')['weight'], f.param('linear')['bias'], weight_fn=jnp.sin),
    'product with units': lambda f, p, q, k: matmul(f.x, f.param('volt')).to_decimal(u.mV),
    'product of rows': lambda f, p, q, k: jax.vmap(lambda a: matmul(a, f.weight('P', k)))(p)
    if p.ndim > 1 else None,
    'product with data': lambda f, p, q, k: matmul(p, f.param('Q') * jnp.tanh(q).mean()),
    'plain product': lambda f, p, q, k: p @ f.param('PQ'[k % 2]),
    'gain': lambda f, p, q, k: jax.nn.sigmoid(element_wise(f.weight('gain', k))) * p,
    'leak': lambda f, p, q, k: element_wise(f.param('leak'), weight_fn=jax.nn.sigmoid) * p,
    'scale': lambda f, p, q, k: element_wise(f.param('scale')) * p,
    'offset': lambda f, p, q, k: p + element_wise(f.param('gain')),
    'plain gain': lambda f, p, q, k: p * f.param('gain'),
    'add': lambda f, p, q, k: p + q,
    'subtract': lambda f, p, q, k: p - 0.5 * q,
    'multiply': lambda f, p, q, k: p * jnp.tanh(q),
    'select': lambda f, p, q, k: jnp.where(q > 0, p, 0.3 * q),
    'gated': lambda f, p, q, k: gated(p, q),
    'join': lambda f, p, q, k: jnp.concatenate([p, q], -1),
    'contract': lambda f, p, q, k: 0.4 * jnp.einsum('...i,...j->...j', p, q),
    'place': lambda f, p, q, k: p.at[..., 1].set(q[..., 2]),
    'read': lambda f, p, q, k: f.read(SHELF[k % len(SHELF)]),
    'write': lambda f, p, q, k: f.write(SHELF[k % len(SHELF)], 0.0, p),
    'integrate': lambda f, p, q, k: f.write(SHELF[k % len(SHELF)], 0.6, p),
    'integrate gain': lambda f, p, q, k: f.write(
        f'h{k % 3}', jax.nn.sigmoid(element_wise(f.param('leak'))), p),
    'write the ring': _ring_write,
    'noise': _noise,
    'show': lambda f, p, q, k: f.show(p),
}  # fmt: skip

# ---------------------------------------------------------------- loops and branches

#: Those among them that the compiler follows.
MARKED = (
    'input', 'input', 'product', 'product', 'wide product', 'product with bias',
    'product with units', 'product of rows', 'gain', 'leak', 'scale', 'offset',
)  # fmt: skip


def _cond(f, p, k, body):
    cond = jax.lax.cond if f.pure else brainstate.transform.cond
    is_taken = p.reshape(-1)[0] > 0 if k % 2 else f.x.sum() > 0
    return cond(is_taken, lambda a: body(a), (jnp.sin, lambda a: 0.3 * a[..., ::-1])[k % 3 > 1], p)


def _switch(f, p, k, body):
    switch = jax.lax.switch if f.pure else brainstate.transform.switch
    index = jnp.clip(jnp.floor(1 + 2 * p.reshape(-1)[1]), 0, 2).astype(int)
    return switch(index, [lambda a: body(a), lambda a: 0.5 * a, jnp.cos], p)


def _scan(length, reverse=False):
    def run(f, p, k, body):
        def step(c, i):
            c = 0.3 * c + 0.5 * jnp.sin(body(c, i))
            return c, c * i

        steps = jnp.linspace(0.5, 1.0, length)
        if f.pure:
            last, every = jax.lax.scan(step, p, steps, reverse=reverse)
        else:
            last, every = brainstate.transform.scan(step, p, steps, reverse=reverse)
        return (last, every.mean(0), every[1], last)[k % 4]

    return run


def _loop(f, p, k, body):
    if f.pure:
        return jax.lax.fori_loop(0, 3, lambda i, c: 0.5 * body(c), p)
    outs = brainstate.transform.for_loop(lambda i: body(p, i), jnp.arange(2.0))
    return outs[k % 2]


def _substeps(f, p, k, body):
    """Small steps of one state, driven by a value that stays."""
    if f.pure:
        return None
    state = f.state(f'h{k % 3}')

    def step(h, _):
        return h + 0.1 * (body(p, h, pure=True) - h), None

    state.value = jax.lax.scan(step, state.value, None, length=(2, 18)[k % 2])[0]
    return state.value


#: Functions of the frame, a value, a number, and a body: a function of its first values.
BLOCKS: dict[str, Callable] = {
    'cond': _cond,
    'switch': _switch,
    'scan short': _scan(3),
    'scan long': _scan(18),
    'scan back': _scan(17, reverse=True),
    'loop': _loop,
    'substeps': _substeps,
    'fori': lambda f, p, k, body: jax.lax.fori_loop(
        0, (3, 18)[k % 2], lambda i, c: 0.5 * body(c, pure=True), p),
    'map': lambda f, p, k, body: jax.lax.map(lambda a: body(a, pure=True), p),
    'vmap': lambda f, p, k, body: jax.vmap(lambda a: body(a, pure=True))(p),
    'jit': lambda f, p, k, body: (jax.jit(lambda a: body(a, pure=True))(p) if k % 2 or f.pure
                                  else brainstate.transform.jit(lambda a: body(a))(p)),
    'checkpoint': lambda f, p, k, body: (
        jax.checkpoint(lambda a: body(a, pure=True))(p) if k % 2 or f.pure
        else brainstate.transform.checkpoint(lambda a: body(a))(p)),
}  # fmt: skip
