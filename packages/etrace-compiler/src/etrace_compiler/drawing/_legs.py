"""Which parts of a step act on which others directly, and what is cut on the way."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from etrace_compiler.analysis.flow import Reach
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.ops import operator_of
from etrace_compiler.primitives import passes_derivative
from etrace_compiler.program import Program, Var, is_differentiable
from etrace_compiler.relation import CutEdge

__all__ = ['Anchor', 'Leg', 'Legs', 'find_legs', 'groups_behind', 'place_of']


@dataclass(frozen=True)
class Anchor:
    """A part of the step at which a leg begins or ends.

    Attributes:
        kind: `'input'`, `'state'`, `'parameter'`, `'operator'`, `'group'` or `'output'`.
        index: Which one: of the leaves of the arguments, the states, the leaves of the
            parameters, the equations, the groups.
        delayed: Whether the value is the one that the last step left.
    """

    kind: str
    index: int = 0
    delayed: bool = False


@dataclass(frozen=True)
class Leg:
    """How one anchor acts on another without passing a third one, over all ways together.

    Attributes:
        passes: Whether a derivative passes, cut or not; otherwise it is values alone.
        blocked: The groups for which all these ways are cut.
        cuts: What is cut, and for which group.
    """

    passes: bool
    blocked: frozenset[int] = frozenset()
    cuts: frozenset[tuple[CutEdge, int]] = frozenset()

    def __or__(self, other: 'Leg') -> 'Leg':
        if not (self.passes and other.passes):
            return self if self.passes else other
        return Leg(True, self.blocked & other.blocked, self.cuts | other.cuts)


@dataclass(frozen=True)
class Legs:
    """All legs of a step.

    Attributes:
        direct: From anchor to anchor.
        weights: Per marked equation, the leaves of the parameters that its weight is made of.
    """

    direct: Mapping[tuple[Anchor, Anchor], Leg]
    weights: Mapping[int, Mapping[Anchor, Leg]]


Edge = tuple[int, int]
Flow = dict[Anchor, Leg]
_VALUE, _FOLLOWED = Leg(False), Leg(True)


def place_of(source: Any) -> str | None:
    """Write a source line as the name of its file and the line."""
    if source is None:
        return None
    return f'{source.file.replace(chr(92), "/").rsplit("/", 1)[-1]}:{source.line}'


def groups_behind(legs: Legs, through: Collection[str]) -> dict[Anchor, frozenset[int]]:
    """Find the groups that anchors of some kinds act on in the step, also one through another."""
    ways = [
        (start, end)
        for (start, end), leg in legs.direct.items()
        if leg.passes and start.kind in through and not start.delayed
    ]
    behind: dict[Anchor, frozenset[int]] = {}
    changed = True
    while changed:
        changed = False
        for start, end in ways:
            own = behind.get(start, frozenset())
            more = behind.get(end, frozenset()) if end.kind in through else frozenset()
            more |= {end.index} if end.kind == 'group' else set()
            changed |= not more <= own
            behind[start] = own | more
    return behind


def find_legs(graph: ETraceGraph) -> Legs:
    """Follow every input, state, parameter, operator and group to where it is met next."""
    program = graph.module_info.program
    seeds, new = _seeds(graph), _new_states(graph)
    marked = _marked(graph)
    cuts = _Cuts(graph, marked)
    flows: dict[Any, Flow] = {v: {a: _FOLLOWED} for v, a in seeds.items()}
    direct: defaultdict[tuple[Anchor, Anchor], Leg] = defaultdict(lambda: _VALUE)
    weights: dict[int, Flow] = {i: {} for i in marked}

    def arrive(found: Flow, at: Anchor) -> None:
        for anchor, leg in found.items():
            direct[anchor, at] = direct[anchor, at] | leg

    def visit(i: int) -> bool:
        eqn = program.equations[i]
        arriving = [cuts.cross((i, k), flows.get(v, {})) for k, v in enumerate(eqn.inputs)]
        flow = _merge(arriving)
        if i in marked:
            weight = {a: leg for a, leg in arriving[-1].items() if a.kind == 'parameter'}
            others = {a: leg for a, leg in arriving[-1].items() if a.kind != 'parameter'}
            weights[i] = _merge((weights[i], weight))
            arrive(_merge((*arriving[:-1], others)), marked[i])
            flow = {marked[i]: _FOLLOWED}
        elif not passes_derivative(eqn):
            flow = _stopped(flow)
        changed = False
        for v in eqn.outputs:
            own = flow if is_differentiable(v) else _stopped(flow)
            for anchor in new.get(v, ()):
                arrive(own, anchor)
            own = {a: _FOLLOWED for a in new[v]} if v in new else own
            merged = _merge((flows.get(v, {}), own))
            changed |= merged != flows.get(v)
            flows[v] = merged
        return changed

    program.settle(visit)
    for v, anchors in new.items():
        if v not in program.made:  # a state that becomes what an input or another state was
            for anchor in anchors:
                arrive(flows.get(v, {}), anchor)
    for v, anchor in _ends(graph):
        arrive(flows.get(v, {}), anchor)
    for relation in graph.hidden_param_op_relations:
        # also where the way leads through a variable that is the new state of another group
        for group in relation.hidden_groups:
            arrive({marked[program.made[relation.y_var]]: _FOLLOWED}, Anchor('group', group.index))
    return Legs(dict(direct), weights)


def _merge(flows: Iterable[Flow]) -> Flow:
    out: Flow = {}
    for flow in flows:
        for anchor, leg in flow.items():
            out[anchor] = out[anchor] | leg if anchor in out else leg
    return out


def _stopped(flow: Flow) -> Flow:
    """What is left of a flow where no derivative passes; of inputs only values matter."""
    return {a: leg if a.kind in ('input', 'state') else _VALUE for a, leg in flow.items()}


def _seeds(graph: ETraceGraph) -> dict[Var, Anchor]:
    info = graph.module_info
    out = {v: Anchor('input', i) for i, v in enumerate(info.program.inputs[: len(info.in_avals)])}
    for i, spec in enumerate(info.by_role('other')):
        out |= {v: Anchor('state', i, delayed=True) for v in info.old_vars(spec)}
    leaves = [v for spec in info.by_role('param') for v in info.old_vars(spec)]
    out |= {v: Anchor('parameter', i) for i, v in enumerate(leaves)}
    for group in graph.hidden_groups:
        out |= {v: Anchor('group', group.index, delayed=True) for v in group.hidden_invars}
    return out


def _new_states(graph: ETraceGraph) -> dict[Any, list[Anchor]]:
    """The groups that become the value of a variable."""
    out: dict[Any, list[Anchor]] = {}
    for group in graph.hidden_groups:
        for v in group.hidden_outvars:
            if isinstance(v, Var) and Anchor('group', group.index) not in out.get(v, []):
                out.setdefault(v, []).append(Anchor('group', group.index))
    return out


def _ends(graph: ETraceGraph) -> list[tuple[Any, Anchor]]:
    info = graph.module_info
    out = [(v, Anchor('output')) for v in info.out_atoms]
    for i, spec in enumerate(info.by_role('other')):
        out.extend((v, Anchor('state', i)) for v in info.new_atoms(spec))
    return [(v, anchor) for v, anchor in out if isinstance(v, Var)]


def _marked(graph: ETraceGraph) -> dict[int, Anchor]:
    """The marked equations; a product of parameters is part of another operator's weight."""
    program = graph.module_info.program
    info = graph.module_info
    leaves = {v for spec in info.by_role('param') for v in info.old_vars(spec)}
    data = set(program.inputs) - leaves
    related = {r.y_var for r in graph.hidden_param_op_relations}
    out = {}
    for i, eqn in enumerate(program.equations):
        operator = operator_of(eqn.primitive)
        if operator is None:
            continue
        y = eqn.outputs[0]
        if y in related or not operator.has_input or _reads(program, y, data):
            out[i] = Anchor('operator', i)
    return out


