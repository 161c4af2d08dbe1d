"""Passes over a trace: what it becomes, and what is read off it on the way."""

import os
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms.algebra.block import FullTrace, contract
from etrace_algorithms.algebra.products import add_products, mixed_einsum
from etrace_algorithms.algebra.stored import store

__all__ = ['Pattern', 'advance', 'read_and_advance']

#: Bytes of a trace that are too many to be passed over several times in a CPU's cache.
_LARGE = 8 * 2**20

#: XLA writes a sample on one core; so many cores are as fast with five passes over all samples.
_CORES = 4


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which factors of a pass can be other than zero; what cannot is left out.

    Attributes:
        carries: Of the diagonal, bools `(S, S)`.
        drives: Of the drives, bools `(S,)`.
    """

    carries: np.ndarray
    drives: np.ndarray

    @classmethod
    def full(cls, states: int) -> 'Pattern':
        """Return the pattern of which nothing is known."""
        return cls(np.ones((states, states), bool), np.ones(states, bool))

    def over_steps(self) -> 'Pattern':
        """Return the pattern of several steps: of products of diagonals, and drives they carry."""
        carries = self.carries
        for _ in carries:
            carries = carries | (carries @ self.carries)
        return Pattern(carries, self.drives | (carries @ self.drives))

    @property
    def order(self) -> list[int]:
        """The states in an order in which few are written over that others still want."""
        left, found = list(range(len(self.drives))), []
        while left:
            readers = {s: self.carries[left, s].sum() - self.carries[s, s] for s in left}
            found.append(min(left, key=readers.__getitem__))
            left.remove(found[-1])
        return found


def advance(
    trace: FullTrace,
    diagonal: Any,
    f: Any,
    x: Any,
    pattern: Pattern | None = None,
    after: Any = None,
) -> FullTrace:
    r"""Return $P\,\varepsilon + \sum_k f_k \otimes x_k$.

    State by state, each to be known before the next: then XLA can write it in place of the old
    one if no other wants that any more, where it would copy all of them otherwise.

    Args:
        trace: `S` arrays `(G, H, I, O)`.
        diagonal: $P$, `(G, H, O, S, S)`.
        f: Drives `(K, G, H, O, S)`, one per step or substep.
        x: Inputs `(K, G, H, I)`.
        pattern: What can be other than zero; by default everything.
        after: A real number that has to be known first.

    Returns:
        The same shapes and dtypes as `trace`.
    """
    pattern = pattern or Pattern.full(len(trace))
    new: dict[int, Any] = {}
    for s in pattern.order:
        new[s] = _advance_state(s, trace, diagonal, f, x, pattern, after)
        after = new[s].real.ravel()[0]
    return tuple(new[s] for s in range(len(trace)))


def _advance_state(
    s: int, trace: FullTrace, diagonal: Any, f: Any, x: Any, pattern: Pattern, after: Any
) -> Any:
    # stored as a row and once more by entry: otherwise XLA computes it again for each element
    # where it writes into a slice
    row = _after(after, diagonal[..., s, :])
    terms = [store(row[..., r])[:, :, None] * trace[r] for r in np.flatnonzero(pattern.carries[s])]
    if pattern.drives[s]:
        terms.append(_sum_of_products(f[..., s], x, after))
    total = reduce(add, terms) if terms else jnp.zeros_like(trace[s])
    return total.astype(trace[s].dtype)


def _after(known: Any, value: Any) -> Any:
    """Return a value in a form that is computed once, and after what has to be known first."""
    return store(value, None if known is None else jnp.broadcast_to(known, value.shape))


def _sum_of_products(f: Any, x: Any, after: Any) -> Any:
    r"""Return $\sum_k f_k \otimes x_k$, `(G, H, I, O)`."""
    if len(f) == 1:
        return _after(after, f[0])[:, :, None] * store(x[0])[..., None]
    if x.shape[3] == f.shape[3] == 1:
        return add_products(f, x)[..., None]
    return mixed_einsum('kgho,kghi->ghio', f, x)


def read_and_advance(
    trace: FullTrace, signal: Any, diagonal: Any, f: Any, x: Any, pattern: Pattern | None = None
) -> tuple[Any, FullTrace]:
    r"""Return $\langle s, \varepsilon\rangle$ and $P\,\varepsilon + \sum_k f_k \otimes x_k$.

    On a CPU of few cores a large trace goes sample by sample: each is read once and written once,
    in place.

    Args:
        trace: See `advance`, as all but the next.
        signal: `(G, H, O, S)`.
        diagonal: The product of all steps.
        f: Drives, each carried to the end of the window.
        x: Inputs.
        pattern: What can be other than zero.

    Returns:
        `(H, I, O)`, and the same shapes and dtypes as `trace`.
    """
    given = trace, signal, diagonal, f, x
    pattern = pattern or Pattern.full(len(trace))
    small = len(signal) == 1 or sum(e.size * e.dtype.itemsize for e in trace) < _LARGE
    if small or (os.cpu_count() or 1) > _CORES:
        return _at_once(*given, pattern=pattern)
    by_sample, at_once = (partial(run, pattern=pattern) for run in (_by_sample, _at_once))
    return jax.lax.platform_dependent(*given, cpu=by_sample, default=at_once)


def _at_once(
    trace: FullTrace, signal: Any, diagonal: Any, f: Any, x: Any, *, pattern: Pattern
) -> tuple[Any, FullTrace]:
    read = store(contract(signal, trace))
    return read, advance(trace, diagonal, f, x, pattern, read.real.ravel()[0])


def _by_sample(
    trace: FullTrace, signal: Any, diagonal: Any, f: Any, x: Any, *, pattern: Pattern
) -> tuple[Any, FullTrace]:
    f, x = jnp.moveaxis(f, 0, 1), jnp.moveaxis(x, 0, 1)  # of one sample in one piece

    def sample(g: Any, done: tuple[Any, FullTrace]) -> tuple[Any, FullTrace]:
        total, trace = done
        of = partial(jax.lax.dynamic_slice_in_dim, start_index=g, slice_size=1)
        old = tuple(map(of, trace))
        if len(old) > 1:  # a new state needs old ones, where one has been written over
            old = tuple(map(store, old))
        total += contract(of(signal), old)
        drives, inputs = (jnp.moveaxis(of(v), 1, 0) for v in (f, x))
        given = old, of(diagonal), drives, inputs, pattern, total.real.ravel()[0]
        new = (_advance_state(s, *given) for s in range(len(old)))
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=g, axis=0)
        return total, tuple(put(e, part) for e, part in zip(trace, new, strict=True))

    zeros = jnp.zeros_like(jax.eval_shape(contract, signal, trace))
    return jax.lax.fori_loop(0, len(signal), sample, (zeros, trace))
