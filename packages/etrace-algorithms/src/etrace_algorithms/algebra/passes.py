"""The pass over a trace that a window makes: what is read off it, and what it becomes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra.block import FullTrace, carry, contract
from etrace_algorithms.algebra.products import add_products, mixed_einsum
from etrace_algorithms.algebra.stored import store

__all__ = ['carry_over', 'read_and_carry']

#: Bytes of a trace that are too many to be passed over several times in a CPU's cache.
_LARGE = 8 * 2**20


def read_and_carry(
    trace: FullTrace, signal: Any, diagonal: Any, f: Any, x: Any
) -> tuple[Any, FullTrace]:
    r"""Return $\langle s, \varepsilon\rangle$ and $P\,\varepsilon + \sum_k f_k \otimes x_k$.

    On a CPU a large trace goes sample by sample: each is read once and written once, in place.

    Args:
        trace: `S` arrays `(G, H, I, O)`.
        signal: `(G, H, O, S)`.
        diagonal: The product of all steps, `(G, H, O, S, S)`.
        f: Drives, each carried to the end of the window, `(K, G, H, O, S)`.
        x: Inputs `(K, G, H, I)`.

    Returns:
        `(H, I, O)`, and the same shapes and dtypes as `trace`.
    """
    given = trace, signal, diagonal, f, x
    if len(signal) == 1 or sum(e.size * e.dtype.itemsize for e in trace) < _LARGE:
        return _at_once(*given)
    return jax.lax.platform_dependent(*given, cpu=_by_sample, default=_at_once)


def _at_once(trace: FullTrace, signal: Any, diagonal: Any, f: Any, x: Any) -> tuple[Any, FullTrace]:
    read = store(contract(signal, trace))
    return read, carry_over(trace, diagonal, f, x, read)


def _by_sample(
    trace: FullTrace, signal: Any, diagonal: Any, f: Any, x: Any
) -> tuple[Any, FullTrace]:
    f, x = jnp.moveaxis(f, 0, 1), jnp.moveaxis(x, 0, 1)  # of one sample in one piece

    def sample(g: Any, done: tuple[Any, FullTrace]) -> tuple[Any, FullTrace]:
        total, trace = done
        of = partial(jax.lax.dynamic_slice_in_dim, start_index=g, slice_size=1)
        old = tuple(map(of, trace))
        if len(old) > 1:  # a new state needs all old ones, where one has been written over
            old = tuple(map(store, old))
        total += contract(of(signal), old)
        drives, inputs = (jnp.moveaxis(of(v), 1, 0) for v in (f, x))
        new = carry_over(old, of(diagonal), drives, inputs, total)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=g, axis=0)
        return total, tuple(put(e, part) for e, part in zip(trace, new, strict=True))

    zeros = jnp.zeros_like(jax.eval_shape(contract, signal, trace))
    return jax.lax.fori_loop(0, len(signal), sample, (zeros, trace))


def carry_over(trace: FullTrace, diagonal: Any, f: Any, x: Any, read: Any) -> FullTrace:
    r"""Return $P\,\varepsilon + \sum_k f_k \otimes x_k$.

    Args:
        trace: See `read_and_carry`, as the next three.
        diagonal: `(G, H, O, S, S)`.
        f: `(K, G, H, O, S)`.
        x: `(K, G, H, I)`.
        read: What was read off the trace. It is made to come first, so that XLA can write the
            new trace in place of the old one.

    Returns:
        The same shapes and dtypes as `trace`.
    """
    first = jnp.broadcast_to(read.ravel()[0], diagonal.shape)
    carried = carry(store(diagonal, first), trace)
    new = (_sum_of_products(f[..., s], x) for s in range(f.shape[-1]))
    return tuple((a + b).astype(e.dtype) for a, b, e in zip(carried, new, trace, strict=True))


def _sum_of_products(f: Any, x: Any) -> Any:
    r"""Return $\sum_k f_k \otimes x_k$, `(G, H, I, O)`."""
    if x.shape[3] == f.shape[3] == 1:
        return add_products(f, x)[..., None]
    return mixed_einsum('kgho,kghi->ghio', f, x)
