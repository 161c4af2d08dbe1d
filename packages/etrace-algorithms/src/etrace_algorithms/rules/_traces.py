"""Full traces, one entry per weight, batch element and state: what several rules carry."""

from typing import Any

import jax.numpy as jnp
from etrace_compiler import ETraceGraph, Linearisation

from etrace_algorithms.algebra import carry, contract, outer
from etrace_algorithms.rule import LearningSignal

__all__ = ['advance_traces', 'credit_traces', 'zero_traces']


def zero_traces(graph: ETraceGraph, dtype: Any = None) -> dict[str, tuple[Any, ...]]:
    """Return zeros of shape `(G, H, I, O, S)`, per relation and driven group.

    Args:
        graph: The compiled graph.
        dtype: Dtype of the traces; by default that of the relation and the group together.
    """
    return {
        r.key: tuple(
            jnp.zeros((*r.block_shape, g.num_state), dtype or jnp.result_type(r.dtype, g.dtype))
            for g in r.hidden_groups
        )
        for r in graph.hidden_param_op_relations
    }


def advance_traces(
    trace: dict[str, tuple[Any, ...]], lin: Linearisation
) -> dict[str, tuple[Any, ...]]:
    r"""Return $D\,\varepsilon + f \otimes x$ in the dtype of the trace."""
    out = {}
    for r in lin.relations:
        x = lin.x[r.key]
        out[r.key] = tuple(
            (carry(lin.D_at(r, i), old) + outer(f, x)).astype(old.dtype)
            for i, (old, f) in enumerate(zip(trace[r.key], lin.f[r.key], strict=True))
        )
    return out


def credit_traces(trace: dict[str, tuple[Any, ...]], signal: LearningSignal) -> dict[str, Any]:
    r"""Return $\langle s, \varepsilon\rangle$, summed over the groups that a relation drives."""
    return {
        r.key: sum(contract(signal.at(r, i), e) for i, e in enumerate(trace[r.key]))
        for r in signal.graph.hidden_param_op_relations
    }
