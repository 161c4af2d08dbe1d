"""Rewrites that bring a traced step into the one form that the analysis reads."""

from collections.abc import Sequence
from typing import Any

from etrace_compiler import _jax
from etrace_compiler.canonical.constants import fold_constants
from etrace_compiler.canonical.control_flow import (
    ControlFlowPolicy,
    ControlFlowRewriter,
    check_control_flow,
)
from etrace_compiler.canonical.markers import drop_dead_equations, parameter_only, sink_markers
from etrace_compiler.diagnostics import CompilationRecord
from etrace_compiler.flatten import Depends, Flattener
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
    rewriter = ControlFlowRewriter(policy)
    flat = Flattener(rewriter, library_paths)
    jaxpr, _ = _jax.open_jaxpr(closed_jaxpr)
    kinds = dict.fromkeys(parameters, Depends.PARAMETER)
    kinds |= dict.fromkeys(hidden_inputs, Depends.HIDDEN)
    inputs = tuple(flat.input(v, kinds.get(i, Depends.DATA)) for i, v in enumerate(jaxpr.invars))
    outputs = flat.splice(closed_jaxpr, inputs)
    program = fold_constants(
        Program(inputs, outputs, flat.equations, policy.fixpoint_iteration_limit)
    )
    weights = {inputs[i] for i in parameters}
    hidden = program.downstream(inputs[i] for i in hidden_inputs)
    fixed = parameter_only(program, weights)
    records = check_control_flow(program, weights, fixed, hidden, policy)
    program = drop_dead_equations(sink_markers(program, weights, set(hidden_outputs)))
    return program, (*rewriter.records, *records)
