"""What is done with loops and branches inside the step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from etrace_compiler import _jax
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.errors import CompilationError
from etrace_compiler.ops import operator_of
from etrace_compiler.program import Equation, Program, Var

__all__ = ['ControlFlowPolicy', 'check_control_flow']

_LOOPS_AND_BRANCHES = frozenset({'scan', 'cond', 'while'})


@dataclass(frozen=True)
class ControlFlowPolicy:
    """How loops and branches inside the step are treated.

    Attributes:
        while_hidden: A `while` loop on the way of a hidden state: `'opaque-fwd'` lets its
            value pass without a derivative, `'error'` refuses the model.
        etp_in_control_flow: A marked operator inside a loop or branch: `'error'` refuses the
            model, `'exclude'` gives its parameters their one-step gradient.
    """

    while_hidden: Literal['opaque-fwd', 'error'] = 'opaque-fwd'
    etp_in_control_flow: Literal['error', 'exclude'] = 'error'


def check_control_flow(
    program: Program,
    parameters: set[Var],
    fixed: set[Var],
    hidden: set[Var],
    policy: ControlFlowPolicy,
) -> tuple[CompilationRecord, ...]:
    """Look for what loops and branches do to parameters and hidden states.

    Args:
        program: The flat program.
        parameters: Its inputs that are parameters.
        fixed: Its variables that depend on parameters alone.
        hidden: Its variables that depend on old hidden states.
        policy: What to do about it.

    Raises:
        CompilationError: If a parameter enters a `while` loop, or the policy refuses what is found.
    """
    records = []
    for eqn in program.equations:
        if eqn.name not in _LOOPS_AND_BRANCHES:
            continue
        operands = {v for v in eqn.inputs if isinstance(v, Var)}
        if eqn.name == 'while' and not operands.isdisjoint(parameters | fixed):
            records.append(_record(DiagnosticKind.WEIGHT_IN_WHILE, eqn, 'a parameter is used in'))
        marked = sorted({name for name in _marked_inside(eqn)})
        if marked:
            message = f'{", ".join(marked)} stands inside'
            records.append(_record(DiagnosticKind.PRIMITIVE_INSIDE_CONTROL_FLOW, eqn, message))
        if not operands.isdisjoint(hidden):
            if eqn.name == 'while':
                kind = DiagnosticKind.CONTROL_FLOW_OPAQUE_FWD
                records.append(_record(kind, eqn, 'a hidden state passes'))
            else:
                kind = DiagnosticKind.CONTROL_FLOW_RECURRENT_MIXING
                records.append(_record(kind, eqn, 'a hidden state passes'))
    refused = [r for r in records if _is_refused(r, policy)]
    if refused:
        raise CompilationError('\n'.join(str(r) for r in refused), tuple(records))
    return tuple(records)


def _is_refused(found: CompilationRecord, policy: ControlFlowPolicy) -> bool:
    return (
        found.kind is DiagnosticKind.WEIGHT_IN_WHILE
        or (
            found.kind is DiagnosticKind.PRIMITIVE_INSIDE_CONTROL_FLOW
            and policy.etp_in_control_flow == 'error'
        )
        or (found.kind is DiagnosticKind.CONTROL_FLOW_OPAQUE_FWD and policy.while_hidden == 'error')
    )


def _record(kind: DiagnosticKind, eqn: Equation, what: str) -> CompilationRecord:
    return record(kind, f'{what} a `{eqn.name}`', primitive=eqn.name, source=eqn.source)


def _marked_inside(eqn: Any) -> Iterator[str]:
    """Names of the operators inside an equation's bodies, at any depth."""
    for body in _jax.bodies(eqn):
        for inner in body.eqns:
            if operator_of(inner.primitive) is not None:
                yield inner.primitive.name
            yield from _marked_inside(inner)
