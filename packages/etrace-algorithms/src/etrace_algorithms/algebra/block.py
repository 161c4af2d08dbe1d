"""The operations on one relation's trace.

A trace is a tuple of `S` arrays `(G, H, I, O)`, one buffer per state: the states of a position
are few, and an axis of length `S` at the end of the largest array would be walked in strides.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra.active import scatter_inputs
from etrace_algorithms.algebra.products import add_products, mixed_einsum
from etrace_algorithms.algebra.stored import store
from etrace_compiler import SparseInput

__all__ = [
    'apply_diagonal',
    'carry_drive',
    'column_gradient',
    'contract',
    'multiply_diagonals',
    'outer',
    'outer_gradient',
    'product_gradient',
    'pull_drive',
    'sum_of_products',
]

#: Up to this size of `G` a sum over it is written out.
_UNROLL = 32

#: Beyond, so many are written out at a time: a core reads no more streams at once without stalls.
_STREAMS = 16

#: A product of so few rows is an outer product: all of its time goes into writing the result.
_FEW = 4

#: Up to this number of states per position a sum over them is written out.
_WRITTEN_OUT = 8

FullTrace = tuple[Any, ...]


def outer(f: Any, x: Any, substeps: int = 1) -> FullTrace:
    r"""Form one step's contribution to a trace, $f \otimes x$, summed over substeps.

    Args:
        f: Drive `(K G, H, O, S)`.
        x: Input `(K G, H, I)`.
        substeps: How many substeps lie side by side on the first axis, `K`.

    Returns:
        `S` arrays `(G, H, I, O)`.
    """
    if substeps > 1:
        f = f.reshape((substeps, -1, *f.shape[1:]))
        x = x.reshape((substeps, -1, *x.shape[1:]))
        return tuple(mixed_einsum('kgho,kghi->ghio', f[..., s], x) for s in range(f.shape[-1]))
    x = store(x)
    return tuple(store(f[..., s])[:, :, None] * x[:, :, :, None] for s in range(f.shape[-1]))


def carry_drive(diagonal: Any, f: Any) -> Any:
    r"""Carry a trace without an input axis over one step: $D\,\epsilon^f$.

    Args:
        diagonal: `(G, H, O, S, S)`.
        f: `(G, H, O, S)`.

    Returns:
        The same shape as `f`.
    """
    return _by_state(lambda s: _dot(diagonal[..., s, :], f), f.shape[-1])


def contract(signal: Any, trace: FullTrace) -> Any:
    r"""Contract a signal with a trace into a weight gradient, $\langle s, \varepsilon\rangle$.

    Args:
        signal: `(G, H, O, S)`.
        trace: `S` arrays `(G, H, I, O)`.

    Returns:
        `(H, I, O)`.
    """
    if len(signal) <= _UNROLL:
        return _sum_samples(signal, trace, range(len(signal)))
    return jax.lax.platform_dependent(signal, trace, cpu=_sum_in_blocks, default=_sum_einsum)


def _sum_samples(signal: Any, trace: FullTrace, samples: Iterable[Any]) -> Any:
    """Contract in one pass over the trace, in the order in which it lies in memory."""
    at = itertools.product(samples, enumerate(trace))
    return reduce(add, (signal[g, :, None, :, s] * e[g] for g, (s, e) in at))


def _sum_in_blocks(signal: Any, trace: FullTrace) -> Any:
    """Contract so many samples at a time."""
    signal, trace = jax.tree.map(jnp.asarray, (signal, trace))  # numpy knows no traced index

    def block(start: Any, size: int = _STREAMS) -> Any:
        # one by one: a slice of several is a copy of them
        return _sum_samples(signal, trace, (start + g for g in range(size)))

    count, rest = divmod(len(signal), _STREAMS)
    last = block(count * _STREAMS, rest) if rest else jnp.zeros_like(jax.eval_shape(block, 0))
    return jax.lax.fori_loop(0, count, lambda n, total: total + block(n * _STREAMS), last)


def _sum_einsum(signal: Any, trace: FullTrace) -> Any:
    """Leave the contraction to the compiler."""
    parts = (jnp.einsum('gho,ghio->hio', signal[..., s], e) for s, e in enumerate(trace))
    return reduce(add, parts)


def outer_gradient(signal: Any, f: Any, x: Any) -> Any:
    r"""Contract a signal with an outer product, $\langle s, f\otimes x\rangle$, not formed.

    Args:
        signal: `(G, H, O, S)`.
        f: `(G, H, O, S)`.
        x: `(G, H, I)`.

    Returns:
        `(H, I, O)`.
    """
    return product_gradient(pull_drive(signal, f), x)


def pull_drive(signal: Any, f: Any) -> Any:
    r"""Pull a signal back to the result of an operation, $\langle s, f\rangle$ over states.

    Args:
        signal: `(..., S)`.
        f: `(..., S)`.

    Returns:
        `(...)`.
    """
    return _dot(signal, f)


def product_gradient(cotangent: Any, x: Any) -> Any:
    r"""Turn the cotangent of an operation's result into the gradient of its weight.

    Args:
        cotangent: `(G, H, O)`.
        x: `(G, H, I)`, an array or a `SparseInput`.

    Returns:
        `(H, I, O)`.
    """
    if isinstance(x, SparseInput):
        return scatter_inputs(x.index, x.value[..., None] * cotangent[:, :, None], x.size)
    if x.shape[2] == cotangent.shape[2] == 1:
        return add_products(cotangent, x)[..., None]
    if jnp.iscomplexobj(cotangent) and not jnp.iscomplexobj(x):  # two real products, not four
        return jax.lax.complex(
            product_gradient(cotangent.real, x), product_gradient(cotangent.imag, x)
        )
    if len(x) <= _FEW:
        # written where the gradients of steps are added up, in the same pass over them
        x, rows = store(x), store(cotangent, jnp.broadcast_to(x[:, :, :1], cotangent.shape))
        return reduce(add, (rows[g, :, None] * x[g, :, :, None] for g in range(len(x))))
    return jnp.einsum('gho,ghi->hio', cotangent, x)


def column_gradient(cotangent: Any, x: Any, columns: Any) -> Any:
    r"""`product_gradient` of a cotangent of which some columns are different from zero.

    Args:
        cotangent: `(G, H, O)`.
        x: `(G, H, I)`, an array or a `SparseInput`.
        columns: Which of the `O` columns, in order; at least one.

    Returns:
        `(H, I, O)`.
    """
    start, stop, width = int(columns[0]), int(columns[-1]) + 1, cotangent.shape[2]
    if stop - start == width or len(jax.tree.leaves(x)[0]) <= _FEW:
        return product_gradient(cotangent, x)
    part = product_gradient(cotangent[:, :, start:stop], x)
    return jnp.pad(part, ((0, 0), (0, 0), (start, width - stop)))


def sum_of_products(parts: Sequence[tuple[Any, Any, Any]]) -> Any:
    """Add up the gradients of products: as rows of one product, or column by column.

    Args:
        parts: Arguments of `column_gradient`.

    Returns:
        `(H, I, O)`.
    """
    cotangents, inputs, columns = zip(*parts, strict=True)
    spans = sorted((c[0], c[-1]) for c in columns)
    apart = all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    sparse = any(isinstance(x, SparseInput) for x in inputs)
    if sparse or len(parts) == 1 or (apart and len(inputs[0]) > _FEW):
        return reduce(add, (column_gradient(*part) for part in parts))
    return product_gradient(jnp.concatenate(cotangents), jnp.concatenate(inputs))


def apply_diagonal(diagonal: Any, signal: Any) -> Any:
    r"""Pull a signal back over one step: $D^\top L$ at every position.

    Args:
        diagonal: `(..., S, S)`.
        signal: `(..., S)`.

    Returns:
        `(..., S)`.
    """
    return _by_state(lambda r: _dot(diagonal[..., r], signal), signal.shape[-1])


def multiply_diagonals(later: Any, earlier: Any) -> Any:
    """Multiply the matrices of each position.

    Args:
        later: `(..., S, S)`.
        earlier: `(..., S, S)`.

    Returns:
        `(..., S, S)`.
    """
    size = later.shape[-1]
    return jnp.stack(
        [
            _by_state(lambda r, s=s: _dot(later[..., s, :], earlier[..., :, r]), size)
            for s in range(size)
        ],
        axis=-2,
    )


def _by_state(value: Callable[[int], Any], size: int) -> Any:
    return jnp.stack([value(s) for s in range(size)], axis=-1)


def _dot(a: Any, b: Any) -> Any:
    """Sum the products over the last axis, written out: it is too short for a loop of its own."""
    size = a.shape[-1]
    if size > _WRITTEN_OUT:
        return jnp.sum(a * b, axis=-1)
    return reduce(add, (a[..., s] * b[..., s] for s in range(size)))
