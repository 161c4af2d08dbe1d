"""The exactness contract: what the online gradient of every weight is worth, and why.

The reference learner follows the influence of a weight through uncut ways from marked operations
to a group, and from the group to itself position by position. Whatever else crosses a step is
dropped: a way that is cut or not marked, a way from one group to another, and a state that holds
floats and is not hidden. A state whose old value reaches nothing that a loss can read costs
nothing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etrace_compiler._jax import bodies
from etrace_compiler.analysis.derivatives import DerivativeKind, derivative_kind
from etrace_compiler.analysis.layers import Layer, Mark, Node, StepFlows
from etrace_compiler.contract import Dropped, GroupExactness, Verdict, WeightExactness, worst
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.program import Equation, Var, is_differentiable
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation
from etrace_compiler.staging import ModuleInfo, StateSpec, path_key

__all__ = ['find_exactness']

K = DiagnosticKind

#: The groups in which a trace follows the result of a marked operation.
Traced = Mapping[Var, Collection[int]]


def find_exactness(
    info: ModuleInfo,
    groups: Sequence[HiddenGroup],
    relations: Sequence[HiddenParamOpRelation],
) -> tuple[dict[str, WeightExactness], tuple[CompilationRecord, ...]]:
    """Say of every parameter what its online gradient is worth.

    Args:
        info: The traced step.
        groups: Its hidden groups, complete with their cuts.
        relations: Its relations.

    Returns:
        The contract by parameter key, and a record for every state that is not hidden and yet
        carries the influence of a weight from step to step.
    """
    flows = StepFlows(info, groups)
    layers = [Layer(flows, group) for group in groups]
    traced = {r.y_var: [group.index for group in r.hidden_groups] for r in relations}
    inside = [tuple(_lost_inside(layer)) for layer in layers]
    crossings = _crossings(layers)
    found: dict[str, WeightExactness] = {}
    layers_of: list[list[int]] = [[] for _ in flows.params]
    traced_in: list[list[Var]] = [[] for _ in groups]
    for result, driven in traced.items():
        for group in driven:
            traced_in[group].append(result)
    for at, layer in enumerate(layers):
        for param in layer.drivers(traced_in[layer.group.index]):
            layers_of[param].append(at)
    for param, spec in enumerate(flows.params):
        driven = []
        for at in layers_of[param]:
            layer = layers[at]
            before = _lost_before(layer, param, traced)
            across = (d for to, d in crossings[at] if _crosses(layer, layers[to], param, traced))
            everything = (*before, *inside[at], *across) if layer.is_alive else ()
            driven.append(_group(layer.group, everything))
        aside = _lost_aside(flows, [('param', param)])
        found[spec.key] = _weight(flows, param, driven, aside)
    for path in info.parameter_paths:
        found.setdefault(path_key(path), WeightExactness(path, Verdict.ZERO))
    return found, tuple(_records(flows, found))


def _group(group: HiddenGroup, lost: Iterable[Dropped]) -> GroupExactness:
    lost = tuple(dict.fromkeys(lost))
    verdict = Verdict.WITHIN_LAYER if lost else Verdict.EXACT
    if any(d.reason is not K.HISTORY_LEAVES_GROUP for d in lost):
        verdict = Verdict.APPROXIMATE
    return GroupExactness(group.index, group.hidden_paths, verdict, lost)


def _weight(
    flows: StepFlows, param: int, driven: Sequence[GroupExactness], aside: Sequence[Dropped]
) -> WeightExactness:
    used = flows.flows(('param', param), flows.readable)
    verdicts = [Verdict.EXACT if used else Verdict.ZERO, *(g.verdict for g in driven)]
    if aside:
        verdicts.append(Verdict.APPROXIMATE)
    dropped = dict.fromkeys((*(d for g in driven for d in g.dropped), *aside))
    path = flows.params[param].path
    return WeightExactness(path, worst(*verdicts), tuple(driven), tuple(dropped))


# ---------------------------------------------------------------- from a weight to a group


def _lost_before(layer: Layer, param: int, traced: Traced) -> Iterator[Dropped]:
    """What is not followed between a parameter and the new states of a group."""
    if layer.avoids_marks(param):
        yield _around(layer, param)
    for mark in layer.marks_of(param):
        yield from _through(layer, mark, traced)
        yield from _chained(layer, mark)


def _through(layer: Layer, mark: Mark, traced: Traced) -> Iterator[Dropped]:
    is_relation = mark.result in traced
    reason = K.RELATION_PARTIAL_PATH if is_relation else K.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT
    cuts = tuple(layer.cuts_of(mark))
    for cut in cuts:
        message = f'`{cut.primitive}` mixes positions on a way to {_names(layer.group)}'
        yield Dropped(reason, cut.primitive, cut.source, message, layer.group.hidden_paths)
    if not (cuts or layer.group.index in traced.get(mark.result, ())):
        message = f'`{mark.equation.name}` acts on {_names(layer.group)} without a trace'
        yield Dropped(reason, *_place(mark.equation), message, layer.group.hidden_paths)


def _chained(layer: Layer, mark: Mark) -> Iterator[Dropped]:
    """Rules in a weight's chain: gradients pass them one by one, and as their sum in BPTT."""
    program = layer.flows.program
    for i in sorted(program.upstream([mark.weight])):
        eqn = program.equations[i]
        if not bodies(eqn):
            continue
        floats = [
            k for k, v in enumerate(eqn.inputs) if isinstance(v, Var) and is_differentiable(v)
        ]
        if any(derivative_kind(eqn, k) is DerivativeKind.UNKNOWN for k in floats):
            message = f'the derivative rule of `{eqn.name}`, in the weight, may not be linear'
            yield Dropped(K.UNKNOWN_PRIMITIVE, *_place(eqn), message, layer.group.hidden_paths)


