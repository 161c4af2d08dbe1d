"""Elements that are zero whatever the model computes: masked weights, empty places of a pattern.

They come from constants alone, so that what is found holds for every value of parameters,
states and inputs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from etrace_compiler.moves import NONE, source_indices
from etrace_compiler.program import Atom, Const, Equation, Program, Structure

__all__ = ['constant_support', 'find_supports', 'selected_by']

#: Where elements may be different from zero, of the variable's shape; `None` for everywhere.
Support = np.ndarray | None

#: Operations of one operand that take zero to zero.
_KEEP_ZERO = frozenset(
    """
    abs asinh atan conj convert_element_type copy copy_p device_put expm1 imag log1p
    mul neg real reduce_precision sign sin sinh sqrt square stop_gradient tan tanh
    """.split()
)


def find_supports(
    program: Program, given: Mapping[Any, np.ndarray] | None = None
) -> dict[Any, np.ndarray]:
    """Return where variables may be different from zero, for those that are known not to be.

    Args:
        program: A flat program.
        given: What is known of its inputs.
    """
    found = dict(given or {})
    for eqn in program.equations:
        if not isinstance(eqn.primitive, Structure) and len(eqn.outputs) == 1:
            support = _support(eqn, [constant_support(v, found) for v in eqn.inputs])
            if support is not None and not support.all():
                found[eqn.outputs[0]] = np.broadcast_to(support, eqn.outputs[0].shape)
    return found


def constant_support(atom: Atom, found: Mapping[Any, np.ndarray]) -> Support:
    """Where an operand may be different from zero."""
    if not isinstance(atom, Const):
        return found.get(atom)
    kind = getattr(atom.dtype, 'kind', 'O')  # a random key has none
    return np.asarray(atom.value) != 0 if kind in 'biufc' else None


def selected_by(eqn: Equation) -> np.ndarray | None:
    """Which of its cases a `select_n` takes, element by element, where that is constant."""
    which = eqn.inputs[0]
    if eqn.name != 'select_n' or not isinstance(which, Const):
        return None
    return np.broadcast_to(np.asarray(which.value), eqn.outputs[0].shape)


def _support(eqn: Equation, supports: Sequence[Support]) -> Support:
    shape = eqn.outputs[0].shape
    if all(s is None for s in supports):
        return None
    which = selected_by(eqn)
    if which is not None:
        cases = [np.broadcast_to(True if s is None else s, shape) for s in supports[1:]]
        return np.take_along_axis(np.stack(cases), which.astype(int)[None], axis=0)[0]
    if eqn.name in ('mul', 'and'):
        return _all(np.broadcast_to(s, shape) for s in supports if s is not None)
    if eqn.name == 'broadcast_in_dim':
        axes = [1] * len(shape)
        for n, axis in zip(eqn.inputs[0].shape, eqn.params['broadcast_dimensions'], strict=True):
            axes[axis] = n
        return None if supports[0] is None else supports[0].reshape(axes)
    if eqn.name in _KEEP_ZERO or eqn.name == 'div':
        return supports[0]
    moves = source_indices(eqn) if eqn.name != 'scatter-mul' else None
    if moves is None:
        return None
    out, reached = np.zeros(shape, bool), np.zeros(shape, bool)
    for index, support, v in zip(moves, supports, eqn.inputs, strict=True):
        if index is not None:
            values = np.ones(v.shape, bool) if support is None else support
            taken = index != NONE
            out |= taken & values.reshape(-1)[np.where(taken, index, 0)] if values.size else False
            reached |= taken
    return out | ~reached  # what comes from nowhere may be anything


def _all(supports: Iterable[np.ndarray]) -> np.ndarray:
    return np.logical_and.reduce(list(supports))
