"""Account for every parameter: none has a zero or shortened gradient without a record."""

from collections.abc import Sequence

from etrace_compiler._jax import SourceLine
from etrace_compiler.analysis.flow import Reach
from etrace_compiler.analysis.weights import flows_around_marks, marks_of, parameter_leaves
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.program import Var
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation
from etrace_compiler.staging import ModuleInfo, path_key

__all__ = ['diagnose_history', 'diagnose_parameters']

#: So many states are named where one acts on many.
_NAMED = 4


def diagnose_parameters(
    info: ModuleInfo, relations: Sequence[HiddenParamOpRelation]
) -> tuple[CompilationRecord, ...]:
    """Say what becomes of the parameters that no relation covers, in part or altogether."""
    program = info.program
    hidden = {v: spec for spec in info.by_role('hidden') for v in info.new_atoms(spec)}
    # not all outputs of the program: a parameter that is read is handed through as a state
    outputs = {*info.out_atoms, *hidden}
    leaves = parameter_leaves(info)
    records = []
    flows = Reach(program, [[v] for v in leaves])
    unmarked = flows_around_marks(info)
    weights = {program.equations[i].inputs[-1] for i in marks_of(info)}
    used, traced_or_held = flows.sources(outputs), flows.sources((*hidden, *weights))
    unmarked_at_all = unmarked.sources(hidden)
    for n, (v, (spec, leaf)) in enumerate(leaves.items()):
        is_around = unmarked_at_all >> n & 1
        around = [hidden[h].path for h in hidden if unmarked(n, h)] if is_around else []
        if not used >> n & 1:
            records.append(_unused(spec.path, leaf, _first_reader(info, v)))
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
        elif not traced_or_held >> n & 1:
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
    weights: dict[int, dict[str, None]] = {group.index: {} for group in groups}
    for r in relations:
        for group in r.hidden_groups:
            weights[group.index].update(dict.fromkeys(map(path_key, r.trainable_paths)))
    records = []
    for group in groups:
        if not group.feeds:
            continue
        names = ', '.join(map(path_key, group.hidden_paths))
        fed = [path for i in group.feeds for path in groups[i].hidden_paths]
        others = ', '.join(map(path_key, fed[:_NAMED]))
        others += f' and {len(fed) - _NAMED} more states' if len(fed) > _NAMED else ''
        records.append(
            record(
                DiagnosticKind.HISTORY_LEAVES_GROUP,
                f'{names} acts on {others}: what the weights of {names} did to earlier '
                f'values of {others} is dropped',
                hidden_paths=(*group.hidden_paths, *fed),
                weights=tuple(weights[group.index]),
            )
        )
    return tuple(records)


def _unused(
    path: tuple[str, ...], leaf: str, reader: SourceLine | None = None
) -> CompilationRecord:
    message = f'{leaf} reaches neither an output nor a hidden state; its gradient is zero'
    return record(DiagnosticKind.PARAMETER_UNUSED, message, weight_path=path, source=reader)


def _first_reader(info: ModuleInfo, v: Var):
    return next((e.source for e in info.program.equations if v in e.inputs), None)
