r"""A window of steps with fixed parameters, solved at once along the diagonal.

Signals go back through the window, $\mu_K = 0$, $\mu_{t-1} = D_t^\top (L_t + \mu_t) + Q_t$, and
with them the products $P_t = D_K \cdots D_{t+1}$, which carry what enters at step `t` to the end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra import (
    advance,
    apply_diagonal,
    carry_drive,
    multiply_diagonals,
    read_and_advance,
    store,
    use_inputs_in_turn,
)
from etrace_algorithms.rule import LearningSignal
from etrace_algorithms.rules._traces import (
    ActiveTrace,
    FullTraces,
    credit_trace,
    open_slots,
    pattern_at,
)
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
    trace: FullTraces, lin: Linearisation, products: Products, entering: LearningSignal
) -> tuple[dict[str, Any], FullTraces]:
    r"""Read off the trace at the entry of a window, and carry it over.

    $$\langle\mu_0, \varepsilon_0\rangle, \qquad
    \varepsilon_K = P_0\,\varepsilon_0 + \sum_t (P_t f_t) \otimes x_t.$$

    Args:
        trace: $\varepsilon_0$.
        lin: The steps, stacked.
        products: $P$, as `look_back` returns them.
        entering: $\mu_0$, at the states that enter.

    Returns:
        By relation key, what is read off the trace; and the trace after the window.
    """
    total, found = {}, {}
    for r in lin.relations:
        held, x, close = open_slots(trace[r.key], lin.inputs[r.key], use_inputs_in_turn)
        table = isinstance(trace[r.key], ActiveTrace)  # an old one, which is read by itself
        read = [store(credit_trace(r, trace[r.key], entering))] if table else []
        parts = []
        for i, (old, drives) in enumerate(zip(held, lin.f[r.key], strict=True)):
            whole, later = products[r.hidden_groups[i].index]
            p = gather_positions(whole, r, i, folded=True)
            f = _carry_drives(r, i, later, drives)
            pattern = pattern_at(lin.graph, r, i).over_steps()
            given = p, f, x.reshape((len(f), -1, *x.shape[2:])), pattern
            if table:
                parts.append(advance(old, *given, read[0].real.ravel()[0]))
                continue
            block, new = read_and_advance(old, entering.at(r, i, folded=True), *given)
            read.append(r.place(i, block))
            parts.append(new)
        total[r.key], found[r.key] = sum(read), close(tuple(parts))
    return total, found


def _carry_drives(r: HiddenParamOpRelation, i: int, later: Any, f: Any) -> Any:
    """Carry the drives of all steps to the end of the window, `(K substeps, G, H, O, S)`."""
    at = jax.vmap(lambda p: gather_positions(p, r, i, folded=True))(later)
    f = f.reshape((len(f), r.substeps, -1, *f.shape[2:]))
    carried = carry_drive(at[:, None], f)
    return carried.reshape((-1, *carried.shape[2:]))


def merge_steps(stacked: Any) -> Any:
    """Merge the axis of steps into that of what shares a weight: `(K G, ...)`."""
    return jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), stacked)
