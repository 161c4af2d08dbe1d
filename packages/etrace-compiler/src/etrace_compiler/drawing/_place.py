"""Where boxes and edges stand, once their rows and their order are known."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from etrace_compiler.drawing._grid import Box, Link

__all__ = ['place_links', 'place_x', 'place_y']

_GAP = 26.0  # between boxes of a row
_LABEL_GAP = 14.0  # between labels and edges
_ROW_GAP = 17.0  # between rows
_PORT_GAP = 18.0  # between edges that meet a box on one side


def place_x(rows: list[list[Box]]) -> None:
    """Move every cell between those that it is linked to, above and below by turns."""
    for row in rows:
        _spread(row, [0.0] * len(row))
    for n in range(24):
        for row in rows if n % 2 == 0 else rows[::-1]:
            wanted = []
            for box in row:
                near = (box.above if n % 2 == 0 else box.below) or [*box.above, *box.below]
                pull = sum(b.weight for b in near)
                wanted.append(sum(b.weight * b.x for b in near) / pull if near else box.x)
            _spread(row, wanted)
    joined = [b for row in rows for b in row if b.above or b.below]
    middle = _middle(joined)
    for row in rows:
        alone = [b for b in row if not b.above and not b.below]
        _spread(row, [middle if b in alone else b.x for b in row])


def _middle(boxes: Sequence[Box]) -> float:
    low = min((b.x - b.width / 2 - b.left for b in boxes), default=0.0)
    return (low + max((b.x + b.width / 2 + b.right for b in boxes), default=0.0)) / 2


def _spread(row: list[Box], wanted: Sequence[float]) -> None:
    """Move the cells of a row as near to where they should be as their order and widths allow."""
    offsets = [0.0] if row else []
    for a, b in pairwise(row):
        offsets.append(offsets[-1] + _distance(a, b))
    blocks: list[tuple[float, float, int]] = []  # weighted sum of places, weight, number of cells
    for box, x, offset in zip(row, wanted, offsets, strict=True):
        total, weight, count = box.weight * (x - offset), box.weight, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / weight:
            more = blocks.pop()
            total, weight, count = total + more[0], weight + more[1], count + more[2]
        blocks.append((total, weight, count))
    places = [total / weight for total, weight, count in blocks for _ in range(count)]
    for box, place, offset in zip(row, places, offsets, strict=True):
        box.x = place + offset


def _distance(a: Box, b: Box) -> float:
    """How far the middles of two neighbours have to be apart."""
    gap = _LABEL_GAP if a.row % 2 else _GAP
    return a.width / 2 + a.right + gap + b.left + b.width / 2


def place_y(rows: list[list[Box]]) -> list[tuple[float, float]]:
    """Give every row its height; return where each one begins and ends."""
    heights, y = [], 0.0
    for row in rows:
        height = max((box.height for box in row), default=0.0)
        for box in row:
            box.y = y + (height - box.height) / 2
        heights.append((y, y + height))
        y += height + _ROW_GAP
    return heights


def place_links(boxes: Sequence[Box], rows: Sequence[list[Box]], links: Sequence[Link]) -> None:
    """Find where links pass their rows and where they meet boxes."""
    for _ in range(2):
        _straighten(boxes, rows, links)
    _spread_ports(boxes, links)


def _straighten(boxes: Sequence[Box], rows: Sequence[list[Box]], links: Sequence[Link]) -> None:
    """Lead every link straight down for as long as the room beside it allows."""
    place = {box: (row, i) for row in rows for i, box in enumerate(row)}

    def room(cell: Box) -> tuple[float, float]:
        row, i = place[cell]
        low = row[i - 1].x + _distance(row[i - 1], cell) if i else -math.inf
        high = row[i + 1].x - _distance(cell, row[i + 1]) if i + 1 < len(row) else math.inf
        return low, high

    for link in sorted(links, key=lambda link: -len(link.cells)):
        top, bottom = (boxes[i] for i in link.vertical)
        stations = [_side(top), *map(room, link.cells), _side(bottom)]
        middles = [link.cells[0].x, *(cell.x for cell in link.cells), link.cells[-1].x]
        places: list[float] = []
        while len(places) < len(stations):
            low, high = stations[len(places)]
            end = len(places) + 1
            while end < len(stations) and max(low, stations[end][0]) <= min(high, stations[end][1]):
                low, high = max(low, stations[end][0]), min(high, stations[end][1])
                end += 1
            wanted = middles[len(places) : end]
            x = min(max(sum(wanted) / len(wanted), low), high)
            places += [x] * (end - len(places))
        for cell, x in zip(link.cells, places[1:-1], strict=True):
            cell.x = x
        link.ends = [(places[0], top.y + top.height), (places[-1], bottom.y)]


def _side(box: Box) -> tuple[float, float]:
    """Where an edge may meet the upper or the lower side of a box."""
    room = max(box.width / 2 - 14.0, 0.0)
    return box.x - room, box.x + room


def _spread_ports(boxes: Sequence[Box], links: Sequence[Link]) -> None:
    """Keep the edges that meet one side of a box apart."""

    def spread(box: Box, found: list[Link], end: int, cell: Callable[[Link], Box]) -> None:
        found.sort(key=lambda link: cell(link).x)
        room = max(box.width - 28.0, 0.0)
        gap = min(_PORT_GAP, room / max(len(found) - 1, 1))
        ports = [Box(gap - _GAP, 0.0) for _ in found]  # stand `gap` apart
        _spread(ports, [link.ends[end][0] for link in found])
        if not ports:
            return
        low, high = box.x - room / 2, box.x + room / 2
        shift = max(low - ports[0].x, 0.0) + min(high - ports[-1].x, 0.0)
        for link, port in zip(found, ports, strict=True):
            link.ends[end] = (port.x + shift, link.ends[end][1])

    for i, box in enumerate(boxes):
        spread(box, [k for k in links if k.vertical[0] == i], 0, lambda k: k.cells[0])
        spread(box, [k for k in links if k.vertical[1] == i], 1, lambda k: k.cells[-1])
