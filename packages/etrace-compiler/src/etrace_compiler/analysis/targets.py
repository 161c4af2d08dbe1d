"""Which targets each element reaches: sets of bits, pulled back through the equations.

Labels (`labels`) tell one position from several; here all of them are named. A set is a row of
64-bit words on the last axis of an array, and ways that meet are joined by "or".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import _jax
from etrace_compiler.analysis.zeros import constant_support, find_supports, selected_by
from etrace_compiler.flatten import flatten_jaxpr
from etrace_compiler.moves import NONE, source_indices
from etrace_compiler.ops import Operator, operator_of
from etrace_compiler.primitives import is_elementwise, passes_derivative
from etrace_compiler.program import (
    LOOP_LAST,
    LOOP_SLICE,
    LOOP_STACK,
    Equation,
    Program,
    Structure,
    Var,
    is_differentiable,
)

__all__ = ['pull_targets']

#: Words `(*shape, W)`; `None` for no target at all.
Sets = np.ndarray | None
Supports = Mapping[Any, np.ndarray]

_RESHAPES = frozenset({'expand_dims', 'reshape', 'squeeze'})
_REDUCTIONS = frozenset({'reduce_and', 'reduce_max', 'reduce_min', 'reduce_or', 'reduce_prod',
                         'reduce_sum'})  # fmt: skip
_CUMULATIVE = frozenset({'cumlogsumexp', 'cummax', 'cummin', 'cumprod', 'cumsum'})
_COPIES = frozenset({'device_put', 'name', 'optimization_barrier', 'sharding_constraint'})


def pull_targets(
    program: Program,
    targets: Mapping[Var, np.ndarray],
    blocked: frozenset[tuple[int, int]] = frozenset(),
    supports: Supports | None = None,
    *,
    values: bool = False,
) -> dict[Any, np.ndarray]:
    """Return the targets that every element of every variable reaches.

    What an operation does is taken from its kind; one that is not known joins all that it
    touches, so that no way is missed.

    Args:
        program: A flat program.
        targets: Where to begin, sets by variable.
        blocked: Operands not to pass, as (equation, operand).
        supports: Where its variables may be different from zero; found where not given.
        values: Follow values; by default a way ends where the derivative is zero.
    """
    supports = find_supports(program) if supports is None else supports
    found: dict[Any, np.ndarray] = dict(targets)
    changed = True
    while changed:  # once, unless a loop leads back
        changed = False
        for i, eqn in reversed(list(enumerate(program.equations))):
            sets = [found.get(v) for v in eqn.outputs]
            if all(s is None for s in sets) or not (values or passes_derivative(eqn)):
                continue
            followed = [
                isinstance(v, Var) and (values or is_differentiable(v)) and (i, k) not in blocked
                for k, v in enumerate(eqn.inputs)
            ]
            if not any(followed):
                continue
            pulled = zip(eqn.inputs, _pull(eqn, sets, supports), followed, strict=True)
            for v, s, follow in pulled:
                if s is not None and follow:
                    old = found.get(v)
                    new = s if old is None else old | s
                    changed |= program.has_loops and (old is None or bool((new != old).any()))
                    found[v] = new
    return found


def _pull(eqn: Equation, sets: list[Sets], supports: Supports) -> list[Sets]:
    if isinstance(eqn.primitive, Structure):
        return _pull_frame(eqn, sets[0])
    operator = operator_of(eqn.primitive)
    body = None if operator or is_elementwise(eqn) else _jax.custom_rule_jaxpr(eqn)
    if body is not None:
        return _pull_body(flatten_jaxpr(body, lines=False), sets)
    out = next(s for s in sets if s is not None)
    shapes, words = [v.shape for v in eqn.inputs], out.shape[-1:]
    known = [constant_support(v, supports) for v in eqn.inputs]
    product = _product_indices(eqn, operator)
    if product is not None:
        return _pull_product(out, product, known, shapes)
    if is_elementwise(eqn):
        return [_shrink(_masked(eqn, k, out, known), shape) for k, shape in enumerate(shapes)]
    if eqn.name == 'broadcast_in_dim':
        return [_unplace(out, eqn.params['broadcast_dimensions'], shapes[0])]
    if eqn.name in _RESHAPES:
        return [out.reshape(shapes[0] + words)]
    if eqn.name in ('split', 'unstack'):
        empty = [np.zeros(v.shape + words, np.uint64) for v in eqn.outputs]
        parts = [e if s is None else s for e, s in zip(empty, sets, strict=True)]
        join = np.concatenate if eqn.name == 'split' else np.stack
        return [join(parts, eqn.params['axis'])]
    if eqn.name in _COPIES:
        return sets
    if eqn.name in _REDUCTIONS:
        spread = np.expand_dims(out, tuple(eqn.params['axes']))
        return [np.broadcast_to(spread, shapes[0] + words)]
    if eqn.name in _CUMULATIVE:
        joined = _join(out, (eqn.params['axis'],))
        return [np.broadcast_to(joined, shapes[0] + words)]
    moves = source_indices(eqn)
    if moves is not None:
        return [None if index is None else _send(index, out, shape)
                for index, shape in zip(moves, shapes, strict=True)]  # fmt: skip
    rows = np.concatenate([s.reshape((-1, *words)) for s in sets if s is not None])
    everything = np.bitwise_or.reduce(rows, axis=0)
    return [np.broadcast_to(everything, shape + words) for shape in shapes]


def _masked(eqn: Equation, k: int, out: np.ndarray, known: Sequence[Any]) -> np.ndarray:
    """Leave out the elements of an elementwise result that one operand does not act on."""
    if eqn.name == 'mul' and known[1 - k] is not None:
        return np.where(np.broadcast_to(known[1 - k], out.shape[:-1])[..., None], out, 0)
    which = selected_by(eqn)
    return out if which is None else np.where((which == k - 1)[..., None], out, 0)


def _pull_body(body: Program, sets: Sequence[Sets]) -> list[Sets]:
    # values, not derivatives: a function with a derivative rule of its own is often flat inside
    targets: dict[Any, np.ndarray] = {}
    for v, s in zip(body.outputs, sets, strict=True):
        if isinstance(v, Var) and s is not None:
            targets[v] = targets[v] | s if v in targets else s
    found = pull_targets(body, targets, supports={}, values=True)
    return [found.get(v) for v in body.inputs]


def _pull_frame(eqn: Equation, out: Sets) -> list[Sets]:
    if out is None:
        return [None] * len(eqn.inputs)
    if eqn.primitive is LOOP_SLICE:
        return [np.broadcast_to(out, (*eqn.inputs[0].shape, out.shape[-1]))]
    if eqn.primitive is LOOP_STACK:
        return [_join(out, (0,))[0]]
    if eqn.primitive is LOOP_LAST:
        return [None, out]
    return [out] * len(eqn.inputs)


# ---------------------------------------------------------------- joining and moving


def _join(sets: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.bitwise_or.reduce(sets, axis=axes, keepdims=True) if axes else sets


def _shrink(sets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Join along the axes that an operand was repeated along."""
    if len(shape) < sets.ndim - 1:  # a scalar beside an array
        return _join(sets, tuple(range(sets.ndim - 1))).reshape((*shape, sets.shape[-1]))
    axes = (i for i, (m, n) in enumerate(zip(shape, sets.shape, strict=False)) if m != n)
    return _join(sets, tuple(axes))


