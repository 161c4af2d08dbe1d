"""Which operands of which equations a diagonal trace cannot follow.

An operand is *cut* when it alone leads to several positions (a matmul, a mean), or when it
leads from one position to another (a roll), or when it takes a complex number apart (an absolute
value), so that no one complex number is its derivative. What is left maps every position to
itself, so an all-ones cotangent gives the diagonal exactly.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from etrace_compiler.labels import (
    CLASH,
    NONE,
    SEVERAL,
    backward_labels,
    forward_labels,
    merge_arrays,
)
from etrace_compiler.primitives import is_holomorphic
from etrace_compiler.program import Program, Var

__all__ = ['Cuts', 'find_cuts', 'followed_anywhere', 'identity_labels', 'origins']

Edge = tuple[int, int]
LabelMap = dict[Var, np.ndarray]


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

    Returns:
        The cut operands and the labels that remain.
    """
    shared = origin is not None
    region = [] if shared else _between(program, sources, targets)
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
        current = origins(program, sources, region, cut)


def _between(program: Program, sources: Mapping, targets: Mapping) -> list[int]:
    """Equations on a way from a source to a target, in order."""
    reached: set[Any] = set(sources)
    region = []
    for i in sorted(program.upstream(targets)):
        eqn = program.equations[i]
        if any(v in reached for v in eqn.inputs):
            region.append(i)
            reached.update(eqn.outputs)
    return region


def origins(
    program: Program, sources: Mapping, region: Iterable[int], cut: Collection[Edge] = ()
) -> LabelMap:
    """Push the labels of the sources forward through some equations, not past cut operands."""
    origin: LabelMap = dict(sources)
    for i in region:
        eqn = program.equations[i]
        labels = [
            origin.get(v) if isinstance(v, Var) and (i, k) not in cut else None
            for k, v in enumerate(eqn.inputs)
        ]
        for v, a in zip(eqn.outputs, forward_labels(eqn, labels), strict=True):
            if a is not None and v not in sources:
                origin[v] = a
    return origin


def _destinations(
    program: Program, targets: Mapping, origin: LabelMap, cut: Collection[Edge]
) -> tuple[set[Edge], LabelMap, list[tuple[Edge | None, np.ndarray]]]:
    """Push destinations backward; find new cuts, and the readers of the first clash."""
    made = program.made
    destination: LabelMap = dict(targets)
    ways: dict[Var, list[tuple[Edge | None, np.ndarray]]] = {
        v: [(None, a)] for v, a in targets.items()
    }
    found: set[Edge] = set()
    clashes: list[tuple[Edge | None, np.ndarray]] = []
    # from the last equation backward, visiting only those that labels come to
    waiting = [-i for i in {made[v] for v in targets if v in made}]
    heapify(waiting)
    last = None
    while waiting:
        i = -heappop(waiting)
        if i == last:
            continue
        last = i
        eqn = program.equations[i]
        for v in eqn.outputs:
            if not clashes and v in destination and (destination[v] == CLASH).any():
                clashes = ways[v][::-1]  # in the order of the program
        via = backward_labels(eqn, [destination.get(v) for v in eqn.outputs])
        for k, (v, to) in enumerate(zip(eqn.inputs, via, strict=True)):
            if to is None or not isinstance(v, Var) or v not in origin or (i, k) in cut:
                continue
            come = origin[v]
            carried = come != NONE
            moved = (to == SEVERAL) | ((to >= 0) & (come >= 0) & (to != come))
            if (moved & carried).any() or not is_holomorphic(eqn):
                found.add((i, k))
                continue
            to = np.where(carried, to, NONE)
            ways.setdefault(v, []).append(((i, k), to))
            destination[v] = merge_arrays(destination[v], to, CLASH) if v in destination else to
            if v in made:
                heappush(waiting, -made[v])
    if not clashes:  # variables that no equation of the region produces
        for v, readers in ways.items():
            if (destination[v] == CLASH).any():
                clashes = readers[::-1]
                break
    return found, destination, clashes


def _settle(clashes: list[tuple[Edge | None, np.ndarray]], avoid: Collection[Edge]) -> set[Edge]:
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


def identity_labels(shape: tuple[int, ...], stacked: int | None = None) -> np.ndarray:
    """Label every position with its number; states stacked on a last axis share a position."""
    labels = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    return labels if stacked is None else np.repeat(labels[..., None], stacked, axis=-1)


def followed_anywhere(shape: tuple[int, ...]) -> np.ndarray:
    """Label for a variable that is followed wherever it leads."""
    return np.full(shape, SEVERAL, np.int32)
