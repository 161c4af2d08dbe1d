"""In which order boxes and edges stand in their rows."""

from itertools import pairwise

from etrace_compiler.drawing._grid import Box

__all__ = ['order_rows']


def order_rows(rows: list[list[Box]]) -> None:
    """Order the cells of every row by where their neighbours are; keep what crosses least.

    Edges over several rows begin on the right of everything, then on its left: rounds of small
    changes do not bring them from one side to the other.
    """
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for leftmost in (False, True):
        if leftmost:
            for row in rows:
                row.sort(key=lambda box: box.weight == 1.0)
        for n in range(12):
            _sort_by_neighbours(rows, downward=n % 2 == 0)
            _exchange(rows, even=n % 4 > 1)
            found = _crossings(rows)
            if found < fewest:
                best, fewest = [list(row) for row in rows], found
    rows[:] = best


def _sort_by_neighbours(rows: list[list[Box]], downward: bool) -> None:
    fixed: list[Box] = []
    for row in rows if downward else rows[::-1]:
        place = {box: i for i, box in enumerate(fixed)}
        keys = {}
        for i, box in enumerate(row):
            near = [place[b] for b in (box.above if downward else box.below)]
            keys[box] = sum(near) / len(near) if near else i
        row.sort(key=keys.__getitem__)
        fixed = row


def _exchange(rows: list[list[Box]], even: bool) -> None:
    """Exchange neighbours where fewer edges cross then; `even` if no more do, against dead ends."""
    for n, row in enumerate(rows):
        near = {b: i for other in rows[max(n - 1, 0) : n + 2] for i, b in enumerate(other)}
        for i in range(len(row) - 1):
            a, b = row[i], row[i + 1]
            before = _inverted(a.above, b.above, near) + _inverted(a.below, b.below, near)
            after = _inverted(b.above, a.above, near) + _inverted(b.below, a.below, near)
            if after < before + even:
                row[i], row[i + 1] = b, a


def _inverted(left: list[Box], right: list[Box], place: dict[Box, int]) -> int:
    return sum(place[a] > place[b] for a in left for b in right)


def _crossings(rows: list[list[Box]]) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        place = {box: i for i, box in enumerate(lower)}
        for i, a in enumerate(upper):
            total += sum(_inverted(a.below, b.below, place) for b in upper[i + 1 :])
    return total
