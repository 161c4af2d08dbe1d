r"""A window of steps with fixed parameters, solved at once along the diagonal.

Signals go back through the window, $\mu_K = 0$, $\mu_{t-1} = D_t^\top (L_t + \mu_t) + Q_t$, and
with them the products $P_t = D_K \cdots D_{t+1}$, which carry what enters at step `t` to the end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra import (
    add_products,
    apply_diagonal,
    carry,
    carry_drive,
    mixed_einsum,
    multiply_diagonals,
    store,
    use_inputs_in_turn,
)
from etrace_algorithms.rule import Gradients, LearningSignal
from etrace_algorithms.rules._traces import FullTraces, open_slots
from etrace_compiler import HiddenParamOpRelation, Linearisation, gather_positions

__all__ = ['advance_window', 'look_back', 'merge_steps', 'short_scan']

#: Per group `P_0` of shape `(*varshape, S, S)`, and `P_1` to `P_K`, stacked.
Products = tuple[tuple[Any, Any], ...]


#: Up to how many elements the loop over steps costs more than what it does.
_SMALL = 2048


def short_scan(step: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """`jax.lax.scan` over arithmetic by position; written out in parts where it is little."""
    size = sum(x.size for x in jax.tree.leaves(carry))
    return jax.lax.scan(step, carry, xs, reverse=reverse, unroll=8 if size <= _SMALL else 1)


def look_back(
    lin: Linearisation, signal: LearningSignal, bypass: LearningSignal | None
) -> tuple[LearningSignal, LearningSignal, Products]:
    """Carry signals and products of `D` back through a window.

    Args:
        lin: The steps, stacked.
        signal: At the new states of each step, stacked.
        bypass: At the old states of each step, stacked; `None` for none.

    Returns:
        The signals from later steps at the new states of each step, stacked; the signal at
        the states that enter; and the products.
    """
    later, entering, products = [], [], []
    for i, (diagonal, here) in enumerate(zip(lin.D, signal.values, strict=True)):
        beside = jnp.zeros_like(here) if bypass is None else bypass.values[i]
        *varshape, size = here.shape[1:]
        dtype = jnp.result_type(here, diagonal)
        ones = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (*varshape, size, size))

        def step(after: tuple, now: tuple) -> tuple[tuple, tuple]:
            (mu, product), (d, s, q) = after, now
            before = apply_diagonal(d, s + mu) + q
            return (before, multiply_diagonals(product, d)), after

        start = jnp.zeros(here.shape[1:], dtype), ones
        (first, whole), (mus, parts) = short_scan(
            step, start, (diagonal, here, beside), reverse=True
        )
        later.append(mus)
        entering.append(first)
        products.append((whole, parts))
    graph = lin.graph
    return (
        LearningSignal(graph, tuple(later)),
        LearningSignal(graph, tuple(entering)),
        tuple(products),
    )


def advance_window(
    trace: FullTraces, lin: Linearisation, products: Products, read: Gradients
) -> FullTraces:
    r"""Return $P_0\,\varepsilon_0 + \sum_t (P_t f_t) \otimes x_t$ in the dtype of the trace.

    Args:
        trace: $\varepsilon_0$.
        lin: The steps, stacked.
        products: $P$, as `look_back` returns them.
        read: What was read off the trace. It is made to come first, so that XLA can write the
            new trace in place of the old one.
    """
    found = {}
    for r in lin.relations:
        parts = []
        held, x, close = open_slots(trace[r.key], lin.inputs[r.key], use_inputs_in_turn)
        for i, (old, f) in enumerate(zip(held, lin.f[r.key], strict=True)):
            whole, later = products[r.hidden_groups[i].index]
            first = jnp.broadcast_to(read[r.key].ravel()[0], whole.shape)
            carried = carry(gather_positions(store(whole, first), r, i, folded=True), old)
            new = _sum_of_products(r, _carry_drives(r, i, later, f), x)
            parts.append(
                tuple((a + b).astype(e.dtype) for a, b, e in zip(carried, new, old, strict=True))
            )
        found[r.key] = close(tuple(parts))
    return found


def _carry_drives(r: HiddenParamOpRelation, i: int, later: Any, f: Any) -> Any:
    """Carry the drives of all steps to the end of the window, `(K substeps, G, H, O, S)`."""
    at = jax.vmap(lambda p: gather_positions(p, r, i, folded=True))(later)
    f = f.reshape((len(f), r.substeps, -1, *f.shape[2:]))
    carried = carry_drive(at[:, None], f)
    return carried.reshape((-1, *carried.shape[2:]))


def _sum_of_products(r: HiddenParamOpRelation, f: Any, x: Any) -> tuple[Any, ...]:
    r"""Return $\sum_t f_t \otimes x_t$, `S` arrays `(G, H, I, O)`."""
    x = x.reshape((len(f), -1, *x.shape[2:]))
    if x.shape[3] == f.shape[3] == 1:
        return tuple(add_products(f[..., s], x)[..., None] for s in range(f.shape[-1]))
    return tuple(mixed_einsum('tgho,tghi->ghio', f[..., s], x) for s in range(f.shape[-1]))


def merge_steps(stacked: Any) -> Any:
    """Merge the axis of steps into that of what shares a weight: `(K G, ...)`."""
    return jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), stacked)
