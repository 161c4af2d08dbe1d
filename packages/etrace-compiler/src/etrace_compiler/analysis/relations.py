"""Find the relations: which marked operation drives which hidden group, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from etrace_compiler.analysis.cuts import find_cuts, followed_anywhere, origins
from etrace_compiler.analysis.flow import Reach
from etrace_compiler.analysis.groups import cut_edges, state_labels
from etrace_compiler.canonical import parameter_only
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.graph import HiddenGroup, HiddenParamOpRelation
from etrace_compiler.ops import Operator, operator_of
from etrace_compiler.program import Equation, Program, Var
from etrace_compiler.staging import ModuleInfo, StateSpec, path_key

__all__ = ['find_relations', 'parameter_leaves']


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
    leaves = parameter_leaves(info)
    fixed = parameter_only(program, set(leaves))
    marked, records = _marked_equations(program, leaves, fixed)
    results = {eqn.outputs[0]: followed_anywhere(eqn.outputs[0].shape) for eqn, _ in marked}

    origin = origins(program, results, range(len(program.equations)))
    flows = Reach(program, [[eqn.outputs[0]] for eqn, _ in marked])
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
    for n, (eqn, operator) in enumerate(marked):
        y = eqn.outputs[0]
        weight = eqn.inputs[-1]
        labels = [cuts.destination.get(y) for cuts in drives]
        driven = [i for i, a in enumerate(labels) if a is not None and (a >= 0).any()]
        chain = sorted(program.upstream([weight]))
        sources = _chain_sources(program, weight, chain)
        owners = [leaves[v] for v in leaves if v in sources]
        lost = [
            (group, cut)
            for group in full
            for cut in group.drive_cuts
            if flows(n, program.equations[cut.equation].inputs[cut.operand])
        ]
        if not driven:
            records.append(_excluded(info, eqn, owners, lost))
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
        )
        relations.append(relation)
        records.extend(_included(relation, lost))
    return tuple(full), tuple(relations), tuple(records)


def parameter_leaves(info: ModuleInfo) -> dict[Var, tuple[StateSpec, str]]:
    """Map every parameter variable to its state and to the name of its leaf."""
    out = {}
    for spec in info.by_role('param'):
        skeleton = spec.treedef.unflatten(range(len(spec.leaves)))
        paths = jax.tree_util.tree_flatten_with_path(skeleton)[0]
        for v, (path, _) in zip(info.old_vars(spec), paths, strict=True):
            leaf = jax.tree_util.keystr(path, simple=True, separator='.')
            out[v] = (spec, f'{spec.key}.{leaf}' if leaf else spec.key)
    return out


def _marked_equations(
    program: Program, leaves: Mapping[Var, tuple[StateSpec, str]], fixed: set[Var]
) -> tuple[list[tuple[Equation, Operator]], list[CompilationRecord]]:
    """Marked operations whose weight is a function of parameters; records for the others."""
    marked, records = [], []
    weights = {
        (i, len(eqn.inputs) - 1)
        for i, eqn in enumerate(program.equations)
        if operator_of(eqn.primitive) is not None
    }
    flows = Reach(program, [[v] for v in leaves], blocked=weights)
    for eqn in program.equations:
        operator = operator_of(eqn.primitive)
        if operator is None or (operator.has_input and eqn.outputs[0] in fixed):
            continue  # a product of parameters is part of another operator's chain
        weight = eqn.inputs[-1]
        owners = dict.fromkeys(
            spec.path for n, (spec, _) in enumerate(leaves.values()) if flows(n, weight)
        )
        if weight in fixed:
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


def _chain_sources(program: Program, weight: Any, chain: Sequence[int]) -> set[Var]:
    read = {v for i in chain for v in program.equations[i].inputs if isinstance(v, Var)}
    return {weight} | read


def _excluded(
    info: ModuleInfo, eqn: Equation, owners: Sequence[tuple[StateSpec, str]], lost: Sequence
) -> CompilationRecord:
    names = ', '.join(leaf for _, leaf in owners)
    if lost:
        kind = DiagnosticKind.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT
        where = ', '.join(dict.fromkeys(f'`{cut.primitive}`' for _, cut in lost))
        message = f'{names} reaches hidden states only through {where}, which mixes positions'
    else:
        kind = DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL
        message = f'{names} reaches no hidden state; its one-step gradient is complete'
    return record(
        kind,
        message,
        primitive=eqn.name,
        weight_path=owners[0][0].path,
        hidden_paths=tuple(dict.fromkeys(p for g, _ in lost for p in g.hidden_paths)),
        source=eqn.source,
    )


def _promise(relation: HiddenParamOpRelation) -> str:
    """Say in words what the diagonal trace of a relation is worth."""
    if relation.exact:
        return 'its trace is exact at every length'
    lost = []
    cuts = dict.fromkeys(
        f'`{cut.primitive}`' for g in relation.hidden_groups for cut in g.hidden_cuts
    )
    if cuts:
        lost.append(f'the recurrence through {", ".join(cuts)} is not followed')
    if any(g.feeds for g in relation.hidden_groups):
        lost.append('what it did to other groups in earlier steps is dropped')
    return 'its trace is approximate; ' + '; '.join(lost or ['some ways are not followed'])


def _included(relation: HiddenParamOpRelation, lost: Sequence) -> list[CompilationRecord]:
    paths = tuple(p for g in relation.hidden_groups for p in g.hidden_paths)
    states = ', '.join(map(path_key, paths))
    records = [
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
