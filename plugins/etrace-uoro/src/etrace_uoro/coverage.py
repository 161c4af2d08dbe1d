"""Whether the marked operations of a graph hold all that is to be followed."""

import jax.numpy as jnp

from etrace_algorithms import ETraceGraph
from etrace_compiler import NotSupportedError, driving_parameters

__all__ = ['check_coverage']


def check_coverage(graph: ETraceGraph) -> None:
    """Check that every parameter acts on hidden states through real marked operations alone.

    Raises:
        NotSupportedError: If one does not; the message names it.
    """
    names = driving_parameters(graph, around_relations=True)
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
