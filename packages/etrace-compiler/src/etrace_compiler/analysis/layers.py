"""Where derivatives flow in one step, and which of these ways belong to one group alone.

What a weight does to the states lives on in *nodes*: hidden groups, and other states that hold
floats. The *layer* of a group is made of the ways to its new states that do not lead through the
new states of another group.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from etrace_compiler.analysis.flow import Reach, members
from etrace_compiler.analysis.weights import marks_of, parameter_functions
from etrace_compiler.primitives import passes_derivative
from etrace_compiler.program import Equation, Program, Var, is_differentiable
from etrace_compiler.relation import CutEdge, HiddenGroup
from etrace_compiler.staging import ModuleInfo

__all__ = ['Layer', 'Mark', 'Node', 'StepFlows']

#: What a derivative may start from: `('param', n)`, `('old', group)`, `('new', group)`,
#: `('new', variable)` for one new state, `('other', n)` for a state that is not hidden,
#: `('mark', variable)` for the result of a marked operation, or `('loop', n)` for the results of
#: a `while`.
Node = tuple[str, Any]


@dataclass(frozen=True, eq=False)
class Mark:
    """One marked operation.

    Attributes:
        equation: The operation.
        weight_operand: Its place: index of the equation and of the operand that is its weight.
        is_sound: Whether the weight is a function of parameters alone, the same in every substep
            of a loop.
    """

    equation: Equation
    weight_operand: tuple[int, int]
    is_sound: bool

    @property
    def result(self) -> Var:
        return self.equation.outputs[0]

    @property
    def weight(self) -> Any:
        return self.equation.inputs[-1]


class StepFlows:
    """Where derivatives flow in one step, whatever is cut or marked.

    Args:
        info: The traced step.
        groups: Its hidden groups.
    """

    def __init__(self, info: ModuleInfo, groups: Sequence[HiddenGroup]):
        self.info = info
        self.program = info.program
        self.groups = tuple(groups)
        self.params = info.by_role('param')
        self.others = tuple(
            s for s in info.by_role('other') if any(map(is_differentiable, info.old_vars(s)))
        )
        self.loops = tuple(e for e in info.program.equations if e.name == 'while')
        self.new = [[v for v in g.hidden_outvars if isinstance(v, Var)] for g in groups]
        sources: dict[Node, Sequence[Var]] = {}
        sources |= {('param', n): _floats(info.old_vars(s)) for n, s in enumerate(self.params)}
        sources |= {('old', g.index): g.hidden_invars for g in groups}
        sources |= {('new', i): new for i, new in enumerate(self.new)}
        sources |= {('new', v): [v] for new in self.new for v in new}
        sources |= {('other', n): _floats(info.old_vars(s)) for n, s in enumerate(self.others)}
        sources |= {('mark', mark.result): [mark.result] for mark in self.marks}
        sources |= {('loop', n): _floats(eqn.outputs) for n, eqn in enumerate(self.loops)}
        self._number = {node: n for n, node in enumerate(sources)}
        self._reach = Reach(self.program, list(sources.values()))
        #: What a loss can read.
        self.readable = (*info.out_atoms, *(v for new in self.new for v in new))
        self._alive = self._find_alive()

    @property
    def every_param(self) -> int:
        """One bit for each parameter."""
        return (1 << len(self.params)) - 1

    def flows(self, source: Node, targets: Iterable[Any]) -> bool:
        """Whether a derivative flows from a node to any of some variables."""
        return any(self._reach(self._number[source], v) for v in targets)

    def sources(self, variables: Iterable[Any]) -> int:
        """The parameters that flow to any of some variables, one bit each."""
        return self._reach.sources(variables) & self.every_param

    def _find_alive(self) -> set[Node]:
        nodes = [node for node in self._number if node[0] in ('old', 'other', 'loop')]
        alive = {node for node in nodes if self.flows(node, self.readable)}
        while True:
            kept = [
                v
                for n, spec in enumerate(self.others)
                if ('other', n) in alive
                for v in self.info.new_atoms(spec)
            ]
            # a value that a loop passes on without a derivative matters all the same
            kept += [v for n, e in enumerate(self.loops) if ('loop', n) in alive for v in e.inputs]
            more = {node for node in nodes if node not in alive and self.flows(node, kept)}
            if not more:
                return alive
            alive |= more

    def is_alive(self, node: Node) -> bool:
        """Whether what a node holds matters to a loss of this or of a later step."""
        return node in self._alive

    def mark_flows(self, mark: Mark, targets: Iterable[Any]) -> bool:
        """Whether a derivative flows from the result of a mark to any of some variables."""
        return self.flows(('mark', mark.result), targets)

    @cached_property
    def marks_of(self) -> list[list[Mark]]:
        """Per parameter, the sound marks that have it in their weight."""
        found: list[list[Mark]] = [[] for _ in self.params]
        for mark in self.marks:
            if mark.is_sound:
                for param in members(self.sources([mark.weight])):
                    found[param].append(mark)
        return found

    @cached_property
    def homes(self) -> Mapping[Var, int]:
        """The group of every new state that matters: where one layer ends and others begin."""
        return {
            v: g.index
            for g in self.groups
            if self.is_alive(('old', g.index))
            for v in self.new[g.index]
        }

    @cached_property
    def fixed(self) -> set[Var]:
        """Variables that depend on parameters alone."""
        return parameter_functions(self.info)

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """Every marked operation that is not itself a part of another one's weight."""
        return tuple(self.marks_at.values())

    @cached_property
    def marks_at(self) -> dict[int, Mark]:
        """The marks by the index of their equations."""
        found = {}
        for i in marks_of(self.info):
            eqn = self.program.equations[i]
            weight = eqn.inputs[-1]
            is_sound = weight in self.fixed and not self.program.loops_of(weight)
            found[i] = Mark(eqn, (i, len(eqn.inputs) - 1), is_sound)
        return found

    @cached_property
    def mark_of(self) -> dict[Var, Mark]:
        """The marks by their results."""
        return {mark.result: mark for mark in self.marks}

    @cached_property
    def leaves(self) -> dict[Var, int]:
        """The parameter of each variable that holds floats of one."""
        return {v: n for n, s in enumerate(self.params) for v in _floats(self.info.old_vars(s))}


