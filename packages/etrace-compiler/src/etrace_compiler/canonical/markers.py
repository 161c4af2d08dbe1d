"""Move the marks of `element_wise` parameters to where they first meet data.

`element_wise(w)` may be transformed and broadcast before it meets an input or a state:
`sigmoid(element_wise(w)) * h` with `w` of shape `(N,)` and `h` of shape `(B, N)`. All of
that is still a function of parameters, so it belongs to the weight's chain, and the mark,
with the trace that hangs on it, belongs where the result has the shape of the positions.
"""

import math
from dataclasses import replace
from typing import Any

import jax

from etrace_compiler._jax import SourceLine
from etrace_compiler.ops import element_wise_op, operator_of
from etrace_compiler.primitives import ELEMENTWISE
from etrace_compiler.program import Atom, Equation, Loop, Program, Var

__all__ = ['drop_dead_equations', 'parameter_only', 'sink_markers']


def parameter_only(program: Program, parameters: set[Var]) -> set[Var]:
    """Return the variables that depend on at least one parameter and on no other input."""
    key = parameter_only, frozenset(parameters)
    if key not in program.memo:
        data = program.downstream(v for v in program.inputs if v not in parameters)
        program.memo[key] = program.downstream(parameters) - data
    return program.memo[key]


def sink_markers(program: Program, parameters: set[Var], hidden_outputs: set[int]) -> Program:
    """Re-place every `element_wise` mark at the end of its chain of parameters.

    Args:
        program: A flat program.
        parameters: Its input variables that are parameters.
        hidden_outputs: Positions, among the outputs, of new hidden states.
    """
    sinker = _Sinker(program, parameter_only(program, parameters))
    for eqn in program.equations:
        sinker.visit(eqn)
    sinker.leave_loops()
    outputs = [sinker.resolve(v) for v in program.outputs]
    for i in hidden_outputs:
        outputs[i] = sinker.mark(outputs[i], outputs[i].shape)
    return replace(program, outputs=tuple(outputs), equations=sinker.equations)


class _Sinker:
    """Take marks off where they stand, and place them where marked parameters meet data."""

    def __init__(self, program: Program, fixed: set[Var]):
        self._program = program
        self._equations: list[Equation] = []
        #: Where each loop begins among the equations, and what is placed before it.
        self._begins: dict[Loop, int] = {}
        self._before: dict[int, list[Equation]] = {}
        self._loops: tuple[Loop, ...] = ()
        self._fixed = fixed
        self._alias: dict[Any, Atom] = {}
        #: Marked variables, and the user's line that marked them.
        self._marked: dict[Any, SourceLine | None] = {}
        self._placed: dict[tuple[Atom, tuple[int, ...]], Var] = {}

    @property
    def equations(self) -> tuple[Equation, ...]:
        """The equations with their new marks."""
        return tuple(
            e for i, eqn in enumerate([*self._equations, None])
            for e in (*self._before.get(i, ()), eqn) if e is not None
        )  # fmt: skip

    def resolve(self, v: Atom) -> Atom:
        """Return the variable that stands for one whose mark was taken off."""
        return self._alias.get(v, v)

    def visit(self, eqn: Equation) -> None:
        """Copy one equation, with the marks that it needs."""
        self._loops = eqn.loops
        for loop in self._loops:
            self._begins.setdefault(loop, len(self._equations))
        operator = operator_of(eqn.primitive)
        marked, alias = self._marked.keys(), self._alias.keys()
        if operator is None and marked.isdisjoint(eqn.inputs) and alias.isdisjoint(eqn.inputs):
            self._equations.append(eqn)
            return
        inputs = tuple(self.resolve(v) for v in eqn.inputs)
        if not self._fixed.isdisjoint(eqn.outputs):
            if operator is element_wise_op:
                self._alias[eqn.outputs[0]] = inputs[0]
                self._marked[inputs[0]] = eqn.source
                return
            lines = [self._marked[v] for v in inputs if v in self._marked]
            if operator is not None:  # a marked product of parameters alone
                lines.append(eqn.source)
            if lines:
                self._marked.update(dict.fromkeys(eqn.outputs, lines[0]))
        elif operator is None:
            inputs = tuple(self.mark(v, _meeting_shape(eqn, v)) for v in inputs)
        else:
            # the weight of an operator needs no second mark
            inputs = (*(self.mark(v, v.shape) for v in inputs[:-1]), inputs[-1])
        if inputs != eqn.inputs:
            eqn = Equation(eqn.primitive, eqn.params, inputs, eqn.outputs, eqn.source, eqn.loop)
        self._equations.append(eqn)

    def leave_loops(self) -> None:
        """Place the marks that follow after all loops."""
        self._loops = ()

    def mark(self, v: Atom, shape: tuple[int, ...]) -> Atom:
        """Return the marked form of a variable in a shape; itself if it carries no mark."""
        if v not in self._marked:
            return v
        if (v, shape) not in self._placed:
            operand, shared = self._before_repetition(v, shape)
            if (*shared, *operand.shape) != shape:
                operand, shared = Var(shape, v.dtype), ()
                dims = tuple(range(len(v.shape)))
                params = {'shape': shape, 'broadcast_dimensions': dims, 'sharding': None}
                self._place(v, jax.lax.broadcast_in_dim_p, params, v, operand)
            out = self._placed[v, shape] = Var(shape, v.dtype)
            self._place(v, element_wise_op.primitive, {'shared': shared}, operand, out)
        return self._placed[v, shape]

    def _before_repetition(self, v: Atom, shape: tuple[int, ...]) -> tuple[Atom, tuple[int, ...]]:
        """Find what is repeated along leading axes to have a shape, and those axes."""
        while v in self._program.made:
            eqn = self._program.equations[self._program.made[v]]
            inner = self.resolve(eqn.inputs[0]) if eqn.inputs else v
            lead = len(v.shape) - len(inner.shape)
            repeats = eqn.name in ('broadcast_in_dim', 'reshape') and inner in self._marked
            if not repeats or lead <= 0 or v.shape[lead:] != inner.shape:
                break
            if eqn.name == 'reshape' and math.prod(v.shape[:lead]) != 1:
                break
            if eqn.name == 'broadcast_in_dim':
                dims = tuple(eqn.params['broadcast_dimensions'])
                if dims != tuple(range(lead, len(v.shape))):
                    break
            v = inner
        return v, shape[: len(shape) - len(v.shape)]

    def _place(self, owner: Atom, primitive: Any, params: dict, operand: Atom, out: Var) -> None:
        """Place an equation here, before the loops in which the marked variable is constant."""
        own = self._program.loops_of(owner)
        loop = own[-1] if own else None
        equation = Equation(primitive, params, (operand,), (out,), self._marked[owner], loop)
        constant_in = self._loops[len(own) :]
        if constant_in:
            self._before.setdefault(self._begins[constant_in[0]], []).append(equation)
        else:
            self._equations.append(equation)


def _meeting_shape(eqn: Equation, v: Atom) -> tuple[int, ...]:
    """The shape in which a parameter meets data: that of the result, if it is broadcast there."""
    return eqn.outputs[0].shape if eqn.name in ELEMENTWISE else v.shape


def drop_dead_equations(program: Program) -> Program:
    """Remove the equations that no output needs, except those without results (printing)."""
    effects = [v for e in program.equations if not e.outputs for v in e.inputs]
    alive = program.upstream([*program.outputs, *effects])
    kept = tuple(e for i, e in enumerate(program.equations) if i in alive or not e.outputs)
    return replace(program, equations=kept)
