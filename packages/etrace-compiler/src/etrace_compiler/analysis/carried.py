"""What a step hands on: the states whose old values act on anything, position by position.

The old value of a state may act through cut operands alone, as the output of an LSTM does through
its recurrent product. A diagonal trace carries nothing for such a state: its column of `D` is
zero, and no loss sees its old value. Neither need the trace be kept of an operation that drives
no other state.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from etrace_compiler.analysis.cuts import find_cuts
from etrace_compiler.analysis.groups import state_labels
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.label_arrays import SEVERAL, uniform
from etrace_compiler.primitives import passes_derivative
from etrace_compiler.program import Program, Var
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation

__all__ = ['carried_part', 'carried_states']


def carried_part(graph: ETraceGraph) -> ETraceGraph:
    """Return the graph with the states that carry alone, and the operations that drive them.

    Groups keep their index, and relations their key; a group without such a state stays as it
    is, and no relation drives it.

    Args:
        graph: A compiled graph; it is returned itself if every state carries.
    """
    if 'carried_part' not in graph.memo:
        graph.memo['carried_part'] = _carried_part(graph)
    return graph.memo['carried_part'] or graph


def carried_states(graph: ETraceGraph, group: HiddenGroup) -> list[int]:
    """Say which of the states of a group are in the part that carries.

    Args:
        graph: A compiled graph.
        group: One of its groups.

    Returns:
        Their numbers along the axis `S`.
    """
    kept = carried_part(graph).hidden_groups[group.index].hidden_paths
    found, start = [], 0
    for path, spec in zip(group.hidden_paths, group.hidden_states, strict=True):
        found += range(start, start + spec.num_state) if path in kept else ()
        start += spec.num_state
    return found


def _carried_part(graph: ETraceGraph) -> ETraceGraph | None:
    """The part, or `None` for all of it."""
    program = graph.module_info.program
    readers = _readers(program)
    kept = [[_acts(program, readers, g, v) for v in g.hidden_invars] for g in graph.hidden_groups]
    kept = [
        # of states of several dtypes the common one counts, which must not change
        keep if len({s.leaves[0].dtype for s in g.hidden_states}) == 1 else [True] * len(keep)
        for g, keep in zip(graph.hidden_groups, kept, strict=True)
    ]
    if all(all(keep) for keep in kept):
        return None
    groups = [_narrow_group(g, keep) for g, keep in zip(graph.hidden_groups, kept, strict=True)]
    results = [r.y_var for r in graph.hidden_param_op_relations]
    labels = [
        _reached(program, results, g, part) if any(keep) and not all(keep) else None
        for g, part, keep in zip(graph.hidden_groups, groups, kept, strict=True)
    ]
    relations = []
    for r in graph.hidden_param_op_relations:
        driven = [
            (groups[g.index], positions)
            for g, positions in zip(r.hidden_groups, _positions(r, kept, labels), strict=True)
            if (positions >= 0).any()
        ]
        if driven:
            into, positions = zip(*driven, strict=True)
            relations.append(replace(r, hidden_groups=into, positions=positions))
    return replace(graph, hidden_groups=tuple(groups), hidden_param_op_relations=tuple(relations))


def _readers(program: Program) -> dict[Any, list[tuple[int, int]]]:
    """Which operands read each variable."""
    found: dict[Any, list[tuple[int, int]]] = {}
    for i, eqn in enumerate(program.equations):
        for k, v in enumerate(eqn.inputs):
            if isinstance(v, Var):
                found.setdefault(v, []).append((i, k))
    return found


def _acts(program: Program, readers: dict, group: HiddenGroup, old: Var) -> bool:
    """Whether an old state acts on a result of the step other than through cut operands."""
    cut, ends = {c.edge for c in group.hidden_cuts}, set(program.outputs)
    reached, left = {old}, [old]
    while left:
        v = left.pop()
        if v in ends:
            return True
        for i, k in readers.get(v, ()):
            eqn = program.equations[i]
            if (i, k) not in cut and passes_derivative(eqn):
                left += [w for w in eqn.outputs if w not in reached]
                reached.update(eqn.outputs)
    return False


def _narrow_group(group: HiddenGroup, keep: Sequence[bool]) -> HiddenGroup:
    if all(keep) or not any(keep):
        return group
    names = ('hidden_paths', 'hidden_states', 'hidden_invars', 'hidden_outvars')
    parts = {
        name: tuple(part for part, k in zip(getattr(group, name), keep, strict=True) if k)
        for name in names
    }
    return replace(group, **parts)


def _reached(
    program: Program, results: Sequence[Var], group: HiddenGroup, part: HiddenGroup
) -> dict[Any, np.ndarray]:
    """By result of an operation, which positions of the states that carry it reaches."""
    cuts = find_cuts(
        program,
        {y: uniform(SEVERAL, y.shape) for y in results},
        state_labels(part.hidden_states, part.hidden_outvars),
        avoid=[c.edge for c in (*group.hidden_cuts, *group.drive_cuts)],
    )
    return cuts.destination


def _positions(
    r: HiddenParamOpRelation, kept: Sequence[Sequence[bool]], labels: Sequence[dict | None]
) -> list[np.ndarray]:
    """The positions of a relation, without those where it drives no state that carries."""
    found = []
    for g, positions in zip(r.hidden_groups, r.positions, strict=True):
        of_group = labels[g.index]
        if all(kept[g.index]):
            found.append(positions)
        elif of_group is None or r.y_var not in of_group:
            found.append(np.full_like(positions, -1))
        else:
            reached = np.asarray(
                r.operator.y_block(
                    np.maximum(of_group[r.y_var], -1), r.weight_var.shape, **r.params
                )
            )
            found.append(np.where(reached >= 0, positions, -1))
    return found
