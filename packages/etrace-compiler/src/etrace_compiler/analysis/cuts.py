"""Which operands of which equations a diagonal trace cannot follow.

An operand is *cut* when it alone leads to several positions (a matmul, a mean), or when it
leads from one position to another (a roll), or when it takes a complex number apart (an absolute
value), so that no one complex number is its derivative. What is left maps every position to
itself, so an all-ones cotangent gives the diagonal exactly.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from heapq import heapify, heappop, heappush
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from etrace_compiler.analysis.derivatives import DerivativeKind, derivative_kind
from etrace_compiler.analysis.memo import kinds_of, remembered
from etrace_compiler.label_arrays import CLASH, NONE, SEVERAL, compact, is_several, merge_arrays
from etrace_compiler.labels import backward_labels, forward_labels
from etrace_compiler.primitives import is_holomorphic
from etrace_compiler.program import Equation, Program, Var

__all__ = ['Cuts', 'find_cuts', 'identity_labels', 'origins']

Edge = tuple[int, int]
LabelMap = dict[Any, np.ndarray]

#: The readers of a variable, and where each leads; `None` for the variable as a target.
Ways = list[tuple[Edge | None, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Cuts:
    """The result of the analysis for one set of sources and targets.

    Attributes:
        edges: The cut operands, as (equation, operand).
        origin: Per variable, the position each element came from through what is left.
        destination: Per variable, the position each element will reach through what is left.
    """

    edges: frozenset[Edge]
    origin: LabelMap
    destination: LabelMap


def find_cuts(
    program: Program,
    sources: Mapping[Var, np.ndarray],
    targets: Mapping[Var, np.ndarray],
    *,
    avoid: Collection[Edge] = (),
    origin: LabelMap | None = None,
    carries: Callable[[Any], bool] | None = None,
) -> Cuts:
    """Cut operands until every element that carries a source leads to one position, its own.

    Args:
        program: The flat program.
        sources: Labels of the variables that are followed. A label of "several" follows an
            element that may reach any one position.
        targets: Labels of the variables to be reached.
        avoid: Operands to give up first where two readers of a variable disagree.
        origin: Labels pushed forward from the sources with nothing cut (`origins`), if they
            are known: they are the same for all targets.
        carries: Whether a derivative flows from the sources to a variable, if that is known.

    Returns:
        The cut operands and the labels that remain.
    """
    shared = origin is not None
    region = [] if shared else _between(program, sources, targets, carries)
    current = first = origin if shared else origins(program, sources, region)
    cut: set[Edge] = set()
    # every round cuts at least one operand, so that this ends
    while True:
        found, destination, clashes = _destinations(program, targets, current, cut)
        if not found and clashes:
            found = _settle(clashes, avoid)
        if not found:
            return Cuts(frozenset(cut), first if shared else current, destination)
        cut |= found
        if shared:  # what no label comes back from has no say any more
            region = sorted({program.made[v] for v in destination if v in program.made})
        before, current = current, origins(program, sources, region, cut, current)
        if not clashes and _only_loses(program, cut, destination, before, current):
            kept = {v: a for v, a in destination.items() if v in current or v in targets}
            return Cuts(frozenset(cut), first if shared else current, kept)


def _only_loses(
    program: Program, cut: set[Edge], destination: LabelMap, before: LabelMap, now: LabelMap
) -> bool:
    """Whether another round would find the same, less what has lost its origin altogether."""
    if program.has_loops:
        return False
    for v in destination:
        if now.get(v) is before.get(v):
            continue
        i = program.made.get(v)
        if v in now or i is None:
            return False
        inputs = program.equations[i].inputs
        if any([u in now and (i, k) not in cut for k, u in enumerate(inputs)]):
            return False
    return True


def _between(
    program: Program,
    sources: Mapping,
    targets: Mapping,
    carries: Callable[[Any], bool] | None = None,
) -> list[int]:
    """Equations on a way from a source to a target, in order."""
    if carries is None:
        reached = program.downstream(sources)
        carries = reached.__contains__
    region: set[int] = set()
    wanted = [v for v in targets if carries(v)]
    while wanted:
        v = wanted.pop()
        i = program.made.get(v)
        if i is not None and i not in region:
            region.add(i)
            wanted.extend(u for u in program.equations[i].inputs if carries(u))
    return sorted(region)


def origins(
    program: Program,
    sources: Mapping,
    region: Iterable[int],
    cut: Collection[Edge] = (),
    before: LabelMap | None = None,
) -> LabelMap:
    """Push the labels of the sources forward through some equations, not past cut operands.

    Args:
        program: The flat program.
        sources: Labels of the sources.
        region: Sorted indices of the equations.
        cut: Operands that labels do not pass.
        before: What was found with fewer operands cut, and holds where nothing has changed.
    """
    origin: LabelMap = dict(sources)
    memo, kinds = program.memo, kinds_of(program)
    cut_at = {i for i, _ in cut}
    old = before if before is not None and not program.has_loops else None
    equations, labelled = program.equations, origin.keys()

    def visit(i: int) -> bool:
        eqn = equations[i]
        if labelled.isdisjoint(eqn.inputs):
            return False
        labels = [origin.get(v) for v in eqn.inputs]
        if i in cut_at:
            labels = [None if (i, k) in cut else a for k, a in enumerate(labels)]
            if all([a is None for a in labels]):
                return False
        elif old is not None and all(
            [old.get(v) is a for v, a in zip(eqn.inputs, labels, strict=True)]
        ):
            origin.update([(v, old[v]) for v in eqn.outputs if v in old])
            return False
        changed = False
        found = remembered(memo, forward_labels, kinds[i], eqn, labels)
        for v, a in zip(eqn.outputs, found, strict=True):
            if a is not None and v not in sources:
                changed = changed or (eqn.loop is not None and not _equal(origin.get(v), a))
                origin[v] = a
        return changed

    program.settle(visit, region, bounded=True)
    return origin


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _destinations(
    program: Program, targets: Mapping, origin: LabelMap, cut: Collection[Edge]
) -> tuple[set[Edge], LabelMap, Ways]:
    """Push destinations backward; find new cuts, and the readers of the first clash."""
    made, memo, kinds = program.made, program.memo, kinds_of(program)
    destination: LabelMap = dict(targets)
    ways: dict[Any, dict[Edge | None, np.ndarray]] = {v: {None: a} for v, a in targets.items()}
    found: set[Edge] = set()
    clashes: Ways = []
    merged_ways: set[Any] = set()

    def look(v: Any) -> None:
        if not clashes and (compact(destination[v]) == CLASH).any():
            clashes.extend(sorted(ways[v].items(), key=lambda way: way[0] or (-1, -1)))

    # from the last equation backward, visiting only those that labels come to; inside a loop
    # again until nothing changes
    waiting = [-i for i in {made[v] for v in targets if v in made}]
    heapify(waiting)
    queued = set(waiting)
    while waiting:
        i = -heappop(waiting)
        queued.discard(-i)
        eqn = program.equations[i]
        for v in eqn.outputs:
            if v in merged_ways:
                look(v)
        if origin.keys().isdisjoint(eqn.inputs):
            continue
        ends = [destination.get(v) for v in eqn.outputs]
        comes = [None if (i, k) in cut else origin.get(v) for k, v in enumerate(eqn.inputs)]
        via = remembered(memo, _ways_back, kinds[i], (memo, kinds[i], eqn), (*ends, *comes))
        for k, (v, to) in enumerate(zip(eqn.inputs, via, strict=True)):
            if to is None:
                continue
            if to is _MOVED:
                found.add((i, k))
                continue
            readers = ways.setdefault(v, {})
            readers[i, k] = to
            if eqn.loop is not None:  # a reader may have come by before, with another label
                merged = reduce(partial(merge_arrays, clash=CLASH), readers.values())
                if v in destination and np.array_equal(merged, destination[v]):
                    continue
            else:
                merged = to
                if len(readers) > 1 and to is not destination[v]:
                    merged = remembered(memo, _merged, 0, CLASH, (destination[v], to))[0]
            destination[v] = merged
            if len(readers) > 1:
                merged_ways.add(v)
            if v in made and -made[v] not in queued:
                heappush(waiting, -made[v])
                queued.add(-made[v])
    for v in ways:  # variables that no equation of the region produces
        if v in merged_ways:
            look(v)
    return found, destination, clashes


#: Stands for the labels of an operand that is to be cut.
_MOVED = np.empty(0, np.int32)


def _ways_back(
    head: tuple[dict, int, Equation], labels: Sequence[np.ndarray | None]
) -> list[np.ndarray | None]:
    """Push destinations back through an equation, to the elements of operands that come from it.

    Args:
        head: What is known already, the equation's kind, and the equation.
        labels: Destinations of the results, then origins of the operands.

    Returns:
        Per operand its destination, `_MOVED` if it is to be cut.
    """
    memo, kind, eqn = head
    count = len(eqn.outputs)
    via = remembered(memo, backward_labels, kind, eqn, labels[:count])
    found = []
    for k, (come, to) in enumerate(zip(labels[count:], via, strict=True)):
        if come is None or to is None:
            found.append(None)
        elif not _keeps_apart(eqn, k):
            found.append(_MOVED)
        else:
            found.append(remembered(memo, _carried, 0, None, (come, to))[0])
    return found


def _carried(_: None, labels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The destination of the elements that carry a label forward, `_MOVED` if they move."""
    come, to = labels
    return [_MOVED if _moves(come, to) else _where_carried(come, to)]


