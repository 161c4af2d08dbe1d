"""Delay lines and shift registers: states whose elements wander along one axis.

A state that is shifted along an axis, or written at a moving place of it, moves every element
from one position to another, which no diagonal trace follows. But the slots along that axis,
taken together, are one position with several states, and then nothing moves.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.moves import NONE, source_indices
from etrace_compiler.program import Equation, Program, Var
from etrace_compiler.staging import ModuleInfo, StateSpec
from etrace_compiler.windows import window_of

__all__ = ['find_delay_lines']

#: Longer delay lines are not stacked: each slot is a state per position.
_MAX_SLOTS = 32


def find_delay_lines(
    info: ModuleInfo, specs: Sequence[StateSpec]
) -> tuple[tuple[StateSpec, ...], tuple[CompilationRecord, ...]]:
    """Stack the slots of every delay line among some hidden states.

    Returns:
        The states, delay lines with their slots as states of one position; what was decided.
    """
    out, records = [], []
    for spec in specs:
        (old,), (new,) = info.old_vars(spec), info.new_atoms(spec)
        axis = None if spec.stacked else _shifted_axis(info.program, old, new)
        if axis is None:
            out.append(spec)
            continue
        slots = spec.leaves[0].shape[axis]
        short = slots <= _MAX_SLOTS
        out.append(replace(spec, num_state=slots, axis=axis) if short else spec)
        kind = DiagnosticKind.DELAY_LINE_STACKED if short else DiagnosticKind.DELAY_LINE_TOO_LONG
        message = f'{spec.key} is a delay line of {slots} slots along axis {axis}'
        if short:
            message += ', which count as states of one position'
        writer = info.program.equations[info.program.made[new]]
        records.append(record(kind, message, hidden_paths=(spec.path,), source=writer.source))
    return tuple(out), tuple(records)


def _shifted_axis(program: Program, old: Var, new: Any) -> int | None:
    """The one axis along which the elements of a state wander, if it is a delay line."""
    if new not in program.made or not old.shape:
        return None
    found = _copied(program, old, new)
    if found is None:
        return None
    source, written = found
    kept = source != NONE
    if kept.all() and not written:
        return None  # nothing is put in: a copy, or a rotation
    moved = kept & (source != np.arange(source.size).reshape(source.shape))
    axes = set(written)
    before, after = np.unravel_index(source[moved], source.shape), np.nonzero(moved)
    axes |= {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if (a != b).any()}
    return axes.pop() if len(axes) == 1 else None


def _copied(program: Program, old: Var, v: Any) -> tuple[np.ndarray, set[int]] | None:
    """Which element of `old` each element of a variable is a copy of.

    Returns:
        Flat indices, `NONE` for what comes from elsewhere, and the axes along which some
        elements are overwritten at a place that is not known; `None` if nothing is copied.
    """
    if v is old:
        return np.arange(int(np.prod(old.shape)), dtype=np.int64).reshape(old.shape), set()
    if v not in program.made:
        return None
    eqn = program.equations[program.made[v]]
    moves = source_indices(eqn)
    if moves is None:
        return _overwritten(program, old, eqn)
    out, written = np.full(v.shape, NONE, np.int64), set()
    for index, operand in zip(moves, eqn.inputs, strict=True):
        found = None if index is None else _copied(program, old, operand)
        if index is None or found is None:
            continue
        if found[1] and found[0].shape != v.shape:
            return None
        written |= found[1]
        taken = index != NONE
        out[taken] = found[0].reshape(-1)[index[taken]]
    return (out, written) if (out != NONE).any() else None


def _overwritten(program: Program, old: Var, eqn: Equation) -> tuple[np.ndarray, set[int]] | None:
    window = window_of(eqn)
    if window is None or not window.writes or eqn.name not in ('dynamic_update_slice', 'scatter'):
        return None
    found = _copied(program, old, eqn.inputs[0])
    return None if found is None else (found[0], found[1] | set(window.unknown))
