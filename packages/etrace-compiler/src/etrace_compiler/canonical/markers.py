"""Move the marks of `element_wise` parameters to where they first meet data.

`element_wise(w)` may be transformed and broadcast before it meets an input or a state:
`sigmoid(element_wise(w)) * h` with `w` of shape `(N,)` and `h` of shape `(B, N)`. All of
that is still a function of parameters, so it belongs to the weight's chain, and the mark,
with the trace that hangs on it, belongs where the result has the shape of the positions.
"""

import jax

from etrace_compiler.ops import element_wise_op, operator_of
from etrace_compiler.primitives import ELEMENTWISE
from etrace_compiler.program import Equation, Program, Var

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
    fixed = parameter_only(program, parameters)
    alias: dict[Var, Var] = {}
    marked: set[Var] = set()
    placed: dict[tuple[Var, tuple[int, ...]], Var] = {}
    equations: list[Equation] = []

    def resolve(v):
        return alias.get(v, v)

    def mark(v: Var, shape: tuple[int, ...], source) -> Var:
        key = (v, shape)
        if key not in placed:
            operand = v
            if v.shape != shape:
                operand = _broadcast(v, shape, source, equations)
            placed[key] = Var(shape, v.dtype)
            equations.append(
                Equation(element_wise_op.primitive, {}, (operand,), (placed[key],), source)
            )
        return placed[key]

    sources: dict[Var, object] = {}
    for eqn in program.equations:
        inputs = tuple(resolve(v) for v in eqn.inputs)
        out = eqn.outputs[0] if eqn.outputs else None
        if out in fixed:
            if operator_of(eqn.primitive) is element_wise_op:
                alias[out] = inputs[0]
                marked.add(inputs[0])
                sources[inputs[0]] = eqn.source
                continue
            before = [sources[v] for v in inputs if v in marked]
            if operator_of(eqn.primitive) is not None:  # a marked product of parameters alone
                before.append(eqn.source)
            if before:
                marked.update(eqn.outputs)
                sources.update(dict.fromkeys(eqn.outputs, before[0]))
        elif operator_of(eqn.primitive) is None:
            inputs = tuple(
                mark(v, _meeting_shape(eqn, v), sources[v]) if v in marked else v for v in inputs
            )
        else:
            # the weight of an operator needs no second mark
            weight = inputs[-1]
            inputs = tuple(
                mark(v, v.shape, sources[v]) if v in marked and v is not weight else v
                for v in inputs
            )
        equations.append(Equation(eqn.primitive, eqn.params, inputs, eqn.outputs, eqn.source))

    outputs = [resolve(v) for v in program.outputs]
    for i in hidden_outputs:
        if outputs[i] in marked:
            outputs[i] = mark(outputs[i], outputs[i].shape, sources[outputs[i]])
    return Program(program.inputs, tuple(outputs), tuple(equations))


def _meeting_shape(eqn: Equation, v: Var) -> tuple[int, ...]:
    """The shape in which a parameter meets data: that of the result, if it is broadcast there."""
    return eqn.outputs[0].shape if eqn.name in ELEMENTWISE else v.shape


def _broadcast(v: Var, shape: tuple[int, ...], source, equations: list[Equation]) -> Var:
    out = Var(shape, v.dtype)
    dims = tuple(range(len(v.shape)))
    params = {'shape': shape, 'broadcast_dimensions': dims, 'sharding': None}
    equations.append(Equation(jax.lax.broadcast_in_dim_p, params, (v,), (out,), source))
    return out


def drop_dead_equations(program: Program) -> Program:
    """Remove the equations that no output needs, except those without results (printing)."""
    effects = [v for e in program.equations if not e.outputs for v in e.inputs]
    alive = program.upstream([*program.outputs, *effects])
    kept = tuple(e for i, e in enumerate(program.equations) if i in alive or not e.outputs)
    return Program(program.inputs, program.outputs, kept)
