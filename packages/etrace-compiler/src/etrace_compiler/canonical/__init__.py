"""Rewrites that bring a traced step into the one form that the analysis reads."""

from collections.abc import Sequence
from typing import Any

from etrace_compiler.canonical.constants import fold_constants
from etrace_compiler.canonical.control_flow import ControlFlowPolicy, check_control_flow
from etrace_compiler.canonical.markers import drop_dead_equations, parameter_only, sink_markers
from etrace_compiler.diagnostics import CompilationRecord
from etrace_compiler.flatten import flatten_jaxpr
from etrace_compiler.program import Program

__all__ = ['ControlFlowPolicy', 'canonicalise', 'parameter_only']


def canonicalise(
    closed_jaxpr: Any,
    *,
    parameters: Sequence[int],
    hidden_inputs: Sequence[int],
    hidden_outputs: Sequence[int],
    policy: ControlFlowPolicy,
    library_paths: tuple[str, ...] = (),
) -> tuple[Program, tuple[CompilationRecord, ...]]:
    """Bring a traced step into canonical form.

    Args:
        closed_jaxpr: The step as JAX traced it.
        parameters: Positions of the inputs that are parameters.
        hidden_inputs: Positions of the inputs that are old hidden states.
        hidden_outputs: Positions of the outputs that are new hidden states.
        policy: What to do with loops and branches.
        library_paths: Path prefixes whose frames are not the user's code.

    Returns:
        The flat program, and the records of what was decided on the way.
    """
    program = fold_constants(flatten_jaxpr(closed_jaxpr, library_paths))
    inputs = {program.inputs[i] for i in parameters}
    hidden = program.downstream(program.inputs[i] for i in hidden_inputs)
    fixed = parameter_only(program, inputs)
    records = check_control_flow(program, inputs, fixed, hidden, policy)
    program = drop_dead_equations(sink_markers(program, inputs, set(hidden_outputs)))
    return program, records
