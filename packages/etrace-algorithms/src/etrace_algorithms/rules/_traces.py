"""Full traces, one entry per weight, batch element and state: what several rules carry.

The recursion is linear in the trace, so an operation that runs several times within a step has
one trace, to which all its substeps contribute. A look-up that says for how many inputs a trace
has room has slots in their place, and a table of what they are for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra import (
    ActiveInputs,
    Pattern,
    advance,
    contract,
    pull_drive,
    scatter_inputs,
    use_inputs,
)
from etrace_algorithms.rule import LearningSignal
from etrace_compiler import (
    ETraceGraph,
    HiddenParamOpRelation,
    Linearisation,
    SparseInput,
    drive_pattern,
    transition_pattern,
)

__all__ = ['ActiveTrace', 'FullTraces', 'advance_traces', 'credit_trace', 'credit_traces',
           'open_slots', 'pattern_at', 'zero_traces']  # fmt: skip

#: Per driven group, `S` arrays `(G, H, I, O')`.
Parts = tuple[tuple[Any, ...], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ActiveTrace:
    """A trace with room for the inputs in use alone.

    Attributes:
        table: Which input each slot is for.
        parts: Arrays `(G, H, R, ...)`: of a full trace, as many per driven group as states.
    """

    table: ActiveInputs
    parts: Any


#: By relation key: parts, or an `ActiveTrace` of parts.
FullTraces = dict[str, Any]


def zero_traces(graph: ETraceGraph, dtype: Any = None, *, active: bool = False) -> FullTraces:
    """Return traces of zeros.

    Args:
        graph: The compiled graph.
        dtype: Dtype of the traces; by default that of the relation and the group together.
        active: Whether a look-up may have an `ActiveTrace`, whose table a rule must leave as it
            is; otherwise all arrays are parts, which a rule may scale and add as it likes.
    """
    return {r.key: _zero_trace(r, dtype, active) for r in graph.hidden_param_op_relations}


def _zero_trace(r: HiddenParamOpRelation, dtype: Any, active: bool) -> Parts | ActiveTrace:
    room = r.active_inputs if active else None

    def zeros(i: int) -> Any:
        shared, heads, fan_in, width = r.trace_shape(i)
        shape = shared, heads, room or fan_in, width
        return jnp.zeros(shape, dtype or jnp.result_type(r.dtype, r.hidden_groups[i].dtype))

    parts = tuple(
        tuple(zeros(i) for _ in range(g.num_state)) for i, g in enumerate(r.hidden_groups)
    )
    if room is None:
        return parts
    return ActiveTrace(ActiveInputs.empty(*parts[0][0].shape[:3]), parts)


def advance_traces(
    trace: FullTraces, lin: Linearisation, *, as_compiled: bool = False
) -> FullTraces:
    r"""Return $D\,\varepsilon + f \otimes x$ in the dtype of the trace.

    Args:
        trace: $\varepsilon$.
        lin: The step.
        as_compiled: Whether `lin.D` and `lin.f` are those that the compiler gave. What is zero in
            every step of the model is left out then.
    """
    found = {}
    for r in lin.relations:
        parts, x, close = open_slots(trace[r.key], lin.inputs[r.key], use_inputs)
        x = x.reshape((r.substeps, -1, *x.shape[1:]))
        new = []
        for i, (old, f) in enumerate(zip(parts, lin.f[r.key], strict=True)):
            pattern = pattern_at(lin.graph, r, i) if as_compiled else None
            f = f.reshape((r.substeps, -1, *f.shape[1:]))
            new.append(advance(old, lin.D_at(r, i, folded=True), f, x, pattern))
        found[r.key] = close(tuple(new))
    return found


def pattern_at(graph: ETraceGraph, r: HiddenParamOpRelation, driven: int) -> Pattern:
    """Say what can be other than zero in the pass of one step over a relation's trace."""
    carries = transition_pattern(graph, r.hidden_groups[driven])
    return Pattern(carries, drive_pattern(graph, r, driven))


def open_slots(
    trace: Any, x: Any, use: Callable[..., tuple]
) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Give inputs their slots, where a trace has slots.

    Args:
        trace: A trace of one relation.
        x: Its input, of one step or stacked.
        use: How inputs are given their slots: `use_inputs` or `use_inputs_in_turn`.

    Returns:
        The parts of the trace, without what had to make room; the input as an array; and what
        makes a trace of parts.
    """
    if not isinstance(trace, ActiveTrace):
        return trace, x.dense() if isinstance(x, SparseInput) else x, lambda parts: parts
    table, x, kept = use(trace.table, x)

    def keep(part: Any) -> Any:
        return jnp.where(kept.reshape((*kept.shape, *(1,) * (part.ndim - kept.ndim))), part, 0)

    parts = jax.tree.map(keep, trace.parts)
    return parts, x, partial(ActiveTrace, table)


def credit_traces(trace: FullTraces, signal: LearningSignal) -> dict[str, Any]:
    r"""Return $\langle s, \varepsilon\rangle$, summed over the groups that a relation drives."""
    relations = signal.graph.hidden_param_op_relations
    return {r.key: credit_trace(r, trace[r.key], signal) for r in relations}


def credit_trace(r: HiddenParamOpRelation, held: Any, signal: LearningSignal) -> Any:
    """`credit_traces` of one relation."""
    signals = [signal.at(r, i, folded=True) for i in range(len(r.hidden_groups))]
    if not isinstance(held, ActiveTrace):
        pairs = enumerate(zip(signals, held, strict=True))
        return sum(r.place(i, contract(s, e)) for i, (s, e) in pairs)
    rows = sum(
        r.place(i, pull_drive(s[:, :, None], jnp.stack(e, -1)))
        for i, (s, e) in enumerate(zip(signals, held.parts, strict=True))
    )
    return scatter_inputs(held.table.index, rows, r.folded_shape[2])
