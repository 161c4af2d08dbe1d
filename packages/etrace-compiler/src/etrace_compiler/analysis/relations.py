"""Find the relations: which marked operation drives which hidden group, and how."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from etrace_compiler.analysis.beside import exits
from etrace_compiler.analysis.cuts import Cuts, find_cuts, origins
from etrace_compiler.analysis.flow import Reach, members
from etrace_compiler.analysis.groups import cut_edges, state_labels
from etrace_compiler.analysis.weights import (
    flows_around_marks,
    marks_of,
    parameter_functions,
    parameter_leaves,
)
from etrace_compiler.contract import Verdict, WeightExactness
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.label_arrays import SEVERAL, uniform
from etrace_compiler.ops import Operator
from etrace_compiler.program import Equation, Program, Var
from etrace_compiler.relation import CutEdge, HiddenGroup, HiddenParamOpRelation
from etrace_compiler.staging import ModuleInfo, StateSpec, path_key

__all__ = ['diagnose_relations', 'find_relations']


def find_relations(
    info: ModuleInfo, groups: Sequence[HiddenGroup]
) -> tuple[
    tuple[HiddenGroup, ...], tuple[HiddenParamOpRelation, ...], tuple[CompilationRecord, ...]
]:
    """Relate marked operations to hidden groups.

    Returns:
        The groups, completed with what is cut between operators and states; the relations; and
        what was decided about every marked operation.
    """
    program = info.program
    marked, records = _marked_equations(info)
    results = {eqn.outputs[0]: uniform(SEVERAL, eqn.outputs[0].shape) for eqn, _ in marked}

    origin = origins(program, results, range(len(program.equations)))
    drives, full = [], []
    for group in groups:
        cuts = find_cuts(
            program,
            results,
            state_labels(group.hidden_states, group.hidden_outvars),
            avoid=[cut.edge for cut in group.hidden_cuts],
            origin=origin,
        )
        drives.append(cuts)
        full.append(replace(group, drive_cuts=cut_edges(program, cuts)))

    relations: list[HiddenParamOpRelation] = []
    used: dict[str, int] = {}
    leaves = parameter_leaves(info)
    order = {v: n for n, v in enumerate(leaves)}
    reached, every_lost = _reached(results, drives), _lost_ways(program, full, list(results))
    for (eqn, operator), labels, lost in zip(marked, reached, every_lost, strict=True):
        y = eqn.outputs[0]
        weight = eqn.inputs[-1]
        driven = [i for i, a in labels.items() if (a >= 0).any()]
        chain = sorted(program.upstream([weight]))
        read = order.keys() & _variables_read(program, weight, chain)
        owners = [leaves[v] for v in sorted(read, key=order.__getitem__)]
        if not driven:
            records.extend(_excluded(eqn, owners, lost))
            continue
        name = '*'.join(dict.fromkeys(leaf for _, leaf in owners))
        used[name] = used.get(name, 0) + 1
        key = name if used[name] == 1 else f'{name}#{used[name]}'
        shape = weight.shape
        positions = tuple(
            np.asarray(operator.y_block(np.maximum(labels[i], -1), shape, **eqn.params))
            for i in driven
        )
        relation = HiddenParamOpRelation(
            key=key,
            operator=operator,
            params=eqn.params,
            x_var=eqn.inputs[0] if operator.has_input else None,
            y_var=y,
            weight_var=weight,
            hidden_groups=tuple(full[i] for i in driven),
            positions=positions,
            trainable_paths=tuple(dict.fromkeys(spec.path for spec, _ in owners)),
            chain=tuple(chain),
            exact=not lost and not any(full[i].hidden_cuts or full[i].feeds for i in driven),
            source=eqn.source,
            loops=tuple(loop.length for loop in eqn.loops),
        )
        relations.append(relation)
        records.extend(_partial(relation, lost))
    return tuple(full), tuple(relations), tuple(records)


def _reached(results: Iterable[Var], drives: Sequence[Cuts]) -> list[dict[int, np.ndarray]]:
    """Per marked result, the positions of each group that its elements reach, if they do."""
    found: dict[Var, dict[int, np.ndarray]] = {v: {} for v in results}
    for i, cuts in enumerate(drives):
        for v in cuts.destination.keys() & found.keys():
            found[v][i] = cuts.destination[v]
    return list(found.values())


def _lost_ways(
    program: Program, groups: Sequence[HiddenGroup], results: Sequence[Var]
) -> list[list[tuple[HiddenGroup, CutEdge]]]:
    """Per marked result, the cut operands that it flows to within the layer of their group."""
    flows = Reach(program, [[v] for v in results], blocked=exits(program, groups))
    found: list[list[tuple[HiddenGroup, CutEdge]]] = [[] for _ in results]
    for group in groups:
        for cut in group.drive_cuts:
            operand = program.equations[cut.equation].inputs[cut.operand]
            for n in members(flows.sources([operand])):
                found[n].append((group, cut))
    return found


def diagnose_relations(
    relations: Sequence[HiddenParamOpRelation], exactness: Mapping[str, WeightExactness]
) -> tuple[tuple[HiddenParamOpRelation, ...], tuple[CompilationRecord, ...]]:
    """Say of every relation what its trace is worth.

    Returns:
        The relations, not exact where a weight of theirs is not; a record for each weight of each.
    """
    out, records = [], []
    for relation in relations:
        verdicts = [exactness[path_key(p)].verdict for p in relation.trainable_paths]
        exact = relation.exact and set(verdicts) == {Verdict.EXACT}
        out.append(relation if exact == relation.exact else replace(relation, exact=exact))
        records.extend(_included(out[-1]))
    return tuple(out), tuple(records)


def _marked_equations(
    info: ModuleInfo,
) -> tuple[list[tuple[Equation, Operator]], list[CompilationRecord]]:
    """Marked operations whose weight is a function of parameters; records for the others."""
    marked, records = [], []
    program, fixed, flows = info.program, parameter_functions(info), flows_around_marks(info)
    specs = [spec for spec, _ in parameter_leaves(info).values()]
    for i, operator in marks_of(info).items():
        eqn = program.equations[i]
        weight = eqn.inputs[-1]
        owners = dict.fromkeys(specs[n].path for n in members(flows.sources([weight])))
        if weight in fixed and program.loops_of(weight):
            records.extend(
                record(
                    DiagnosticKind.SCAN_DESCENT_SKIPPED,
                    f'the weight of `{eqn.name}` changes from substep to substep of a loop; '
                    f'{path_key(path)} gets its one-step gradient',
                    primitive=eqn.name,
                    weight_path=path,
                    source=eqn.source,
                )
                for path in owners
            )
        elif weight in fixed:
            marked.append((eqn, operator))
        elif owners:
            records.extend(
                record(
                    DiagnosticKind.TRAINABLE_INVAR_NOT_PARAMSTATE,
                    f'the weight of `{eqn.name}` depends on inputs or states beside its parameters',
                    primitive=eqn.name,
                    weight_path=path,
                    source=eqn.source,
                )
                for path in owners
            )
        else:
            records.append(
                record(
                    DiagnosticKind.RELATION_EXCLUDED_NO_PARAMSTATE,
                    f'the weight of `{eqn.name}` depends on no ParamState',
                    primitive=eqn.name,
                    source=eqn.source,
                )
            )
    return marked, records


def _variables_read(program: Program, weight: Any, chain: Sequence[int]) -> set[Any]:
    return {weight, *(v for i in chain for v in program.equations[i].inputs)}


def _excluded(
    eqn: Equation, owners: Sequence[tuple[StateSpec, str]], lost: Sequence
) -> list[CompilationRecord]:
    names = ', '.join(leaf for _, leaf in owners)
    if lost:
        kind = DiagnosticKind.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT
        where = ', '.join(dict.fromkeys(f'`{cut.primitive}`' for _, cut in lost))
        message = f'{names} reaches hidden states only through {where}, which mixes positions'
    else:
        kind = DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL
        message = f'{names} reaches no hidden state; its one-step gradient is complete'
    return [
        record(
            kind,
            message,
            primitive=eqn.name,
            weight_path=path,
            hidden_paths=tuple(dict.fromkeys(p for g, _ in lost for p in g.hidden_paths)),
            source=eqn.source,
        )
        for path in dict.fromkeys(spec.path for spec, _ in owners)
    ]


def _promise(relation: HiddenParamOpRelation) -> str:
    """Say in words what the diagonal trace of a relation is worth."""
    if relation.exact and relation.active_inputs is not None:
        total = relation.folded_shape[2]
        return (f'its trace is exact while no more than {relation.active_inputs} of its {total} '
                'inputs are in use')  # fmt: skip
    if relation.exact:
        return 'its trace is exact at every length'
    lost = []
    cuts = dict.fromkeys(
        f'`{cut.primitive}`' for g in relation.hidden_groups for cut in g.hidden_cuts
    )
    if cuts:
        lost.append(f'the recurrence through {", ".join(cuts)} is not followed')
    beyond = 'what it did to other groups in earlier steps is dropped'
    if any(g.feeds for g in relation.hidden_groups):
        lost.append(beyond)
    if lost == [beyond]:
        return f'its trace is exact within the layer; {beyond}'
    return 'its trace is approximate; ' + '; '.join(lost or ['some ways are not followed'])


def _included(relation: HiddenParamOpRelation) -> list[CompilationRecord]:
    paths = tuple(p for g in relation.hidden_groups for p in g.hidden_paths)
    states = ', '.join(map(path_key, paths))
    return [
        record(
            DiagnosticKind.RELATION_INCLUDED,
            f'{relation.key} drives {states}: {_promise(relation)}',
            primitive=relation.operator.name,
            weight_path=path,
            hidden_paths=paths,
            source=relation.source,
        )
        for path in relation.trainable_paths
    ]


def _partial(relation: HiddenParamOpRelation, lost: Sequence) -> list[CompilationRecord]:
    records: list[CompilationRecord] = []
    seen = set()
    for group, cut in lost:
        if (group.index, cut.primitive, cut.source) in seen:
            continue
        seen.add((group.index, cut.primitive, cut.source))
        names = ', '.join(map(path_key, group.hidden_paths))
        records.extend(
            record(
                DiagnosticKind.RELATION_PARTIAL_PATH,
                f'{relation.key} also reaches {names} through `{cut.primitive}`, which mixes '
                'positions; the trace does not follow this way',
                primitive=cut.primitive,
                weight_path=path,
                hidden_paths=group.hidden_paths,
                source=cut.source,
            )
            for path in relation.trainable_paths
        )
    return records
