"""Full traces, one entry per weight, batch element and state: what several rules carry.

The recursion is linear in the trace, so an operation that runs several times within a step has
one trace, to which all its substeps contribute.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra import carry, contract, outer
from etrace_algorithms.rule import LearningSignal
from etrace_compiler import ETraceGraph, Linearisation

__all__ = ['FullTraces', 'advance_traces', 'credit_traces', 'zero_traces']

#: Per relation key and driven group, `S` arrays `(G, H, I, O')`.
FullTraces = dict[str, tuple[tuple[Any, ...], ...]]


def zero_traces(graph: ETraceGraph, dtype: Any = None) -> FullTraces:
    """Return traces of zeros.

    Args:
        graph: The compiled graph.
        dtype: Dtype of the traces; by default that of the relation and the group together.
    """
    return {
        r.key: tuple(
            tuple(
                jnp.zeros(r.trace_shape(i), dtype or jnp.result_type(r.dtype, g.dtype))
                for _ in range(g.num_state)
            )
            for i, g in enumerate(r.hidden_groups)
        )
        for r in graph.hidden_param_op_relations
    }


def advance_traces(trace: FullTraces, lin: Linearisation) -> FullTraces:
    r"""Return $D\,\varepsilon + f \otimes x$ in the dtype of the trace."""
    return {
        r.key: tuple(
            jax.tree.map(
                lambda before, carried, drive: (carried + drive).astype(before.dtype),
                old,
                carry(lin.D_at(r, i, folded=True), old),
                outer(f, lin.x[r.key], r.substeps),
            )
            for i, (old, f) in enumerate(zip(trace[r.key], lin.f[r.key], strict=True))
        )
        for r in lin.relations
    }


def credit_traces(trace: FullTraces, signal: LearningSignal) -> dict[str, Any]:
    r"""Return $\langle s, \varepsilon\rangle$, summed over the groups that a relation drives."""
    return {
        r.key: sum(
            r.place(i, contract(signal.at(r, i, folded=True), e))
            for i, e in enumerate(trace[r.key])
        )
        for r in signal.graph.hidden_param_op_relations
    }
