"""Records of what the compiler decided, and the table of their codes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from etrace_compiler._jax import SourceLine

__all__ = ['TABLE', 'CompilationRecord', 'DiagnosticKind', 'DiagnosticLevel', 'Entry', 'record']


class DiagnosticLevel(StrEnum):
    """How much a record matters."""

    INFO = 'info'
    WARNING = 'warning'
    ERROR = 'error'


class DiagnosticKind(StrEnum):
    """What was decided."""

    RELATION_INCLUDED = 'relation_included'
    RELATION_EXCLUDED_NO_PARAMSTATE = 'relation_excluded_no_paramstate'
    RELATION_EXCLUDED_NON_TEMPORAL = 'relation_excluded_non_temporal'
    RELATION_EXCLUDED_WEIGHT_TO_WEIGHT = 'relation_excluded_weight_to_weight'
    RELATION_PARTIAL_PATH = 'relation_partial_path'
    TRAINABLE_INVAR_NOT_PARAMSTATE = 'trainable_invar_not_paramstate'
    PARAMETER_UNMARKED = 'parameter_unmarked'
    PARAMETER_ONE_STEP = 'parameter_one_step'
    PARAMETER_UNUSED = 'parameter_unused'
    RECURRENCE_CUT = 'recurrence_cut'
    HISTORY_LEAVES_GROUP = 'history_leaves_group'
    STATE_NOT_HIDDEN = 'state_not_hidden'
    UNKNOWN_PRIMITIVE = 'unknown_primitive'
    HIDDEN_GROUP_MERGED = 'hidden_group_merged'
    HIDDEN_NOT_DIFFERENTIABLE = 'hidden_not_differentiable'
    DELAY_LINE_STACKED = 'delay_line_stacked'
    DELAY_LINE_TOO_LONG = 'delay_line_too_long'
    PRIMITIVE_INSIDE_CONTROL_FLOW = 'primitive_inside_control_flow'
    WEIGHT_IN_WHILE = 'weight_in_while'
    COND_IF_CONVERTED = 'cond_if_converted'
    COND_CONVERSION_SKIPPED = 'cond_conversion_skipped'
    SCAN_UNROLLED = 'scan_unrolled'
    SCAN_VECTORISED = 'scan_vectorised'
    SCAN_DESCENT_APPLIED = 'scan_descent_applied'
    SCAN_DESCENT_SKIPPED = 'scan_descent_skipped'
    CONTROL_FLOW_OPAQUE_FWD = 'control_flow_opaque_fwd'
    CONTROL_FLOW_RECURRENT_MIXING = 'control_flow_recurrent_mixing'


class Entry(NamedTuple):
    """One row of the table of codes."""

    code: str
    level: DiagnosticLevel
    meaning: str
    action: str


_INFO, _WARNING, _ERROR = DiagnosticLevel.INFO, DiagnosticLevel.WARNING, DiagnosticLevel.ERROR

#: Kind of decision -> its code, level, meaning and what to do about it.
TABLE: dict[DiagnosticKind, Entry] = {
    DiagnosticKind.RELATION_INCLUDED: Entry(
        'ETC200', _INFO, 'A marked weight drives a hidden group; its trace is carried.', ''
    ),
    DiagnosticKind.RELATION_EXCLUDED_NO_PARAMSTATE: Entry(
        'ETC201', _WARNING, 'The weight of a marked operator depends on no ParamState.',
        'Hold the weight in a brainstate.ParamState if it should learn.',
    ),
    DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL: Entry(
        'ETC202', _INFO,
        'A marked weight reaches no hidden state: its one-step gradient is complete, '
        'unless it reaches a state that is not hidden.', '',
    ),
    DiagnosticKind.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT: Entry(
        'ETC203', _WARNING,
        'A marked weight reaches hidden states only through operations that mix positions; '
        'it gets its one-step gradient, and what it did to earlier steps is dropped.',
        'Keep a state of its own behind this layer, or learn with vjp_method="multi-step".',
    ),
    DiagnosticKind.RELATION_PARTIAL_PATH: Entry(
        'ETC204', _WARNING,
        'Some of the ways from a marked weight to a hidden group mix positions; '
        'the trace follows the others.',
        'Accept the approximation, or move the mixing operation before the weight.',
    ),
    DiagnosticKind.TRAINABLE_INVAR_NOT_PARAMSTATE: Entry(
        'ETC205', _WARNING,
        'The weight of a marked operator also depends on inputs or states; '
        'its parameters get their one-step gradient only.',
        'Compute the effective weight from parameters and constants alone.',
    ),
    DiagnosticKind.PARAMETER_UNMARKED: Entry(
        'ETC206', _WARNING,
        'A parameter reaches hidden states through operations that are not marked; '
        'it gets its one-step gradient, and what it did to earlier steps is dropped.',
        'Use etrace_compiler.matmul, element_wise, ... or a layer of etrace_nn.',
    ),
    DiagnosticKind.PARAMETER_ONE_STEP: Entry(
        'ETC207', _INFO,
        'A parameter reaches no hidden state: its one-step gradient is complete, '
        'unless it reaches a state that is not hidden.', '',
    ),
    DiagnosticKind.PARAMETER_UNUSED: Entry(
        'ETC208', _ERROR, 'A parameter reaches neither an output nor a hidden state: '
        'its gradient is zero.', 'Use the parameter in the step, or remove it.',
    ),
    DiagnosticKind.RECURRENCE_CUT: Entry(
        'ETC210', _WARNING,
        'An operation mixes the positions of a hidden group on its way back into the group; '
        'the trace does not follow it.',
        'This is the diagonal approximation. Use vjp_method="multi-step" to keep more of it.',
    ),
    DiagnosticKind.HISTORY_LEAVES_GROUP: Entry(
        'ETC214', _INFO, 'A hidden group acts on another one; the gradient is exact within '
        'the layer, and the past that crosses the layers is dropped.',
        'Nothing, where layers are stacked; vjp_method="multi-step" keeps more of it.',
    ),
    DiagnosticKind.STATE_NOT_HIDDEN: Entry(
        'ETC215', _WARNING,
        'A float state that is not a HiddenState carries a derivative from step to step: '
        'what a weight did to it in earlier steps is dropped.',
        'Hold it in a brainstate.HiddenState.',
    ),
    DiagnosticKind.UNKNOWN_PRIMITIVE: Entry(
        'ETC211', _WARNING,
        'The compiler does not know how an operation moves elements '
        'and takes it to mix all of them.',
        'Write the operation with slices, transposes, reductions and elementwise functions.',
    ),
    DiagnosticKind.HIDDEN_GROUP_MERGED: Entry(
        'ETC212', _INFO, 'Hidden states that act on each other position by position '
        'share one group.', '',
    ),
    DiagnosticKind.HIDDEN_NOT_DIFFERENTIABLE: Entry(
        'ETC213', _INFO, 'A hidden state of integers or booleans is carried along without '
        'a trace.', '',
    ),
    DiagnosticKind.DELAY_LINE_STACKED: Entry(
        'ETC216', _INFO, 'A hidden state is a delay line or shift register; its slots count as '
        'states of one position, so that what wanders along it is followed.', '',
    ),
    DiagnosticKind.DELAY_LINE_TOO_LONG: Entry(
        'ETC217', _WARNING, 'A delay line has too many slots to be followed: each would be a '
        'state per position.', 'Use a shorter delay line, or vjp_method="multi-step" with '
        'windows longer than it.',
    ),
    DiagnosticKind.PRIMITIVE_INSIDE_CONTROL_FLOW: Entry(
        'ETC301', _WARNING,
        'A marked operator stands inside a loop or a branch, where no trace follows it; '
        'its parameters get their one-step gradient.',
        'Move the operator out of the loop or branch.',
    ),
    DiagnosticKind.WEIGHT_IN_WHILE: Entry(
        'ETC302', _ERROR, 'A parameter is used inside a while loop, which has no reverse '
        'derivative.', 'Use a loop with a fixed number of steps (fori_loop, scan).',
    ),
    DiagnosticKind.CONTROL_FLOW_OPAQUE_FWD: Entry(
        'ETC303', _WARNING, 'A while loop passes values and no derivative.',
        'Use a loop with a fixed number of steps (fori_loop, scan).',
    ),
    DiagnosticKind.CONTROL_FLOW_RECURRENT_MIXING: Entry(
        'ETC304', _WARNING, 'A loop or branch on the way of a hidden state is taken to mix '
        'all positions.', 'Write it without control flow (jnp.where, an unrolled loop).',
    ),
    DiagnosticKind.COND_IF_CONVERTED: Entry(
        'ETC305', _INFO, 'All branches of a cond or switch are computed and one is selected; '
        'no derivative leaves a branch that is not taken.', '',
    ),
    DiagnosticKind.COND_CONVERSION_SKIPPED: Entry(
        'ETC306', _WARNING, 'A cond or switch is left as one operation, which is taken to mix '
        'all positions.', 'Write it with jnp.where, or use ControlFlowPolicy(cond="convert") '
        'and branches without side effects.',
    ),
    DiagnosticKind.SCAN_UNROLLED: Entry(
        'ETC307', _INFO, 'A short loop inside the step is written out, step by step.', '',
    ),
    DiagnosticKind.SCAN_VECTORISED: Entry(
        'ETC308', _INFO, 'A loop without a carry (lax.map) is computed as one vectorised step, '
        'which takes the memory of all its iterations at once.', '',
    ),
    DiagnosticKind.SCAN_DESCENT_APPLIED: Entry(
        'ETC309', _INFO, 'A long loop inside the step stays a loop, and the analysis follows '
        'what happens inside; the traces of its operators are folded over its substeps.', '',
    ),
    DiagnosticKind.SCAN_DESCENT_SKIPPED: Entry(
        'ETC310', _WARNING, 'A long loop, or a weight inside it, is not followed.',
        'Use ControlFlowPolicy(scan_descent="auto"), raise scan_unroll_limit, or use the same '
        'weight in every substep.',
    ),
}  # fmt: skip


@dataclass(frozen=True)
class CompilationRecord:
    """One decision of the compiler.

    Attributes:
        kind: What was decided.
        level: How much it matters.
        message: One sentence about this case.
        primitive: Name of the operation concerned.
        weight_path: Path of the parameter concerned.
        hidden_paths: Paths of the hidden states concerned.
        context: Further facts, as plain data.
        source: File and line of the user's model.
    """

    kind: DiagnosticKind
    level: DiagnosticLevel
    message: str
    primitive: str | None = None
    weight_path: tuple[str, ...] | None = None
    hidden_paths: tuple[tuple[str, ...], ...] = ()
    context: tuple[tuple[str, Any], ...] = field(default=())
    source: SourceLine | None = None

    @property
    def code(self) -> str:
        """Stable code of the decision, `ETC...`."""
        return TABLE[self.kind].code

    @property
    def action(self) -> str:
        """What to do about it; empty where there is nothing to do."""
        return TABLE[self.kind].action

    def __str__(self) -> str:
        place = f'\n    at {self.source}' if self.source else ''
        action = f'\n    {self.action}' if self.action else ''
        return f'{self.code} {self.level}: {self.message}{action}{place}'


def record(
    kind: DiagnosticKind,
    message: str,
    *,
    primitive: str | None = None,
    weight_path: tuple[str, ...] | None = None,
    hidden_paths: Sequence[tuple[str, ...]] = (),
    source: SourceLine | None = None,
    **context: Any,
) -> CompilationRecord:
    """Make a record with the level that the table gives its kind."""
    return CompilationRecord(
        kind,
        TABLE[kind].level,
        message,
        primitive,
        weight_path,
        tuple(hidden_paths),
        tuple(sorted(context.items())),
        source,
    )