def _unplace(sets: np.ndarray, places: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    kept = dict(zip(places, shape, strict=True))
    axes = tuple(i for i, n in enumerate(sets.shape[:-1]) if kept.get(i, 1) != n)
    return _join(sets, axes).reshape((*shape, sets.shape[-1]))


def _send(index: np.ndarray, sets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Send the sets of results to the operand elements at `index`, flat."""
    found = np.zeros((math.prod(shape), sets.shape[-1]), np.uint64)
    taken = index != NONE
    at, rows = index[taken], np.broadcast_to(sets, (*index.shape, sets.shape[-1]))[taken]
    if len(np.unique(at)) == len(at):
        found[at] = rows
    else:
        np.bitwise_or.at(found, at, rows)
    return found.reshape((*shape, sets.shape[-1]))


# ---------------------------------------------------------------- products

#: Flat indices of input `(G, H, I)`, weight `(H, I, O)` and result `(G, H, O)`; the input is `None`
#: where no way leads through it and any of its elements may be different from zero.
Product = tuple[np.ndarray | None, np.ndarray, np.ndarray]


def _product_indices(eqn: Equation, operator: Operator | None) -> Product | None:
    r"""Write a product as $Y_{gho} = \sum_i X_{ghi} W_{hio}$, in indices of elements."""
    if eqn.name == 'dot_general':
        return _dot_indices(eqn)
    if operator is None:
        return None
    w, y = eqn.inputs[-1], eqn.outputs[0]
    wi = _look_up(lambda v: operator.w_block(v, **eqn.params), w.shape)
    yi = _look_up(lambda v: operator.y_block(v, w.shape, **eqn.params), y.shape)
    if wi is None or yi is None or (yi == NONE).any():
        return None
    if not operator.has_input or not is_differentiable(eqn.inputs[0]):
        return None, wi, yi
    xi = _look_up(lambda v: operator.x_block(v, w.shape, **eqn.params), eqn.inputs[0].shape)
    return None if xi is None else (xi, wi, yi)


def _look_up(view: Callable[[Any], Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """The element that each element of a view is a copy of; `None` if it is something else."""
    size = math.prod(shape)
    if size >= 2**24:  # what float32 counts exactly
        return None
    order = np.random.default_rng(0).permutation(size)
    with jax.ensure_compile_time_eval():
        # numbers from 1 on: 0 is the padding of a convolution
        first, second = (
            np.rint(np.asarray(view(jnp.asarray(1 + n, np.float32).reshape(shape)))).astype(int) - 1
            for n in (np.arange(size), order)
        )
    copies = (first >= NONE).all() and (first < size).all()
    if not copies or (np.where(first == NONE, NONE, order[first]) != second).any():
        return None
    return first


def _dot_indices(eqn: Equation) -> Product:
    contract, batch = eqn.params['dimension_numbers']
    blocks, widths = [], []
    for side in range(2):
        shape = eqn.inputs[side].shape
        free = [i for i in range(len(shape)) if i not in (*contract[side], *batch[side])]
        index = np.arange(math.prod(shape)).reshape(shape)
        order = [*batch[side], *contract[side], *free]
        sizes = [math.prod(shape[i] for i in part) for part in (batch[side], contract[side], free)]
        blocks.append(index.transpose(order).reshape(sizes))
        widths.append(sizes[2])
    result = np.arange(math.prod(eqn.outputs[0].shape))
    y = result.reshape((blocks[0].shape[0], *widths))
    return blocks[0].transpose(2, 0, 1), blocks[1], y.transpose(1, 0, 2)


def _pull_product(
    out: np.ndarray, product: Product, known: Sequence[Any], shapes: Sequence[tuple[int, ...]]
) -> list[Sets]:
    xi, wi, yi = product
    results = out.reshape((-1, out.shape[-1]))[yi]  # (G, H, O, W)
    to_weight = _to_weight(results, xi, wi, known[0], shapes[-1])
    if xi is None:
        return [*[None] * (len(shapes) - 1), to_weight]
    return [_to_input(results, xi, wi, known[1], shapes[0]), to_weight]


def _to_input(
    results: np.ndarray, xi: np.ndarray, wi: np.ndarray, known: Any, shape: tuple[int, ...]
) -> np.ndarray:
    on = _present(known, wi)
    if on is None:
        whole = np.bitwise_or.reduce(results, axis=2)[:, :, None]
        return _send(xi, np.broadcast_to(whole, (*xi.shape, results.shape[-1])), shape)
    sets = np.zeros((*xi.shape, results.shape[-1]), np.uint64)
    for o in range(results.shape[2]):
        sets |= np.where(on[None, :, :, o, None], results[:, :, None, o], 0)
    return _send(xi, sets, shape)


def _to_weight(
    results: np.ndarray, xi: Any, wi: np.ndarray, known: Any, shape: tuple[int, ...]
) -> np.ndarray:
    on = None if xi is None else _present(known, xi)
    if on is None:
        whole = np.bitwise_or.reduce(results, axis=0)[:, None]
        return _send(wi, np.broadcast_to(whole, (*wi.shape, results.shape[-1])), shape)
    sets = np.zeros((*wi.shape, results.shape[-1]), np.uint64)
    for g in range(results.shape[0]):
        sets |= np.where(on[g][:, :, None, None], results[g][:, None], 0)
    return _send(wi, sets, shape)


def _present(known: Any, index: np.ndarray) -> np.ndarray | None:
    """Which elements of a block may be different from zero; `None` for all."""
    inside = index != NONE
    found = inside if known is None else inside & known.reshape(-1)[index]
    return None if found.all() else found