def _reads(program: Program, v: Any, data: set[Var]) -> bool:
    return any(
        x in data for i in program.upstream([v]) for x in program.equations[i].inputs
    )  # fmt: skip


class _Cuts:
    """What happens at the operands that are cut for some group.

    What a group's trace does not follow is the past of that group, and the operators that drive
    it; anything else passes. What carries the past of the group along with its own shows the cut.
    """

    def __init__(self, graph: ETraceGraph, marked: Mapping[int, Anchor]):
        program = graph.module_info.program
        self._hidden: defaultdict[Edge, dict[int, CutEdge]] = defaultdict(dict)
        self._drive: defaultdict[Edge, dict[int, CutEdge]] = defaultdict(dict)
        self._carriers: dict[int, set[Anchor]] = {}
        variables: dict[Anchor, tuple[Any, ...]] = {
            a: (program.equations[i].outputs[0],) for i, a in marked.items()
        }
        for group in graph.hidden_groups:
            variables[Anchor('group', group.index)] = group.hidden_outvars
            variables[Anchor('group', group.index, delayed=True)] = group.hidden_invars
        for group in graph.hidden_groups:
            for cut in group.hidden_cuts:
                self._hidden[cut.edge][group.index] = cut
            for cut in group.drive_cuts:
                self._drive[cut.edge][group.index] = cut
            past = Reach(program, [group.hidden_invars], {c.edge for c in group.hidden_cuts})
            self._carriers[group.index] = {
                anchor for anchor, found in variables.items() if any(past(0, v) for v in found)
            }

    def cross(self, edge: Edge, flow: Flow) -> Flow:
        """Take a flow across an operand."""
        hidden, drive = self._hidden.get(edge), self._drive.get(edge)
        if hidden is None and drive is None:
            return flow
        return {a: self._cross(a, leg, hidden or {}, drive or {}) for a, leg in flow.items()}

    def _cross(
        self, a: Anchor, leg: Leg, hidden: Mapping[int, CutEdge], drive: Mapping[int, CutEdge]
    ) -> Leg:
        shown = {(cut, g) for g, cut in hidden.items() if a in self._carriers[g]}
        for g, cut in drive.items():
            if a.kind == 'operator' or (a.kind, a.index) == ('group', g):
                shown.add((cut, g))
        if not leg.passes or not shown:
            return leg
        own = {g for g in hidden if (a.kind, a.index) == ('group', g)}
        own |= {g for g in drive if a.kind == 'operator' or (a.kind, a.index) == ('group', g)}
        return Leg(True, leg.blocked | own, leg.cuts | shown)
