"""Find the hidden groups: states that act on each other position by position."""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from etrace_compiler.analysis.cuts import Cuts, find_cuts, identity_labels
from etrace_compiler.analysis.delays import find_delay_lines
from etrace_compiler.analysis.flow import Reach
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.primitives import ELEMENTWISE, is_holomorphic
from etrace_compiler.program import Equation, Program, Var
from etrace_compiler.relation import CutEdge, HiddenGroup
from etrace_compiler.staging import ModuleInfo, StateSpec, path_key

__all__ = ['cut_edges', 'find_hidden_groups', 'state_labels']


def find_hidden_groups(
    info: ModuleInfo,
) -> tuple[tuple[HiddenGroup, ...], tuple[CompilationRecord, ...]]:
    """Group the hidden states of a traced step.

    Two states share a group if one reaches the other within the step, from its old or its new
    value, without mixing positions.

    Returns:
        The groups, in the order of their first states, and what was decided.
    """
    specs, delays = find_delay_lines(info, info.by_role('hidden'))
    classes: dict[Any, list[StateSpec]] = defaultdict(list)
    for spec in specs:
        is_complex = bool(jnp.issubdtype(spec.leaves[0].dtype, np.complexfloating))
        classes[spec.varshape, is_complex].append(spec)
    members = [group for found in classes.values() for group in _connected(info, found)]
    members.sort(key=lambda group: specs.index(group[0]))

    flows = Reach(info.program, [[info.old_vars(s)[0] for s in group] for group in members])
    groups, records = [], list(delays)
    every_new = [tuple(info.new_atoms(spec)[0] for spec in group) for group in members]
    fed_by = [flows.sources(new) for new in every_new]
    for index, (group, new) in enumerate(zip(members, every_new, strict=True)):
        old = tuple(info.old_vars(spec)[0] for spec in group)
        cuts = find_cuts(
            info.program,
            state_labels(group, old),
            state_labels(group, new),
            carries=partial(flows, index),
        )
        edges = cut_edges(info.program, cuts)
        paths = tuple(spec.path for spec in group)
        feeds = tuple(i for i, bits in enumerate(fed_by) if i != index and bits >> index & 1)
        groups.append(HiddenGroup(index, paths, tuple(group), old, new, edges, feeds=feeds))
        records.extend(_records(groups[-1]))
    return tuple(groups), tuple(records)


def state_labels(group: Sequence[StateSpec], atoms: Sequence[Any]) -> dict[Var, np.ndarray]:
    """Label the variables of a group's states with their positions."""
    return {
        v: identity_labels(spec.varshape, spec.axis, spec.num_state)
        for spec, v in zip(group, atoms, strict=True)
        if isinstance(v, Var)
    }


def cut_edges(program: Program, cuts: Cuts) -> tuple[CutEdge, ...]:
    """Describe cut operands, leaving out those that nothing flows through any more."""
    made = program.made
    found = []
    for i, k in sorted(cuts.edges):
        if program.equations[i].inputs[k] in cuts.origin:
            culprit = _culprit(program, cuts, made, i, k)
            found.append(CutEdge(i, k, culprit.name, culprit.source))
    return tuple(found)


def _culprit(program: Program, cuts: Cuts, made: dict[Var, int], i: int, k: int) -> Equation:
    """The equation that moves elements, where one after it, elementwise, is where they are cut."""
    eqn = program.equations[i]
    while (eqn.name in ELEMENTWISE and is_holomorphic(eqn)) or _only_adds_axes(eqn):
        v = eqn.inputs[k]
        if v not in made:
            break
        eqn = program.equations[made[v]]
        carriers = [n for n, u in enumerate(eqn.inputs) if u in cuts.origin]
        if len(carriers) != 1:
            break
        k = carriers[0]
    return eqn


def _only_adds_axes(eqn: Equation) -> bool:
    """Whether an equation keeps every element and its order (a reduction with `keepdims`)."""
    return eqn.name in {'broadcast_in_dim', 'expand_dims', 'squeeze'} and math.prod(
        eqn.inputs[0].shape
    ) == math.prod(eqn.outputs[0].shape)


def _connected(info: ModuleInfo, specs: list[StateSpec]) -> list[list[StateSpec]]:
    """Split states of one shape into those that reach each other position by position."""
    if len(specs) == 1:
        return [specs]
    old = [info.old_vars(spec)[0] for spec in specs]
    new = [info.new_atoms(spec)[0] for spec in specs]
    targets = state_labels(specs, new)
    sources = {**targets, **state_labels(specs, old)}
    cuts = find_cuts(info.program, sources, targets)
    reach = _reach(info.program, cuts, old, new)

    leader = list(range(len(specs)))

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    for b, v in enumerate(new):
        for a in range(len(specs)):
            if isinstance(v, Var) and reach.get(v, 0) >> a & 1:
                low, high = sorted((find(a), find(b)))
                leader[high] = low
    found: dict[int, list[StateSpec]] = defaultdict(list)
    for i, spec in enumerate(specs):
        found[find(i)].append(spec)
    return list(found.values())


def _reach(program: Program, cuts: Cuts, old: Sequence[Var], new: Sequence[Any]) -> dict[Var, int]:
    """Per variable, the states that reach it through uncut operands, as a bit mask."""
    own: dict[Var, int] = defaultdict(int)
    for states in (old, new):
        for i, v in enumerate(states):
            if isinstance(v, Var):
                own[v] |= 1 << i
    mask: dict[Var, int] = dict(own)

    def visit(i: int) -> bool:
        eqn = program.equations[i]
        bits = 0
        for k, v in enumerate(eqn.inputs):
            if isinstance(v, Var) and v in cuts.origin and (i, k) not in cuts.edges:
                bits |= mask.get(v, 0)
        changed = False
        for v in eqn.outputs:
            if v in cuts.origin and mask.get(v, 0) | bits != mask.get(v, 0):
                mask[v] = mask.get(v, 0) | bits
                changed = True
        return changed

    program.settle(visit)
    return mask


def _records(group: HiddenGroup) -> list[CompilationRecord]:
    names = ', '.join(path_key(p) for p in group.hidden_paths)
    records = []
    if len(group.hidden_paths) > 1:
        message = f'{names} act on each other position by position and share group {group.index}'
        records.append(
            record(DiagnosticKind.HIDDEN_GROUP_MERGED, message, hidden_paths=group.hidden_paths)
        )
    seen = set()
    for cut in group.hidden_cuts:
        if (cut.primitive, cut.source) not in seen:
            seen.add((cut.primitive, cut.source))
            records.append(
                record(
                    DiagnosticKind.RECURRENCE_CUT,
                    f'`{cut.primitive}` {_offence(cut, names)}; '
                    'the trace does not follow this recurrence',
                    primitive=cut.primitive,
                    hidden_paths=group.hidden_paths,
                    source=cut.source,
                )
            )
    return records


def _offence(cut: CutEdge, names: str) -> str:
    if cut.primitive.startswith('custom_'):
        return f'has a derivative rule that may lead {names} to other positions'
    if cut.primitive in ('abs', 'conj', 'imag', 'real', 'sign'):
        return f'takes the complex state {names} apart'
    return f'leads {names} to other positions of the same group'
