"""Where everything stands: a layered layout from top to bottom.

Boxes stand in the even rows; the odd rows between them hold the labels. An edge takes a place of
its own in every row that it passes, so that it never crosses a box or a label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from etrace_compiler.drawing._grid import Box, Link
from etrace_compiler.drawing._order import order_rows
from etrace_compiler.drawing._place import place_links, place_x, place_y

__all__ = ['Layout', 'lay_out']

_LANE = 10.0  # width of an edge that passes a row
_YIELD = 0.05  # how much an edge over several rows has to say about where things stand


@dataclass(frozen=True)
class Layout:
    """The size of the whole; boxes and links know their places themselves."""

    width: float
    height: float
    rows: Sequence[tuple[float, float]]


def lay_out(boxes: Sequence[Box], links: Sequence[Link]) -> Layout:
    """Place boxes and links; links from a box to itself are left to the caller."""
    links = [link for link in links if link.source != link.target]
    _rank(boxes, links)
    rows = _fill_rows(boxes, links)
    order_rows(rows)
    place_x(rows)
    heights = place_y(rows)
    place_links(boxes, rows, links)
    left = min((b.x - b.width / 2 - b.left for row in rows for b in row), default=0.0)
    right = max((b.x + b.width / 2 + b.right for row in rows for b in row), default=0.0)
    for box in (b for row in rows for b in row):
        box.x -= left
    for link in links:
        link.ends = [(x - left, y) for x, y in link.ends]
    return Layout(right - left, heights[-1][1] if heights else 0.0, heights)


def _rank(boxes: Sequence[Box], links: Sequence[Link]) -> None:
    """Give every box the row below all that lead to it; turn links that would close a circle."""
    after: dict[int, list[int]] = {i: [] for i in range(len(boxes))}

    def reaches(a: int, b: int) -> bool:
        seen, waiting = {a}, [a]
        while waiting:
            for n in after[waiting.pop()]:
                if n not in seen:
                    seen.add(n)
                    waiting.append(n)
        return b in seen

    for link in sorted(links, key=lambda link: link.weak):
        link.upward = reaches(link.target, link.source)
        top, bottom = link.vertical
        after[top].append(bottom)

    before: dict[int, list[int]] = {i: [] for i in after}
    for a, found in after.items():
        for b in found:
            before[b].append(a)
    depth: dict[int, int] = {}

    def deep(i: int) -> int:
        if i not in depth:
            depth[i] = max((deep(a) + 2 for a in before[i]), default=0)
        return depth[i]

    for i, box in enumerate(boxes):
        box.row = deep(i)
    for i, box in enumerate(boxes):  # what nothing leads to stands right above its first reader
        if not before[i] and after[i]:
            box.row = min(boxes[b].row for b in after[i]) - 2
        elif not before[i]:
            box.row = max(depth.values()) + (2 if any(after.values()) else 0)


def _fill_rows(boxes: Sequence[Box], links: Sequence[Link]) -> list[list[Box]]:
    rows: list[list[Box]] = [[] for _ in range(max((b.row for b in boxes), default=-1) + 1)]
    for box in boxes:
        rows[box.row].append(box)
    for link in links:
        top, bottom = (boxes[i] for i in link.vertical)
        for row in range(top.row + 1, bottom.row):
            own = link.label if link.label and row == top.row + 1 else Box(_LANE, 0.0)
            own.row = row
            own.weight = 1.0 if bottom.row - top.row == 2 else _YIELD
            link.cells.append(own)
            rows[row].append(own)
        for a, b in zip([top, *link.cells], [*link.cells, bottom], strict=True):
            a.below.append(b)
            b.above.append(a)
    return rows