def _around(layer: Layer, param: int) -> Dropped:
    """Name the operation by which a parameter comes to a group without a mark."""
    names, paths = _names(layer.group), layer.group.hidden_paths
    for mark in layer.marks:
        if not mark.is_sound and layer.reads(param, mark.weight):
            weight = f'the weight of `{mark.equation.name}`, which acts on {names},'
            reason, message = K.TRAINABLE_INVAR_NOT_PARAMSTATE, f'{weight} depends on data'
            if mark.weight in layer.flows.fixed:
                reason = K.SCAN_DESCENT_SKIPPED
                message = f'{weight} changes from substep to substep'
            return Dropped(reason, *_place(mark.equation), message, paths)
    readers = list(layer.readers_of(param))
    meeting = [eqn for eqn in readers if layer.flows.fixed.isdisjoint(eqn.outputs)]
    eqn = next(iter((*meeting, *readers)), None)
    message = f'a way to {names} passes operations that are not marked'
    return Dropped(K.PARAMETER_UNMARKED, *_place(eqn), message, paths)


# ---------------------------------------------------------------- from a group onward


def _lost_inside(layer: Layer) -> Iterator[Dropped]:
    """What is not followed of a group's past, whichever weight it comes from."""
    group, names = layer.group, _names(layer.group)
    for cut in group.hidden_cuts:
        yield Dropped(
            K.RECURRENCE_CUT,
            cut.primitive,
            cut.source,
            f'`{cut.primitive}` mixes positions on the way from {names} to {names}',
            group.hidden_paths,
        )
    yield from _lost_aside(layer.flows, [('old', group.index), ('new', group.index)])


def _crossings(layers: Sequence[Layer]) -> list[list[tuple[int, Dropped]]]:
    """Where the states of each group, old or new, enter the layer of another one."""
    owners: dict[Any, list[int]] = {}
    for layer in layers:
        for v in {*layer.group.hidden_invars, *layer.new}:
            owners.setdefault(v, []).append(layer.group.index)
    found: list[list[tuple[int, Dropped]]] = [[] for _ in layers]
    for other in (layer for layer in layers if layer.is_alive):
        into = other.group
        entries: dict[int, Equation] = {}
        for eqn in other.equations.values():
            for v in eqn.inputs:
                for index in owners.get(v, ()):
                    entries.setdefault(index, eqn)
        for index, entry in entries.items():
            if index != into.index:
                group = layers[index].group
                way = f'what acts on {_names(into)} by way of {_names(group)} is not followed on'
                paths = (*group.hidden_paths, *into.hidden_paths)
                dropped = Dropped(K.HISTORY_LEAVES_GROUP, *_place(entry), way, paths)
                found[index].append((into.index, dropped))
    return found


