"""Move the marks of `element_wise` parameters to where they first meet data.

`element_wise(w)` may be transformed and broadcast before it meets an input or a state:
`sigmoid(element_wise(w)) * h` with `w` of shape `(N,)` and `h` of shape `(B, N)`. All of
that is still a function of parameters, so it belongs to the weight's chain, and the mark,
with the trace that hangs on it, belongs where the result has the shape of the positions.
"""

from typing import Any

import jax

from etrace_compiler._jax import SourceLine
from etrace_compiler.ops import element_wise_op, operator_of
from etrace_compiler.primitives import ELEMENTWISE
from etrace_compiler.program import Atom, Equation, Program, Var

__all__ = ['drop_dead_equations', 'parameter_only', 'sink_markers']


def parameter_only(program: Program, parameters: set[Var]) -> set[Var]:
    """Return the variables that depend on at least one parameter and on no other input."""
    found = set(parameters)
    data = program.downstream(v for v in program.inputs if v not in parameters)
    for eqn in program.equations:
        operands = [v for v in eqn.inputs if isinstance(v, Var)]
        if any(v in found for v in operands) and not any(v in data for v in operands):
            found.update(eqn.outputs)
    return found


def sink_markers(program: Program, parameters: set[Var], hidden_outputs: set[int]) -> Program:
    """Re-place every `element_wise` mark at the end of its chain of parameters.

    Args:
        program: A flat program.
        parameters: Its input variables that are parameters.
        hidden_outputs: Positions, among the outputs, of new hidden states.
    """
    sinker = _Sinker(parameter_only(program, parameters))
    for eqn in program.equations:
        sinker.visit(eqn)
    outputs = [sinker.resolve(v) for v in program.outputs]
    for i in hidden_outputs:
        outputs[i] = sinker.mark(outputs[i], outputs[i].shape)
    return Program(program.inputs, tuple(outputs), tuple(sinker.equations))


class _Sinker:
    """Take marks off where they stand, and place them where marked parameters meet data."""

    def __init__(self, fixed: set[Var]):
        self.equations: list[Equation] = []
        self._fixed = fixed
        self._alias: dict[Any, Atom] = {}
        #: Marked variables, and the user's line that marked them.
        self._marked: dict[Any, SourceLine | None] = {}
        self._placed: dict[tuple[Atom, tuple[int, ...]], Var] = {}

    def resolve(self, v: Atom) -> Atom:
        """Return the variable that stands for one whose mark was taken off."""
        return self._alias.get(v, v)

    def visit(self, eqn: Equation) -> None:
        """Copy one equation, with the marks that it needs."""
        inputs = tuple(self.resolve(v) for v in eqn.inputs)
        operator = operator_of(eqn.primitive)
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
        self.equations.append(Equation(eqn.primitive, eqn.params, inputs, eqn.outputs, eqn.source))

    def mark(self, v: Atom, shape: tuple[int, ...]) -> Atom:
        """Return the marked form of a variable in a shape; itself if it carries no mark."""
        if v not in self._marked:
            return v
        if (v, shape) not in self._placed:
            source = self._marked[v]
            operand = v if v.shape == shape else self._broadcast(v, shape)
            out = self._placed[v, shape] = Var(shape, v.dtype)
            self.equations.append(
                Equation(element_wise_op.primitive, {}, (operand,), (out,), source)
            )
        return self._placed[v, shape]

    def _broadcast(self, v: Atom, shape: tuple[int, ...]) -> Var:
        out = Var(shape, v.dtype)
        dims = tuple(range(len(v.shape)))
        params = {'shape': shape, 'broadcast_dimensions': dims, 'sharding': None}
        self.equations.append(
            Equation(jax.lax.broadcast_in_dim_p, params, (v,), (out,), self._marked[v])
        )
        return out


def _meeting_shape(eqn: Equation, v: Atom) -> tuple[int, ...]:
    """The shape in which a parameter meets data: that of the result, if it is broadcast there."""
    return eqn.outputs[0].shape if eqn.name in ELEMENTWISE else v.shape


def drop_dead_equations(program: Program) -> Program:
    """Remove the equations that no output needs, except those without results (printing)."""
    effects = [v for e in program.equations if not e.outputs for v in e.inputs]
    alive = program.upstream([*program.outputs, *effects])
    kept = tuple(e for i, e in enumerate(program.equations) if i in alive or not e.outputs)
    return Program(program.inputs, program.outputs, kept)
