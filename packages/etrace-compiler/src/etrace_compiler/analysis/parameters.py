"""Account for every parameter: none has a zero or shortened gradient without a record."""

from collections.abc import Sequence

from etrace_compiler.analysis.flow import Reach
from etrace_compiler.analysis.relations import parameter_leaves
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.graph import HiddenGroup, HiddenParamOpRelation
from etrace_compiler.ops import operator_of
from etrace_compiler.program import Var
from etrace_compiler.staging import ModuleInfo, path_key

__all__ = ['diagnose_history', 'diagnose_parameters']


def diagnose_parameters(
    info: ModuleInfo, relations: Sequence[HiddenParamOpRelation]
) -> tuple[CompilationRecord, ...]:
    """Say what becomes of the parameters that no relation covers, in part or altogether."""
    program = info.program
    hidden = {v: spec for spec in info.by_role('hidden') for v in info.new_atoms(spec)}
    # not all outputs of the program: a parameter that is read is handed through as a state
    outputs = {*info.out_atoms, *hidden}
    marks = {
        (i, len(eqn.inputs) - 1)
        for i, eqn in enumerate(program.equations)
        if operator_of(eqn.primitive) is not None
    }
    records = []
    leaves = parameter_leaves(info)
    flows = Reach(program, [[v] for v in leaves])
    unmarked = Reach(program, [[v] for v in leaves], blocked=marks)
    weights = {program.equations[i].inputs[k] for i, k in marks}
    for n, (v, (spec, leaf)) in enumerate(leaves.items()):
        around = [hidden[h].path for h in hidden if unmarked(n, h)]
        if not any(flows(n, o) for o in outputs):
            records.append(_unused(spec.path, leaf))
        elif around:
            states = ', '.join(map(path_key, around))
            records.append(
                record(
                    DiagnosticKind.PARAMETER_UNMARKED,
                    f'{leaf} reaches {states} through operations that are not marked',
                    weight_path=spec.path,
                    hidden_paths=around,
                    source=_first_reader(info, v),
                )
            )
        elif not any(flows(n, v) for v in (*hidden, *weights)):
            records.append(
                record(
                    DiagnosticKind.PARAMETER_ONE_STEP,
                    f'{leaf} reaches no hidden state; its one-step gradient is complete',
                    weight_path=spec.path,
                    source=_first_reader(info, v),
                )
            )
    traced = {spec.path for spec in info.by_role('param')}
    for path in info.parameter_paths:
        if path not in traced:
            records.append(_unused(path, path_key(path)))
    return tuple(records)


def diagnose_history(
    groups: Sequence[HiddenGroup], relations: Sequence[HiddenParamOpRelation]
) -> tuple[CompilationRecord, ...]:
    """Say where one group's past acts on another group, which no diagonal trace follows."""
    records = []
    for group in groups:
        weights = [p for r in relations if group in r.hidden_groups for p in r.trainable_paths]
        names = ', '.join(map(path_key, group.hidden_paths))
        for other in (groups[i] for i in group.feeds):
            others = ', '.join(map(path_key, other.hidden_paths))
            records.append(
                record(
                    DiagnosticKind.HISTORY_LEAVES_GROUP,
                    f'{names} acts on {others}: what the weights of {names} did to earlier '
                    f'values of {others} is dropped',
                    hidden_paths=(*group.hidden_paths, *other.hidden_paths),
                    weights=tuple(dict.fromkeys(map(path_key, weights))),
                )
            )
    return tuple(records)


def _unused(path: tuple[str, ...], leaf: str) -> CompilationRecord:
    message = f'{leaf} reaches neither an output nor a hidden state; its gradient is zero'
    return record(DiagnosticKind.PARAMETER_UNUSED, message, weight_path=path)


def _first_reader(info: ModuleInfo, v: Var):
    return next((e.source for e in info.program.equations if v in e.inputs), None)