def _crosses(layer: Layer, other: Layer, param: int, traced: Traced) -> bool:
    """Whether a parameter's influence is lost where it crosses from one group to another.

    It is not where the past of the first stays there, and the present is traced in the second.
    """
    flows, index = layer.flows, other.group.index
    if flows.flows(('old', layer.group.index), other.new):
        return True
    operands = [flows.program.equations[c.equation].inputs[c.operand]
                for c in other.group.drive_cuts]  # fmt: skip
    return any(
        index not in traced.get(m.result, ()) or flows.mark_flows(m, operands)
        for m in flows.marks_of[param]
        if flows.mark_flows(m, other.new)
    )


# ---------------------------------------------------------------- beside the groups


def _lost_aside(flows: StepFlows, sources: Sequence[Node]) -> tuple[Dropped, ...]:
    """What nodes do to states that are not hidden, and to loops without a derivative."""
    found = []
    for n, spec in enumerate(flows.others):
        new = flows.info.new_atoms(spec)
        if flows.is_alive(('other', n)) and any(flows.flows(s, new) for s in sources):
            message = f'{spec.key} is no HiddenState: what it carries on is not followed'
            place = _place(_maker(flows, spec))
            found.append(Dropped(K.STATE_NOT_HIDDEN, *place, message, (spec.path,)))
    for n, eqn in enumerate(flows.loops):
        if flows.is_alive(('loop', n)) and any(flows.flows(s, eqn.inputs) for s in sources):
            message = 'a `while` loop passes no derivative'
            found.append(Dropped(K.CONTROL_FLOW_OPAQUE_FWD, *_place(eqn), message, ()))
    return tuple(found)


def _records(flows: StepFlows, found: dict[str, WeightExactness]) -> Iterator[CompilationRecord]:
    """Records of what is dropped, where no other pass has made one."""
    known = {(r.kind, r.source) for r in flows.info.records}
    losers: dict[Dropped, list[str]] = {}
    for key, weight in found.items():
        for dropped in weight.dropped:
            losers.setdefault(dropped, []).append(key)
    for d, weights in losers.items():
        is_new = (
            d.reason in (K.STATE_NOT_HIDDEN, K.UNKNOWN_PRIMITIVE, K.CONTROL_FLOW_OPAQUE_FWD)
            or d.primitive is None
        )
        if is_new and (d.reason, d.source) not in known:
            message = d.message
            if d.reason is K.STATE_NOT_HIDDEN:
                more = f' and {len(weights) - 3} more' if len(weights) > 3 else ''
                message = (
                    f'{path_key(d.hidden_paths[0])} is no HiddenState and carries a derivative '
                    f'from step to step: what {", ".join(weights[:3])}{more} did to it in earlier '
                    'steps is dropped'
                )
            yield record(
                d.reason,
                message,
                primitive=d.primitive,
                hidden_paths=d.hidden_paths,
                source=d.source,
                weights=tuple(weights),
            )


def _maker(flows: StepFlows, spec: StateSpec) -> Equation | None:
    """The operation whose result the state takes on."""
    made = flows.program.made
    atoms = (v for v in flows.info.new_atoms(spec) if v in made and is_differentiable(v))
    v = next(atoms, None)
    return None if v is None else flows.program.equations[made[v]]


def _names(group: HiddenGroup) -> str:
    return ', '.join(map(path_key, group.hidden_paths))


def _place(eqn: Equation | None) -> tuple[Any, Any]:
    return (None, None) if eqn is None else (eqn.name, eqn.source)
