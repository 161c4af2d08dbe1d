"""Which element feeds which position: integer labels, pushed through the equations.

*Origin* goes forward from the old states of a group: the position an element came from.
*Destination* goes backward from its new states: the position an element will reach.
Structural operations move labels, elementwise ones copy them, reductions and products
merge them. A variable without any label is `None`.
"""

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from etrace_compiler import _jax
from etrace_compiler.canonical.constants import fold_constants
from etrace_compiler.flatten import flatten_jaxpr
from etrace_compiler.label_arrays import (
    CLASH,
    NONE,
    SEVERAL,
    collapse,
    merge_arrays,
    shaped,
    uniform,
)
from etrace_compiler.moves import source_indices
from etrace_compiler.ops import operator_of
from etrace_compiler.primitives import is_elementwise, passes_derivative
from etrace_compiler.program import (
    LOOP_CARRY,
    LOOP_LAST,
    LOOP_SLICE,
    LOOP_STACK,
    Equation,
    Program,
    Structure,
    Var,
    is_differentiable,
)
from etrace_compiler.windows import Window, window_of

__all__ = [
    'CLASH',
    'NONE',
    'SEVERAL',
    'backward_labels',
    'forward_labels',
    'is_known',
    'merge',
]

Labels = np.ndarray | None

_REDUCTIONS = frozenset({'reduce_and', 'reduce_max', 'reduce_min', 'reduce_or', 'reduce_prod',
                         'reduce_sum', 'argmax', 'argmin'})  # fmt: skip
_CUMULATIVE = frozenset({'cumlogsumexp', 'cummax', 'cummin', 'cumprod', 'cumsum'})
_RESHAPES = frozenset({'expand_dims', 'reshape', 'squeeze'})
#: One result per operand, each a copy of it.
_COPIES = frozenset({'device_put', 'name', 'optimization_barrier', 'sharding_constraint'})


# ---------------------------------------------------------------- merging


def merge(a: Labels, b: Labels, clash: int) -> Labels:
    """Merge the labels of two ways to the same elements; `clash` where they differ."""
    if a is None or b is None:
        return b if a is None else a
    return merge_arrays(a, b, clash)


