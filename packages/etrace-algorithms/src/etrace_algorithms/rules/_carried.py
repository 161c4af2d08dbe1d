"""Linear facts and signals of the states that carry alone (see `carried_part`)."""

from dataclasses import replace
from typing import Any

import numpy as np

from etrace_algorithms.rule import LearningSignal
from etrace_compiler import ETraceGraph, Linearisation, carried_part, carried_states

__all__ = ['narrow_products', 'narrow_signal', 'narrowed']


def narrowed(lin: Linearisation) -> Linearisation:
    """Return one step's facts, or those of stacked steps, of what carries alone."""
    part = carried_part(lin.graph)
    if part is lin.graph:
        return lin
    keys = [r.key for r in part.hidden_param_op_relations]
    return replace(
        lin,
        graph=part,
        inputs={key: lin.inputs[key] for key in keys},
        f=_narrow_drives(lin.graph, lin.f),
        D=narrow_products(lin.graph, lin.D),
        hidden=tuple(_take(lin.graph, i, h) for i, h in enumerate(lin.hidden)),
    )


def narrow_signal(signal: LearningSignal) -> LearningSignal:
    """Return the part of a signal at the states that carry."""
    part = carried_part(signal.graph)
    if part is signal.graph:
        return signal
    values = tuple(_take(signal.graph, i, v) for i, v in enumerate(signal.values))
    return LearningSignal(part, values)


def narrow_products(graph: ETraceGraph, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take the states that carry of matrices per position: per group `(..., S', S')`."""
    return tuple(_take(graph, i, _take(graph, i, v), axis=-2) for i, v in enumerate(values))


def _narrow_drives(graph: ETraceGraph, drives: Any) -> dict[str, tuple[Any, ...]]:
    """Take of drives the states that carry, and the columns that reach them."""
    found = {}
    for r in carried_part(graph).hidden_param_op_relations:
        whole = graph.relation(r.key)
        of_group = {g.index: i for i, g in enumerate(whole.hidden_groups)}
        parts = []
        for j, g in enumerate(r.hidden_groups):
            i = of_group[g.index]
            at = np.searchsorted(whole.columns[i], r.columns[j])
            value = _take(graph, g.index, drives[r.key][i])
            parts.append(_pick(value, at, -2))
        found[r.key] = tuple(parts)
    return found


def _take(graph: ETraceGraph, group: int, value: Any, axis: int = -1) -> Any:
    """Take the states that carry along one axis."""
    whole = graph.hidden_groups[group]
    return _pick(value, np.asarray(carried_states(graph, whole), int), axis)


def _pick(value: Any, at: np.ndarray, axis: int) -> Any:
    """Index one axis; in one piece where that is possible."""
    if len(at) == value.shape[axis]:
        return value
    first, stop = (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
    index: Any = slice(first, stop) if stop - first == len(at) else at
    return value[(..., index, *(slice(None),) * (-1 - axis))]
