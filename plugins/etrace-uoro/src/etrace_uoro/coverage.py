"""Whether the marked operations of a graph hold all that is to be followed."""

import jax.numpy as jnp

from etrace_algorithms import ETraceGraph
from etrace_compiler import NotSupportedError, position_neighbours

__all__ = ['check_coverage']


def check_coverage(graph: ETraceGraph) -> None:
    """Check that every parameter acts on hidden states through real marked operations alone.

    Raises:
        NotSupportedError: If one does not; the message names it.
    """
    names = _uncovered(graph)
    if names:
        raise NotSupportedError(
            f'`kf_rtrl` cannot follow every parameter: got {", ".join(names)}, which act on hidden '
            'states beside the marked operations that drive them; expected parameters that act '
            'through such operations alone. Mark their operations, or use `uoro`. [UORO102]'
        )
    relations = graph.hidden_param_op_relations
    names = [r.key for r in relations if jnp.issubdtype(r.dtype, jnp.complexfloating)]
    if names:
        raise NotSupportedError(
            f'`kf_rtrl` has no factors for complex results: got {", ".join(names)}; expected real '
            'operations. Keep real and imaginary part in two, or use `uoro`. [UORO103]'
        )


def _uncovered(graph: ETraceGraph) -> list[str]:
    """The parameters that act on hidden states beside the operations; found once for a graph."""
    name = 'etrace_uoro uncovered'
    if name not in graph.memo:
        around = position_neighbours(graph, around_relations=True).params
        graph.memo[name] = [k for k, leaves in around.items() if any(x.any() for x in leaves)]
    return graph.memo[name]