def _forward_move(index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if not labels.size:
        return np.full(index.shape, NONE, np.int32)
    return np.where(index == NONE, NONE, labels.reshape(-1)[index])


def _backward_move(index: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Send labels from results back to the operand elements that they were copied from."""
    taken = index != NONE
    at, values = index[taken], labels[taken]
    flat = np.full(int(np.prod(shape)), NONE, np.int32)
    flat[at] = values
    again = flat[at] != values
    if again.any():  # an element that was copied more than once
        for i in np.unique(at[again]):
            flat[i] = collapse(values[at == i], (0,), keepdims=False)
    return flat.reshape(shape)


# ---------------------------------------------------------------- rules


def forward_labels(
    eqn: Equation, labels: Sequence[Labels], *, values: bool = False
) -> list[Labels]:
    """Push labels through one equation, from operands to results.

    Args:
        eqn: The equation.
        labels: Labels of its operands.
        values: Follow values; by default labels stop where the derivative is zero.
    """
    followed = values or passes_derivative(eqn)
    if not (eqn.outputs and followed) or all(a is None for a in labels):  # printing has no result
        return [None] * len(eqn.outputs)
    out = _forward(eqn, labels)
    if values:
        return out
    return [a if is_differentiable(v) else None for v, a in zip(eqn.outputs, out, strict=True)]


def _forward(eqn: Equation, labels: Sequence[Labels]) -> list[Labels]:
    if isinstance(eqn.primitive, Structure):
        return [_forward_frame(eqn, labels)]
    eqn = _as_known(eqn)
    body = _body(eqn)
    if body is not None:
        return _forward_through(body, labels)
    given = [a for a in labels if a is not None]
    first, shape = given[0], eqn.outputs[0].shape
    if is_elementwise(eqn):
        out = first if first.shape == shape else np.broadcast_to(first, shape)
        for a in given[1:]:
            other = a if a.shape == shape else np.broadcast_to(a, shape)
            out = merge_arrays(out, other, SEVERAL)
        return [out]
    if eqn.name == 'broadcast_in_dim':
        return [shaped(_place_axes(eqn, first), shape)]
    if eqn.name in _RESHAPES:
        return [shaped(first.reshape(shape), shape)]
    if eqn.name == 'concatenate':
        parts = [uniform(NONE, v.shape) if a is None else a
                 for v, a in zip(eqn.inputs, labels, strict=True)]  # fmt: skip
        return [shaped(np.concatenate(parts, eqn.params['dimension']), shape)]
    if eqn.name == 'split':
        cuts = np.cumsum(eqn.params['sizes'])[:-1]
        return [shaped(a, a.shape) for a in np.split(first, cuts, eqn.params['axis'])]
    if eqn.name == 'unstack':
        return [shaped(a, a.shape) for a in np.moveaxis(first, eqn.params['axis'], 0)]
    if eqn.name in _COPIES:
        return list(labels)
    if eqn.name in _REDUCTIONS:
        return [shaped(collapse(first, tuple(eqn.params['axes']), False), shape)]
    if eqn.name in _CUMULATIVE:
        return [shaped(collapse(first, (eqn.params['axis'],)), shape)]
    if eqn.name == 'dot_general':
        left, right = (None if a is None else _dot_forward(eqn, k, a) for k, a in enumerate(labels))
        out = merge(left, right, SEVERAL)
        return [None if out is None else shaped(out, shape)]
    moves = source_indices(eqn)
    if moves is not None:
        out: Labels = None
        for index, a in zip(moves, labels, strict=True):
            if a is not None and index is not None:
                out = merge(out, _forward_move(index, a), SEVERAL)
        return [None if out is None else shaped(out, shape)]
    window = window_of(eqn)
    if window is not None:
        return [_forward_window(eqn, window, labels)]
    everything = np.concatenate([a.reshape(-1) for a in given])
    return [shaped(collapse(everything, (0,), False), v.shape) for v in eqn.outputs]


def backward_labels(
    eqn: Equation, labels: Sequence[Labels], *, values: bool = False
) -> list[Labels]:
    """Push labels through one equation, from results back to each operand on its own."""
    if all(a is None for a in labels) or not (values or passes_derivative(eqn)):
        return [None] * len(eqn.inputs)
    out = _backward(eqn, labels)
    return [
        a if isinstance(v, Var) and (values or is_differentiable(v)) else None
        for v, a in zip(eqn.inputs, out, strict=True)
    ]


def _backward(eqn: Equation, labels: Sequence[Labels]) -> list[Labels]:
    if isinstance(eqn.primitive, Structure):
        return _backward_frame(eqn, labels[0])
    eqn = _as_known(eqn)
    body = _body(eqn)
    if body is not None:
        return _backward_through(body, labels)
    given = [b for b in labels if b is not None]
    a = given[0]
    shapes = [v.shape for v in eqn.inputs]
    if is_elementwise(eqn):
        return [a if a.shape == shape else shaped(_unbroadcast(a, shape), shape)
                for shape in shapes]  # fmt: skip
    if eqn.name == 'broadcast_in_dim':
        return [shaped(_unplace_axes(eqn, a), shapes[0])]
    if eqn.name in _RESHAPES:
        return [shaped(a.reshape(shapes[0]), shapes[0])]
    if eqn.name == 'concatenate':
        axis = eqn.params['dimension']
        cuts = np.cumsum([shape[axis] for shape in shapes])[:-1]
        return [shaped(b, b.shape) for b in np.split(a, cuts, axis)]
    if eqn.name in ('split', 'unstack'):
        parts = [np.full(v.shape, NONE, np.int32) if b is None else b
                 for v, b in zip(eqn.outputs, labels, strict=True)]  # fmt: skip
        join = np.concatenate if eqn.name == 'split' else np.stack
        return [shaped(join(parts, eqn.params['axis']), shapes[0])]
    if eqn.name in _COPIES:
        return list(labels)
    if eqn.name in _REDUCTIONS:
        return [shaped(np.expand_dims(a, tuple(eqn.params['axes'])), shapes[0])]
    if eqn.name in _CUMULATIVE:
        return [shaped(collapse(a, (eqn.params['axis'],)), shapes[0])]
    if eqn.name == 'dot_general':
        return [_dot_backward(eqn, k, a) for k in range(2)]
    moves = source_indices(eqn)
    if moves is not None:
        return [
            None if index is None else shaped(_backward_move(index, a, shape), shape)
            for index, shape in zip(moves, shapes, strict=True)
        ]
    window = window_of(eqn)
    if window is not None:
        if not window.writes:
            return [shaped(window.to_whole(a, collapse), shapes[0]), *[None] * (len(shapes) - 1)]
        part = shaped(window.to_part(a, collapse), window.part)
        at = 1 if eqn.name == 'dynamic_update_slice' else 2
        return [part if k == at else a if k == 0 else None for k in range(len(shapes))]
    everything = np.concatenate([b.reshape(-1) for b in given])
    return [shaped(collapse(everything, (0,), False), shape) for shape in shapes]


def _forward_window(eqn: Equation, window: Window, labels: Sequence[Labels]) -> Labels:
    """Push labels through a read or a write at a place that is not known."""
    whole = labels[0]
    if not window.writes:
        return None if whole is None else shaped(window.to_part(whole, collapse), window.part)
    part = labels[1 if eqn.name == 'dynamic_update_slice' else 2]
    spread = None if part is None else window.to_whole(part, collapse)
    found = merge(whole, spread, SEVERAL)
    return None if found is None else shaped(found, window.whole)


def _forward_frame(eqn: Equation, labels: Sequence[Labels]) -> Labels:
    """Push labels through the frame of a loop."""
    first, last = labels[0], labels[-1]
    if eqn.primitive is LOOP_CARRY and first is not None and last is not None:
        # what enters decides; where the body moves it, the operand that does so is cut
        return shaped(np.where(first == NONE, last, first), first.shape)
    if eqn.primitive is LOOP_SLICE and first is not None:
        return shaped(collapse(first, (0,), False), eqn.outputs[0].shape)
    if eqn.primitive is LOOP_STACK and first is not None:
        return shaped(first, eqn.outputs[0].shape)
    return first if last is None else last


def _backward_frame(eqn: Equation, labels: Labels) -> list[Labels]:
    if labels is None:
        return [None] * len(eqn.inputs)
    if eqn.primitive is LOOP_SLICE:
        return [shaped(labels, eqn.inputs[0].shape)]
    if eqn.primitive is LOOP_STACK:
        return [shaped(collapse(labels, (0,), False), eqn.inputs[0].shape)]
    if eqn.primitive is LOOP_LAST:
        return [None, labels]
    return [labels] * len(eqn.inputs)


def _unbroadcast(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) < labels.ndim:  # a scalar beside an array
        return collapse(labels, tuple(range(labels.ndim)), False)
    axes = tuple(i for i, (m, n) in enumerate(zip(shape, labels.shape, strict=True)) if m != n)
    return collapse(labels, axes)


def _place_axes(eqn: Equation, labels: np.ndarray) -> np.ndarray:
    shape = [1] * len(eqn.outputs[0].shape)
    for n, axis in zip(labels.shape, eqn.params['broadcast_dimensions'], strict=True):
        shape[axis] = n
    return labels.reshape(shape)


def _unplace_axes(eqn: Equation, labels: np.ndarray) -> np.ndarray:
    shape = eqn.inputs[0].shape
    kept = dict(zip(eqn.params['broadcast_dimensions'], shape, strict=True))
    axes = tuple(i for i, n in enumerate(labels.shape) if kept.get(i, 1) != n)
    return collapse(labels, axes).reshape(shape)


def _dot_axes(eqn: Equation, side: int) -> tuple[list[int], list[int], list[int]]:
    """Batch, contracted and free axes of one operand of a `dot_general`."""
    contract, batch = eqn.params['dimension_numbers']
    rank = len(eqn.inputs[side].shape)
    used = {*contract[side], *batch[side]}
    free = [i for i in range(rank) if i not in used]
    return list(batch[side]), list(contract[side]), free


def _dot_forward(eqn: Equation, side: int, labels: np.ndarray) -> Labels:
    batch, contract, free = _dot_axes(eqn, side)
    merged = collapse(labels, tuple(contract))
    merged = shaped(merged, merged.shape)
    shape = eqn.outputs[0].shape
    if merged is None or not any(merged.strides):
        return None if merged is None else shaped(merged, shape)
    merged = merged.transpose([*batch, *contract, *free])
    head = merged.shape[: len(batch)]
    tail = merged.shape[len(batch) + len(contract) :]
    pad = (1,) * (len(shape) - len(head) - len(tail))
    axes = (*head, *tail, *pad) if side == 0 else (*head, *pad, *tail)
    return np.broadcast_to(merged.reshape(axes), shape)


def _dot_backward(eqn: Equation, side: int, labels: np.ndarray) -> Labels:
    batch, contract, free = _dot_axes(eqn, side)
    other_free = len(labels.shape) - len(batch) - len(free)
    start = len(batch) + (len(free) if side == 0 else 0)
    merged = collapse(labels, tuple(range(start, start + other_free)), keepdims=False)
    merged, shape = shaped(merged, merged.shape), eqn.inputs[side].shape
    if merged is None or not any(merged.strides):
        return None if merged is None else shaped(merged, shape)
    merged = merged.reshape((*merged.shape[: len(batch)], *(1,) * len(contract),
                             *merged.shape[len(batch) :]))  # fmt: skip
    return np.broadcast_to(merged.transpose(np.argsort([*batch, *contract, *free])), shape)


# ---------------------------------------------------------------- equations with a body

_BODIES: weakref.WeakKeyDictionary[Equation, Program] = weakref.WeakKeyDictionary()


def _body(eqn: Equation) -> Program | None:
    """The inside of an equation whose labels follow from what it is made of."""
    operator = operator_of(eqn.primitive)
    if operator is not None:
        return _flat(_jax.forward_jaxpr(operator.forward, eqn.inputs, eqn.params))
    body = _jax.custom_rule_jaxpr(eqn)
    if body is None or is_elementwise(eqn):
        return None
    if eqn not in _BODIES:
        _BODIES[eqn] = flatten_jaxpr(body, lines=False)
    return _BODIES[eqn]


def _as_known(eqn: Equation) -> Equation:
    """An operator that is one operation of JAX as that one; any other equation as it is."""
    operator = operator_of(eqn.primitive)
    if operator is None:
        return eqn
    like = operator.like(*[v.shape for v in eqn.inputs], **eqn.params)
    return eqn if like is None else Equation(like, like.params, eqn.inputs, eqn.outputs)


@lru_cache(maxsize=256)
def _flat(closed_jaxpr: Any) -> Program:
    return fold_constants(flatten_jaxpr(closed_jaxpr, lines=False))


# Inside a body labels follow the values: its derivative rule need not be that of its
# equations (a spike is a comparison inside, with a surrogate for its derivative).


def _forward_through(body: Program, labels: Sequence[Labels]) -> list[Labels]:
    env: dict[Any, Labels] = dict(zip(body.inputs, labels, strict=True))
    for eqn in body.equations:
        out = forward_labels(eqn, [env.get(v) for v in eqn.inputs], values=True)
        env.update(zip(eqn.outputs, out, strict=True))
    return [env.get(v) for v in body.outputs]


def _backward_through(body: Program, labels: Sequence[Labels]) -> list[Labels]:
    env: dict[Any, Labels] = {}
    for v, a in zip(body.outputs, labels, strict=True):
        env[v] = merge(env.get(v), a, SEVERAL)
    for eqn in reversed(body.equations):
        via = backward_labels(eqn, [env.get(o) for o in eqn.outputs], values=True)
        for v, a in zip(eqn.inputs, via, strict=True):
            env[v] = merge(env.get(v), a, SEVERAL)
    return [env.get(v) for v in body.inputs]


_OTHERS = frozenset({'broadcast_in_dim', 'dot_general', 'split', 'unstack'})
_KNOWN = _REDUCTIONS | _CUMULATIVE | _COPIES | _OTHERS


def is_known(eqn: Equation) -> bool:
    """Whether labels pass an equation exactly; otherwise it merges all that it touches."""
    eqn = _as_known(eqn)
    if not passes_derivative(eqn) or eqn.name in _KNOWN or isinstance(eqn.primitive, Structure):
        return True
    if is_elementwise(eqn) or _body(eqn) is not None:
        return True
    return source_indices(eqn) is not None or window_of(eqn) is not None
