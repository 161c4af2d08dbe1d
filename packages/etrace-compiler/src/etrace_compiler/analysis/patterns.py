"""Which derivatives of a step can be other than zero at all: what does not depend on what."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from etrace_compiler.analysis.flow import Reach
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.relation import CutEdge, HiddenGroup, HiddenParamOpRelation

__all__ = ['drive_pattern', 'transition_pattern']


def transition_pattern(graph: ETraceGraph, group: HiddenGroup) -> np.ndarray:
    """Say which entries of `D` can be other than zero, whatever the values.

    The current of a synapse acts on the potential of a neuron, and the potential does not act on
    the current: what is zero in every step is no work for a trace.

    Args:
        graph: A compiled graph.
        group: One of its groups.

    Returns:
        Bools `(S, S)`; entry `[s, r]` says whether new state `s` depends on old state `r` through
        operands that are not cut.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> from etrace_compiler import compile_etrace_graph
        >>> cell = etrace_nn.LSTMCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> graph = compile_etrace_graph(cell, jnp.ones(3))
        >>> graph.hidden_groups
        (HiddenGroup(0: h, c; varshape=(4,), S=2),)
        >>> transition_pattern(graph, graph.hidden_groups[0])
        array([[False,  True],
               [False,  True]])
    """
    name = f'transition pattern {group.index}'
    if name not in graph.memo:
        sources = _expanded(group, group.hidden_invars)
        graph.memo[name] = _pattern(graph, group, sources, group.hidden_cuts)
    return graph.memo[name]


def drive_pattern(graph: ETraceGraph, relation: HiddenParamOpRelation, driven: int) -> np.ndarray:
    """Say which states an operation drives, whatever the values.

    Args:
        graph: A compiled graph.
        relation: One of its relations.
        driven: Which of the groups that it drives.

    Returns:
        Bools `(S,)`, for the last axis of `f`.
    """
    group = relation.hidden_groups[driven]
    name = f'drive pattern {relation.key} {group.index}'
    if name not in graph.memo:
        found = _pattern(graph, group, [relation.y_var], group.drive_cuts)
        graph.memo[name] = found[:, 0]
    return graph.memo[name]


def _pattern(
    graph: ETraceGraph, group: HiddenGroup, sources: Sequence[Any], cuts: Iterable[CutEdge]
) -> np.ndarray:
    """Which new states a derivative with respect to each source flows to."""
    edges = {cut.edge for cut in cuts}
    reach = Reach(graph.module_info.program, [[v] for v in sources], edges)
    ends = _expanded(group, group.hidden_outvars)
    return np.array([[reach(i, v) for i in range(len(sources))] for v in ends])


def _expanded(group: HiddenGroup, variables: Sequence[Any]) -> list[Any]:
    """Repeat the variable of a state that has several per position, once for each."""
    pairs = zip(group.hidden_states, variables, strict=True)
    return [v for spec, v in pairs for _ in range(spec.num_state)]
