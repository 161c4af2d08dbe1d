"""Operations that move elements: where each element of the result comes from.

Per operand, the flat index of the operand's element that each result element is a copy of,
`NONE` where it comes from another operand.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from etrace_compiler import _jax
from etrace_compiler.program import Const, Equation

__all__ = ['NONE', 'source_indices']

#: The label of an element that comes from nowhere.
NONE = -1


def _index(shape: Sequence[int]) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


def _pad_index(eqn: Equation) -> list[np.ndarray | None]:
    index = _index(eqn.inputs[0].shape)
    for axis, (low, high, interior) in enumerate(eqn.params['padding_config']):
        n = index.shape[axis]
        length = n + max(n - 1, 0) * interior
        spread = np.full((*index.shape[:axis], length, *index.shape[axis + 1 :]), NONE, np.int64)
        spread[(slice(None),) * axis + (slice(None, None, interior + 1),)] = index
        widths = [(0, 0)] * index.ndim
        widths[axis] = (max(low, 0), max(high, 0))
        index = np.pad(spread, widths, constant_values=NONE)
        stop = index.shape[axis] + min(high, 0)
        index = index[(slice(None),) * axis + (slice(-min(low, 0), stop),)]
    return [index, np.where(index == NONE, 0, NONE)]  # the rest is filled with the second operand


def _slice_index(eqn: Equation) -> list[np.ndarray | None]:
    p = eqn.params
    strides = p['strides'] or (1,) * len(p['start_indices'])
    window = zip(p['start_indices'], p['limit_indices'], strides, strict=True)
    return [_index(eqn.inputs[0].shape)[tuple(slice(*w) for w in window)]]


def _concatenate_index(eqn: Equation) -> list[np.ndarray | None]:
    axis, start, out = eqn.params['dimension'], 0, []
    for v in eqn.inputs:
        index = np.full(eqn.outputs[0].shape, NONE, np.int64)
        stop = start + v.shape[axis]
        index[(slice(None),) * axis + (slice(start, stop),)] = _index(v.shape)
        out.append(index)
        start = stop
    return out


def _stack_index(eqn: Equation) -> list[np.ndarray | None]:
    axis, out = eqn.params['axis'], []
    for k, v in enumerate(eqn.inputs):
        index = np.full(eqn.outputs[0].shape, NONE, np.int64)
        index[(slice(None),) * axis + (k,)] = _index(v.shape)
        out.append(index)
    return out


def _gather_index(eqn: Equation) -> list[np.ndarray | None] | None:
    operand, where = eqn.inputs
    if not isinstance(where, Const):
        return None
    params = {**eqn.params, 'fill_value': NONE}  # what lies outside comes from nowhere
    with jax.ensure_compile_time_eval():
        (index,) = _jax.bind_equation(eqn.primitive, params, [_index(operand.shape), where.value])
    return [np.asarray(index), None]


def _corner(
    starts: Sequence[Any], shape: tuple[int, ...], sizes: Sequence[int]
) -> list[int] | None:
    """Where a window begins, if that is known; it is moved to lie inside as XLA does."""
    values = [int(s.value) for s in starts if isinstance(s, Const)]
    if len(values) < len(starts):
        return None
    return [min(max(s, 0), n - k) for s, n, k in zip(values, shape, sizes, strict=True)]


def _dynamic_slice_index(eqn: Equation) -> list[np.ndarray | None] | None:
    operand, *starts = eqn.inputs
    sizes = eqn.params['slice_sizes']
    corner = _corner(starts, operand.shape, sizes)
    if corner is None:
        return None
    window = tuple(slice(c, c + k) for c, k in zip(corner, sizes, strict=True))
    return [_index(operand.shape)[window], *[None] * len(starts)]


def _dynamic_update_slice_index(eqn: Equation) -> list[np.ndarray | None] | None:
    operand, update, *starts = eqn.inputs
    corner = _corner(starts, operand.shape, update.shape)
    if corner is None:
        return None
    window = tuple(slice(c, c + k) for c, k in zip(corner, update.shape, strict=True))
    kept, written = _index(operand.shape), np.full(operand.shape, NONE, np.int64)
    kept[window], written[window] = NONE, _index(update.shape)
    return [kept, written, *[None] * len(starts)]


def _scatter_index(eqn: Equation) -> list[np.ndarray | None] | None:
    operand, where, updates = eqn.inputs
    if not isinstance(where, Const):
        return None
    options = {k: eqn.params[k] for k in ('dimension_numbers', 'mode')}
    at, empty = where.value, np.zeros(operand.shape, np.int64)
    with jax.ensure_compile_time_eval():
        hits = jax.lax.scatter_add(empty, at, np.ones(updates.shape, np.int64), **options)
        written = jax.lax.scatter(empty + NONE, at, _index(updates.shape), **options)
    hits, kept = np.asarray(hits), _index(operand.shape)
    if hits.size and hits.max() > 1:  # several updates of one element
        return None
    if eqn.name == 'scatter':
        kept[hits > 0] = NONE
    return [kept, None, np.asarray(written)]


_MOVES: dict[str, Callable[[Equation], list[np.ndarray | None] | None]] = {
    'reshape': lambda e: [_index(e.inputs[0].shape).reshape(e.outputs[0].shape)],
    'squeeze': lambda e: [_index(e.inputs[0].shape).reshape(e.outputs[0].shape)],
    'expand_dims': lambda e: [_index(e.inputs[0].shape).reshape(e.outputs[0].shape)],
    'transpose': lambda e: [_index(e.inputs[0].shape).transpose(e.params['permutation'])],
    'rev': lambda e: [np.flip(_index(e.inputs[0].shape), e.params['dimensions'])],
    'slice': _slice_index,
    'pad': _pad_index,
    'concatenate': _concatenate_index,
    'stack': _stack_index,
    'tile': lambda e: [np.tile(_index(e.inputs[0].shape), e.params['reps'])],
    'gather': _gather_index,
    'dynamic_slice': _dynamic_slice_index,
    'dynamic_update_slice': _dynamic_update_slice_index,
    'scatter': _scatter_index,
    'scatter-add': _scatter_index,
    'scatter-sub': _scatter_index,
    'scatter-mul': _scatter_index,
}


def source_indices(eqn: Equation) -> list[np.ndarray | None] | None:
    """Return where the results of a moving operation come from, operand by operand.

    `None` for an operation that does not move elements, or by indices that are not constant.
    """
    find = _MOVES.get(eqn.name)
    return None if find is None else find(eqn)