class Layer:
    """The ways to one group's new states that do not lead through those of another group.

    Args:
        flows: The flows of the step.
        group: The group.
    """

    def __init__(self, flows: StepFlows, group: HiddenGroup):
        self.group = group
        self.flows = flows
        self.new = flows.new[group.index]
        self.is_alive = flows.is_alive(('old', group.index))
        self._inside, self._places = self._find_ways()
        self.marks = [m for i, m in flows.marks_at.items() if i in self._places]
        self._sound = {m: n for n, m in enumerate(m for m in self.marks if m.is_sound)}
        weights = {m.weight_operand for m in self._sound}
        #: The equations of the layer, by index.
        self.equations = {i: flows.program.equations[i] for i in sorted(self._places)}
        blocked = {
            (at, k)
            for at, (i, eqn) in enumerate(self.equations.items())
            for k, v in enumerate(eqn.inputs)
            if v not in self._inside or (i, k) in weights
        }
        sources: dict[int, list[Var]] = {len(flows.params) + n: [m.result]
                                         for m, n in self._sound.items()}  # fmt: skip
        for v in flows.leaves.keys() & self._inside:
            sources.setdefault(flows.leaves[v], []).append(v)
        inner = Program(flows.program.inputs, (), tuple(self.equations.values()))
        self._reach = Reach(inner, sources, blocked)

    def _find_ways(self) -> tuple[set[Any], set[int]]:
        """Variables on a way to the new states, and the equations between them."""
        program, homes = self.flows.program, self.flows.homes
        inside: set[Any] = set()
        places: set[int] = set()
        wanted: list[Any] = list(self.new)
        while wanted:
            v = wanted.pop()
            if v in inside or homes.get(v, self.group.index) != self.group.index:
                continue
            inside.add(v)
            i = program.made.get(v)
            if i is not None and passes_derivative(program.equations[i]):
                places.add(i)
                wanted.extend(
                    u
                    for u in program.equations[i].inputs
                    if isinstance(u, Var) and is_differentiable(u)
                )
        return inside, places

    def holds(self, v: Any) -> bool:
        """Whether a variable is on a way of the layer."""
        return v in self._inside

    def drivers(self, traced: Iterable[Var]) -> list[int]:
        """Parameters that act on the group by a way of their own, or by one that is traced.

        Args:
            traced: Results of marked operations that are traced in the group.
        """
        weights = [*(m.weight for m in self._sound),
                   *(self.flows.mark_of[v].weight for v in traced)]  # fmt: skip
        found = self._reach.sources(self.new) | self.flows.sources(weights)
        return list(members(found & self.flows.every_param))

    def avoids_marks(self, param: int) -> bool:
        """Whether a parameter acts on the group by a way that passes no sound mark."""
        return any(self._reach(param, v) for v in self.new)

    def marks_of(self, param: int) -> Iterator[Mark]:
        """Sound marks of the layer with a parameter in their weight."""
        return (m for m in self.flows.marks_of[param] if m in self._sound)

    def cuts_of(self, mark: Mark) -> Iterator[CutEdge]:
        """Cut operands on the ways from a mark to the new states."""
        number = len(self.flows.params) + self._sound[mark]
        for cut in self.group.drive_cuts:
            operand = self.flows.program.equations[cut.equation].inputs[cut.operand]
            on_a_way = cut.equation in self._places and operand in self._inside
            if on_a_way and self._reach(number, operand):
                yield cut

    def readers_of(self, param: int) -> Iterator[Equation]:
        """Equations that a parameter passes on its ways around the marks."""
        for eqn in self.equations.values():
            if any(v in self._inside and self._reach(param, v) for v in eqn.inputs):
                yield eqn

    def reads(self, param: int, v: Any) -> bool:
        """Whether a parameter reaches a variable by a way around the marks."""
        return v in self._inside and self._reach(param, v)


def _floats(variables: Iterable[Var]) -> list[Var]:
    """A derivative starts nowhere else: a whole number that becomes a float carries none."""
    return [v for v in variables if is_differentiable(v)]
