"""Rewrite loops and branches into what the analysis can follow.

A branch becomes both branches and a selection; a short loop is written out; a loop without a
carry becomes one vectorised step; a long loop is descended into: it stays a loop, whose
equations the analysis reads. Everything else stays one equation, with a record that says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from etrace_compiler import _jax
from etrace_compiler._jax import Scan, SourceLine
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.errors import CompilationError
from etrace_compiler.flatten import Depends, Flattener
from etrace_compiler.ops import operator_of
from etrace_compiler.primitives import ELEMENTWISE
from etrace_compiler.program import (
    LOOP_LAST,
    LOOP_SLICE,
    LOOP_STACK,
    Atom,
    Const,
    Equation,
    Program,
    Var,
    is_differentiable,
)

__all__ = ['ControlFlowPolicy', 'ControlFlowRewriter', 'check_control_flow']

_LOOPS_AND_BRANCHES = frozenset({'scan', 'cond', 'while'})

_BOTH = Depends.PARAMETER | Depends.DATA


@dataclass(frozen=True)
class ControlFlowPolicy:
    """How loops and branches inside the step are treated.

    Attributes:
        cond: A `cond` or `switch` on the way of a weight or a hidden state: `'convert'` computes
            all branches and selects, `'opaque'` leaves it as one operation that mixes positions.
        scan_unroll_limit: Loops of up to this many steps are written out. A marked operator
            whose input changes from step to step then has one trace per step; in a loop that
            is followed inside it has one in all.
        while_hidden: A `while` loop on the way of a hidden state: `'opaque-fwd'` lets its
            value pass without a derivative, `'error'` refuses the model.
        etp_in_control_flow: A marked operator that stays inside a loop or branch: `'error'`
            refuses the model, `'exclude'` gives its parameters their one-step gradient.
        scan_descent: Longer loops: `'auto'` follows what happens inside them, `'off'` leaves each
            as one operation that mixes positions.
        fixpoint_iteration_limit: How often the analysis goes through a loop at most.
    """

    cond: Literal['convert', 'opaque'] = 'convert'
    scan_unroll_limit: int = 16
    while_hidden: Literal['opaque-fwd', 'error'] = 'opaque-fwd'
    etp_in_control_flow: Literal['error', 'exclude'] = 'error'
    scan_descent: Literal['auto', 'off'] = 'auto'
    fixpoint_iteration_limit: int = 64


class ControlFlowRewriter:
    """Rewrite loops and branches while a step is flattened.

    Args:
        policy: What to do with them.
    """

    def __init__(self, policy: ControlFlowPolicy):
        self.policy = policy
        self.records: list[CompilationRecord] = []
        #: The branches that are being computed: what selects, and the number of the branch.
        self._open: tuple[tuple[Atom, int], ...] = ()

    def __call__(
        self, flat: Flattener, eqn: Any, operands: tuple[Atom, ...], source: SourceLine | None
    ) -> tuple[Atom, ...] | None:
        """Rewrite one equation; `None` leaves it as it is."""
        silent = _jax.has_effects(eqn) and not eqn.outvars
        if eqn.primitive.name in ('cond', 'scan') and not silent:
            inside = self._open and _jax.has_effects(eqn)
            if inside or _concerns_learning(flat, eqn, operands):
                rewrite = self._branch if eqn.primitive.name == 'cond' else self._loop
                return rewrite(flat, eqn, operands, source)
        if self._open:
            return self._in_branch(flat, eqn, operands, source)
        return None

    def _note(self, kind: DiagnosticKind, message: str, eqn: Any, source: Any) -> None:
        self.records.append(record(kind, message, primitive=eqn.primitive.name, source=source))

    def _branch(self, flat: Flattener, eqn: Any, operands: tuple, source: Any) -> Any:
        branches = _jax.branches(eqn)
        reason = None
        if self.policy.cond == 'opaque':
            reason = 'the policy asks for it'
        elif not self._can_be_guarded(eqn):
            reason = 'a branch calls back for a result'
        if reason is not None:
            message = f'a `cond` of {len(branches)} branches is left as it is: {reason}'
            self._note(DiagnosticKind.COND_CONVERSION_SKIPPED, message, eqn, source)
            return None
        index, *args = operands
        results, around = [], self._open
        for number, branch in enumerate(branches):
            entered = [_gate(flat, index, number, v, source) for v in args]
            self._open = (*around, (index, number))
            results.append(flat.splice(branch, entered, source))
        self._open = around
        message = f'all {len(branches)} branches of a `cond` are computed, and one is selected'
        self._note(DiagnosticKind.COND_IF_CONVERTED, message, eqn, source)
        return tuple(
            flat.apply(_select, (index, *cases), source)[0] for cases in zip(*results, strict=True)
        )

    def _can_be_guarded(self, eqn: Any) -> bool:
        """Whether all that a branch does beside computing is done by equations without results."""
        for inner in (e for body in _jax.bodies(eqn) for e in body.eqns if _jax.has_effects(e)):
            name, length = inner.primitive.name, inner.params.get('length', 0)
            opened = name == 'cond' or _jax.inlinable_jaxpr(inner) is not None
            if name == 'scan':
                followed = self.policy.scan_descent == 'auto'
                opened = length > 0 and (followed or length <= self.policy.scan_unroll_limit)
            if inner.outvars and not (opened and self._can_be_guarded(inner)):
                return False
        return True

    def _in_branch(self, flat: Flattener, eqn: Any, operands: tuple, source: Any) -> Any:
        """Keep to a branch what must not leave it, if it is not taken."""
        if not eqn.outvars:
            self._guard(flat, eqn, operands, source)
            return ()
        depends = [flat.depends([v]) for v in operands]
        if Depends.PARAMETER not in depends or flat.depends(operands) == Depends.PARAMETER:
            return None
        # parameters enter without a gate, so what they meet must not hand a derivative to them
        results = flat.append(eqn, operands, source)
        for index, number in self._open:
            results = tuple(_gate(flat, index, number, v, source) for v in results)
        return results

    def _guard(self, flat: Flattener, eqn: Any, operands: tuple, source: Any) -> None:
        """Append an equation without results (printing) for when all open branches are taken."""
        indices = tuple(index for index, _ in self._open)
        numbers = tuple(number for _, number in self._open)

        def run(*values: Any) -> tuple[()]:
            taken = jnp.ones((), bool)
            for index, number in zip(values, numbers, strict=False):
                taken &= index == number
            given = values[len(numbers) :]
            then = partial(_run_silent, eqn)
            jax.lax.cond(taken, then, lambda *_: None, *given)
            return ()

        around, self._open = self._open, ()
        flat.apply(run, (*indices, *operands), source)
        self._open = around

    def _loop(self, flat: Flattener, eqn: Any, operands: tuple, source: Any) -> Any:
        scan = _jax.scan_of(eqn)
        consts = operands[: scan.num_consts]
        inits = operands[scan.num_consts : scan.num_consts + scan.num_carry]
        sequences = operands[scan.num_consts + scan.num_carry :]
        if scan.length == 0:
            return None
        if scan.length <= self.policy.scan_unroll_limit:
            message = f'a loop of {scan.length} steps is written out'
            self._note(DiagnosticKind.SCAN_UNROLLED, message, eqn, source)
            return _unroll(flat, scan, consts, inits, sequences, source)
        long = f'a loop of {scan.length} steps'
        if self.policy.scan_descent == 'off':
            message = f'{long} is left as it is: the policy asks for it'
            self._note(DiagnosticKind.SCAN_DESCENT_SKIPPED, message, eqn, source)
            return None
        if not inits and not _jax.has_effects(eqn):
            message = f'{long} without a carry is computed as one vectorised step'
            self._note(DiagnosticKind.SCAN_VECTORISED, message, eqn, source)
            return _vectorise(flat, scan, consts, sequences, source)
        self._note(DiagnosticKind.SCAN_DESCENT_APPLIED, f'{long} is followed inside', eqn, source)
        return _descend(flat, scan, consts, inits, sequences, source)


def _concerns_learning(flat: Flattener, eqn: Any, operands: tuple[Atom, ...]) -> bool:
    """Whether a trace may have to follow something through a loop or branch."""
    depends = flat.depends(operands)
    followed = depends & Depends.HIDDEN or depends & _BOTH == _BOTH
    return bool(followed) or next(_marked_inside(eqn), None) is not None


def _gate(flat: Flattener, index: Atom, number: int, v: Atom, source: Any) -> Atom:
    """Let no derivative out of a branch that is not taken: it may be infinite there.

    The value stays as it is. A function of parameters alone stays one, since it may be a weight.
    """
    if (
        isinstance(v, Const)
        or not is_differentiable(v)
        or not flat.depends([v]) & ~Depends.PARAMETER
    ):
        return v
    return flat.apply(
        lambda i, x: [jax.lax.select_n(i == number, jax.lax.stop_gradient(x), x)],
        (index, v),
        source,
    )[0]


def _run_silent(eqn: Any, *values: Any) -> None:
    _jax.bind_equation(eqn.primitive, dict(eqn.params), values)


def _select(index: Any, *cases: Any) -> list[Any]:
    which = index.astype(bool) if len(cases) == 2 else index
    return [jax.lax.select_n(which, *cases)]


def _stack(*values: Any) -> list[Any]:
    return [jnp.stack(values)]


def _unroll(
    flat: Flattener, scan: Scan, consts: Any, carry: Any, sequences: Any, source: Any
) -> tuple[Atom, ...]:
    """Write a loop out, step by step."""
    order = range(scan.length)
    stacked: dict[int, tuple[Atom, ...]] = {}
    for n in reversed(order) if scan.reverse else order:
        elements = [flat.apply(lambda s, n=n: (s[n],), (s,), source)[0] for s in sequences]
        results = flat.splice(scan.body, (*consts, *carry, *elements), source)
        carry, stacked[n] = results[: scan.num_carry], results[scan.num_carry :]
    joined = zip(*(stacked[n] for n in order), strict=True)
    ys = tuple(flat.apply(_stack, y, source)[0] for y in joined)
    return (*carry, *ys)


def _vectorise(
    flat: Flattener, scan: Scan, consts: Any, sequences: Any, source: Any
) -> tuple[Atom, ...]:
    """Compute all steps of a loop without a carry at once."""
    axes = (*(None for _ in consts), *(0 for _ in sequences))
    step = partial(_jax.evaluate_jaxpr, scan.body)
    every = jax.vmap(step, in_axes=axes, axis_size=scan.length)
    return flat.apply(lambda *args: tuple(every(*args)), (*consts, *sequences), source)


def _descend(
    flat: Flattener, scan: Scan, consts: Any, inits: Any, sequences: Any, source: Any
) -> tuple[Atom, ...]:
    """Keep a loop, with its equations where the analysis sees them."""

    def flipped(v: Atom) -> Atom:
        return flat.apply(lambda s: (jnp.flip(s, 0),), (v,), source)[0] if scan.reverse else v

    sequences = [flipped(v) for v in sequences]
    depends = flat.depends((*consts, *inits, *sequences))
    flat.open_loop(scan.length)
    carries = [flat.begin_carry(v, depends, source) for v in inits]
    elements = [
        flat.tie(LOOP_SLICE, (v,), jax.ShapeDtypeStruct(v.shape[1:], v.dtype), source)
        for v in sequences
    ]
    results = flat.splice(scan.body, (*consts, *(v for v, _ in carries), *elements), source)
    for value, (_, end) in zip(results, carries, strict=False):
        flat.end_carry(value, end, source)
    lasts = [flat.tie(LOOP_LAST, pair, pair[0], source) for pair in carries]
    stacks = [
        flat.tie(LOOP_STACK, (v,), jax.ShapeDtypeStruct((scan.length, *v.shape), v.dtype), source)
        for v in results[scan.num_carry :]
    ]
    flat.close_loop()
    return (*lasts, *(flipped(v) for v in stacks))


def check_control_flow(
    program: Program,
    parameters: set[Var],
    fixed: set[Var],
    hidden: set[Var],
    policy: ControlFlowPolicy,
) -> tuple[CompilationRecord, ...]:
    """Look for what the loops and branches that were left do to parameters and hidden states.

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
    for eqn in (e for e in program.equations if e.outputs and e.name not in ELEMENTWISE):
        marked = set(_marked_inside(eqn))
        if marked:
            message = f'{", ".join(sorted(marked))} stands inside'
            records.append(_record(DiagnosticKind.PRIMITIVE_INSIDE_CONTROL_FLOW, eqn, message))
        if eqn.name not in _LOOPS_AND_BRANCHES:
            continue
        operands = {v for v in eqn.inputs if isinstance(v, Var)}
        if eqn.name == 'while' and not operands.isdisjoint(parameters | fixed):
            records.append(_record(DiagnosticKind.WEIGHT_IN_WHILE, eqn, 'a parameter is used in'))
        if not operands.isdisjoint(hidden):
            if eqn.name == 'while':
                kind = DiagnosticKind.CONTROL_FLOW_OPAQUE_FWD
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