def _keeps_apart(eqn: Equation, k: int) -> bool:
    """Whether the derivative with respect to an operand is one number per position."""
    if not is_holomorphic(eqn):
        return False
    if eqn.name in ('cond', 'scan'):  # labels tell where they move elements, not of rules inside
        return derivative_kind(eqn, k) is not DerivativeKind.UNKNOWN
    if not eqn.name.startswith('custom_'):
        return True
    return derivative_kind(eqn, k) is DerivativeKind.POSITIONWISE


def _moves(come: np.ndarray, to: np.ndarray) -> bool:
    """Whether an element that carries a label leads to several positions or to another one."""
    if to is come or is_several(come):
        return bool((compact(to) == SEVERAL).any())
    come, to = compact(come), compact(to)
    if ((to == SEVERAL) & (come != NONE)).any():
        return True
    return bool((come >= 0).any() and ((to >= 0) & (come >= 0) & (to != come)).any())


def _merged(clash: int, labels: Sequence[np.ndarray]) -> list[np.ndarray]:
    a, b = labels
    return [merge_arrays(a, b, clash)]


def _where_carried(come: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Take the label off the elements that carry none forward."""
    if to is come:
        return to
    some = compact(come)
    return to if (some != NONE).all() else np.where(come != NONE, to, NONE)


def _settle(clashes: Ways, avoid: Collection[Edge]) -> set[Edge]:
    """Keep one reader of a variable and all that agree with it; cut the others."""
    ranked = sorted(clashes, key=lambda way: (way[0] is not None, way[0] in avoid))
    kept = ranked[0][1]
    lost = set()
    for edge, to in ranked[1:]:
        if ((to != NONE) & (kept != NONE) & (to != kept)).any():
            lost.add(edge)
        else:
            kept = merge_arrays(kept, to, CLASH)
    return lost


#: Labels in use, so that equal ones are the same array and are told to be equal at once.
_IDENTITIES: WeakValueDictionary[tuple, np.ndarray] = WeakValueDictionary()


def identity_labels(shape: tuple[int, ...], axis: int | None = None, count: int = 1) -> np.ndarray:
    """Label every position with its number; the states stacked on an axis share a position."""
    labels = _IDENTITIES.get((shape, axis, count))
    if labels is None:
        labels = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        if axis is not None:
            labels = np.repeat(np.expand_dims(labels, axis), count, axis=axis)
        _IDENTITIES[shape, axis, count] = labels
    return labels
