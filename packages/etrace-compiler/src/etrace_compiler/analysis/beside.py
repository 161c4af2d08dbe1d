"""Which results of marked operations act on anything but by way of the states that they drive.

A learning signal at the new states, pulled back along the transition, is the whole derivative of
the loss with respect to a result, unless the result has a way of its own: to the output, to
another group, or through an operand that is cut.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from etrace_compiler.analysis.targets import pull_targets
from etrace_compiler.analysis.zeros import find_supports
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.program import Program, Var
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation

__all__ = ['columns_beside', 'exits']


def columns_beside(graph: ETraceGraph) -> Mapping[str, np.ndarray]:
    r"""Find the columns of relations whose results act beside the states that they drive.

    For all other columns the cotangent of the result is that of the new states, pulled back:
    $\partial\ell/\partial y = \langle L,\ f\rangle$. Where an operation runs in a loop or drives
    several groups, all columns are named.

    Args:
        graph: The compiled graph.

    Returns:
        By relation key, columns `o` of its block `(H, I, O)`, in order.
    """
    if 'columns beside' not in graph.memo:
        graph.memo['columns beside'] = _find(graph)
    return graph.memo['columns beside']


def _find(graph: ETraceGraph) -> dict[str, np.ndarray]:
    program = graph.module_info.program
    found = {r.key: np.arange(r.folded_shape[3]) for r in graph.hidden_param_op_relations}
    supports = find_supports(program)
    for group in graph.hidden_groups:
        relations = [
            r
            for r in graph.hidden_param_op_relations
            if r.hidden_groups == (group,) and not r.loops
        ]
        cuts = {cut.edge for cut in (*group.drive_cuts, *group.hidden_cuts)}
        blocked = cuts | exits(program, [group])
        blocked |= _not_behind(program, [r.y_var for r in relations], blocked)
        ends = _ends(program, group, cuts) if relations else {}
        reached = pull_targets(program, ends, frozenset(blocked), supports)
        for r in relations:
            found[r.key] = _columns(r, reached.get(r.y_var))
    return found


def _columns(r: HiddenParamOpRelation, reached: np.ndarray | None) -> np.ndarray:
    """Which columns hold an element of the result that reaches something."""
    if reached is None or not reached.any():
        return np.arange(0)
    elements = reached.any(axis=-1).astype(np.int32)  # as positions are, for which it is compiled
    with jax.ensure_compile_time_eval():  # a learner asks while it is traced
        block = np.asarray(r.operator.y_block(elements, r.weight_var.shape, **r.params))
    return np.flatnonzero(block.any(axis=(0, 1)))


def _ends(
    program: Program, group: HiddenGroup, cuts: Collection[tuple[int, int]]
) -> dict[Any, np.ndarray]:
    """Where a way ends that does not lead to the new states of a group, or is cut before."""
    ends = set(program.outputs) - set(group.hidden_outvars)
    ends.update(program.equations[i].inputs[k] for i, k in cuts)
    return {v: np.ones((*v.shape, 1), np.uint64) for v in ends if isinstance(v, Var)}


def _not_behind(
    program: Program, results: Sequence[Var], blocked: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Operands that do not depend on any of some results, without what is blocked."""
    behind = set(results)

    def visit(i: int) -> bool:
        eqn = program.equations[i]
        read = (v for k, v in enumerate(eqn.inputs) if (i, k) not in blocked)
        if behind.isdisjoint(read) or behind.issuperset(eqn.outputs):
            return False
        behind.update(eqn.outputs)
        return True

    program.settle(visit)
    return {
        (i, k)
        for i, eqn in enumerate(program.equations)
        for k, v in enumerate(eqn.inputs)
        if v not in behind
    }


def exits(program: Program, groups: Sequence[HiddenGroup]) -> set[tuple[int, int]]:
    """Operands by which the new states of a group leave it for good.

    What a way meets behind them is lost to other groups, which is for them to tell.
    """
    home: dict[Any, int] = {v: g.index for g in groups for v in g.hidden_outvars}
    inside: dict[int, set[int]] = {g.index: set() for g in groups}
    for group in groups:
        found = inside[group.index]
        wanted = list(group.hidden_outvars)
        while wanted:
            i = program.made.get(wanted.pop())
            if i is not None and i not in found:
                found.add(i)
                read = program.equations[i].inputs
                wanted.extend(v for v in read if home.get(v, group.index) == group.index)
    return {
        (i, k)
        for i, eqn in enumerate(program.equations)
        for k, v in enumerate(eqn.inputs)
        if v in home and i not in inside[home[v]]
    }
