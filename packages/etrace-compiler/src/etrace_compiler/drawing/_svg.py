"""A picture as SVG, laid out here: no other program is needed."""

from dataclasses import dataclass
from unicodedata import east_asian_width
from xml.sax.saxutils import escape, quoteattr

from etrace_compiler.drawing._grid import Box, Link
from etrace_compiler.drawing._layout import lay_out
from etrace_compiler.drawing._picture import Edge, Node, Picture
from etrace_compiler.drawing._text import (
    MEANING,
    headline,
    label_of,
    printable,
    rows_of,
    summary,
    tooltip_of,
)

__all__ = ['write_svg']

_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_SIZE, _SMALL = 12.0, 11.0  # of letters
_LINE = 18.0
_PAD = 10.0
_MARGIN = 8.0
_LOOP = 26.0  # how far a loop stands out
_INK, _FADED = '#1d2733', '#55616e'


@dataclass(frozen=True)
class _Look:
    """How a box or a line is drawn; lines in colours that show on light and on dark pages."""

    stroke: str
    fill: str = '#ffffff'
    width: float = 1.4
    dash: str = ''
    round: float = 4.0


_BOXES = {
    'input': _Look('#6b7785', '#f1f3f5', round=15.0),
    'output': _Look('#6b7785', '#f1f3f5', round=15.0),
    'state': _Look('#6b7785', '#f1f3f5'),
    'operator': _Look('#3b78c4', '#eaf2fc'),
    'group': _Look('#2e8b57', '#e6f5ec', 2.6, round=9.0),
    'parameter': _Look('#a8842c', '#fbf6e6', dash='5 3'),
    'unused': _Look('#cf4a3c', '#fdf0ee', dash='2 3'),
}
_UNTRACED = _Look('#a8842c', '#fbf6e6', dash='5 3')

_LINES = {
    'flow': _Look('#7f8a96'),
    'drive': _Look('#3f82d2', width=2.8),
    'recurrence': _Look('#2f9c60', width=2.2),
    'feed': _Look('#8c6fc9', width=1.8),
    'cut': _Look('#e0503f', width=1.8, dash='6 4'),
    'value': _Look('#7f8a96', dash='1.5 4'),
}


def write_svg(picture: Picture) -> str:
    """Write a picture as SVG: inputs at the top, then operators and groups as they are computed."""
    sizes = {node.id: _size(node) for node in picture.nodes}
    loops = [edge for edge in picture.edges if edge.source == edge.target]
    for edge in loops:
        box = sizes[edge.source]
        if edge.kind == 'recurrence':
            box.left = _LOOP
        else:
            box.right = _LOOP + _label_size(label_of(edge))[0] + 6
    index = {id: i for i, id in enumerate(sizes)}
    ways = [edge for edge in picture.edges if edge.source != edge.target]
    links = [_link(edge, index) for edge in ways]
    boxes = list(sizes.values())
    layout = lay_out(boxes, links)

    parts = [_path(link, layout.rows, edge) for edge, link in zip(ways, links, strict=True)]
    parts += [_loop(edge, sizes[edge.source]) for edge in loops]
    parts += [_label(edge, link) for edge, link in zip(ways, links, strict=True) if link.label]
    parts += [_box(node, sizes[node.id]) for node in picture.nodes]
    legend, legend_width, legend_height = _legend(picture, layout.height + 22)
    width = max(layout.width, legend_width) + 2 * _MARGIN
    height = layout.height + 22 + legend_height + 2 * _MARGIN
    shift = _MARGIN + max(0.0, (legend_width - layout.width) / 2)
    text = summary(picture)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label={quoteattr(text)} '
        f'style="max-width:100%;height:auto" font-family="{_FONT}" font-size="{_n(_SIZE)}">',
        f'<title>{escape(text)}</title>',
        f'<g transform="translate({_n(shift)} {_n(_MARGIN)})">',
        *parts,
        '</g>',
        f'<g transform="translate({_n((width - legend_width) / 2)} {_n(_MARGIN)})">',
        legend,
        '</g>',
        '</svg>',
    ]
    return '\n'.join(filter(None, lines))  # a blank line would end it in a page of Markdown


def _n(x: float) -> str:
    return f'{x:.1f}'.removesuffix('.0')


def _width(text: str, size: float = _SIZE) -> float:
    """Width of a text in a font of fixed pitch, a little more than any of them takes."""
    cells = sum(2 if east_asian_width(c) in 'WF' else 1 for c in text)
    return 0.615 * size * cells


def _label_size(lines: list[str]) -> tuple[float, float]:
    return max((_width(line, _SMALL) for line in lines), default=0) + 10, 15.0 * len(lines) + 5


def _size(node: Node) -> Box:
    head, rows = headline(node), rows_of(node)
    lines = [_width(head.name) * 1.03 + _width(head.facts, _SMALL) + 22 * bool(head.facts)]
    names = max((_width(row.name) for row in rows), default=0)
    facts = max((_width(row.facts, _SMALL) for row in rows), default=0)
    lines.append(names + facts + 22 * bool(names and facts))
    return Box(max(lines) + 2 * _PAD, _LINE * (1 + len(rows)) + _PAD)


def _link(edge: Edge, index: dict[str, int]) -> Link:
    lines = label_of(edge)
    label = Box(*_label_size(lines)) if lines else None
    weak = 2 if edge.delayed else 1 if edge.kind in ('cut', 'value') else 0
    return Link(index[edge.source], index[edge.target], label, weak)


def _stroke(look: _Look) -> str:
    dash = f' stroke-dasharray="{look.dash}"' if look.dash else ''
    return f'stroke="{look.stroke}" stroke-width="{look.width}"{dash}'


def _arrow(x: float, y: float, dx: int, dy: int, kind: str) -> str:
    """The head of an arrow with its tip at a point; hollow where it leads to another group."""
    look = _LINES[kind]
    back, side = 8.0, 3.4 + look.width / 3
    a = f'{_n(x - dx * back - dy * side)} {_n(y - dy * back - dx * side)}'
    b = f'{_n(x - dx * back + dy * side)} {_n(y - dy * back + dx * side)}'
    fill = '#ffffff' if kind == 'feed' else look.stroke
    return (
        f'<path d="M{_n(x)} {_n(y)}L{a}L{b}z" fill="{fill}" stroke="{look.stroke}" '
        'stroke-linejoin="round"/>'
    )


def _path(link: Link, rows, edge: Edge) -> str:
    look = _LINES[edge.kind]
    (x0, y0), (x1, y1) = link.ends
    y_tip, dy = (y0, -1) if link.upward else (y1, 1)
    x_tip = x0 if link.upward else x1
    start, end = (y0 + 7, y1) if link.upward else (y0, y1 - 7)
    d, x, y = f'M{_n(x0)} {_n(start)}', x0, start
    for cell in link.cells:
        top, bottom = rows[cell.row]
        d += _curve(x, y, cell.x, top)
        d += f'V{_n(bottom)}' if bottom > top else ''
        x, y = cell.x, bottom
    d += _curve(x, y, x1, end)
    return (
        f'<g class="edge {edge.kind}"><path d="{d}" fill="none" {_stroke(look)}/>'
        f'{_arrow(x_tip, y_tip, 0, dy, edge.kind)}</g>'
    )


def _curve(x: float, y: float, x1: float, y1: float) -> str:
    if abs(x - x1) < 0.05:
        return f'V{_n(y1)}'
    middle = (y + y1) / 2
    return f'C{_n(x)} {_n(middle)} {_n(x1)} {_n(middle)} {_n(x1)} {_n(y1)}'


def _loop(edge: Edge, box: Box) -> str:
    look = _LINES[edge.kind]
    side = -1 if edge.kind == 'recurrence' else 1
    x = box.x + side * box.width / 2
    middle, half = box.y + box.height / 2, min(box.height / 2 - 6, 13.0)
    out = x + side * (_LOOP - 4) * 1.25
    d = (
        f'M{_n(x)} {_n(middle + half)}C{_n(out)} {_n(middle + half)} {_n(out)} '
        f'{_n(middle - half)} {_n(x + side * 7)} {_n(middle - half)}'
    )
    parts = [f'<path d="{d}" fill="none" {_stroke(look)}/>']
    parts.append(_arrow(x, middle - half, -side, 0, edge.kind))
    lines = label_of(edge)
    if lines:
        width, height = _label_size(lines)
        parts.append(_plate(x + _LOOP + width / 2, middle - height / 2, lines, look.stroke))
    return f'<g class="edge {edge.kind}">{"".join(parts)}</g>'


def _label(edge: Edge, link: Link) -> str:
    assert link.label is not None
    return _plate(link.label.x, link.label.y, label_of(edge), _LINES[edge.kind].stroke)


def _plate(x: float, y: float, lines: list[str], stroke: str) -> str:
    width, height = _label_size(lines)
    text = ''.join(
        f'<text x="{_n(x)}" y="{_n(y + 13.5 + 15 * i)}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<g class="label" text-anchor="middle" font-size="{_n(_SMALL)}" fill="{_INK}">'
        f'<rect x="{_n(x - width / 2)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
        f'rx="4" fill="#ffffff" stroke="{stroke}" stroke-width="0.8"/>{text}</g>'
    )


def _box(node: Node, box: Box) -> str:
    look = _UNTRACED if node.kind == 'operator' and node.trace == 'none' else _BOXES[node.kind]
    left, right = box.x - box.width / 2, box.x + box.width / 2
    parts = [
        f'<title>{escape(tooltip_of(node))}</title>',
        f'<rect x="{_n(left)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" '
        f'rx="{_n(look.round)}" fill="{look.fill}" {_stroke(look)}/>',
    ]
    for i, row in enumerate([headline(node), *rows_of(node)]):
        y = _n(box.y + _LINE * (i + 1))
        bold = ' font-weight="bold"' if i == 0 else ''
        if row.name:
            parts.append(
                f'<text x="{_n(left + _PAD)}" y="{y}" fill="{_INK}"{bold}>{escape(row.name)}</text>'
            )
        if row.facts:
            x, anchor = (right - _PAD, ' text-anchor="end"') if row.name else (left + _PAD, '')
            parts.append(
                f'<text x="{_n(x)}" y="{y}"{anchor} fill="{_FADED}" '
                f'font-size="{_n(_SMALL)}">{escape(row.facts)}</text>'
            )
    return (
        f'<g class="node {node.kind}" data-id={quoteattr(printable(node.id))}>{"".join(parts)}</g>'
    )


def _legend(picture: Picture, top: float) -> tuple[str, float, float]:
    """The lines that occur and what they mean: the drawing, its width and its height."""
    kinds = [kind for kind in MEANING if any(edge.kind == kind for edge in picture.edges)]
    words = [MEANING[kind] for kind in kinds]
    if any(item.block for node in picture.nodes for item in node.items):
        words.append('G·H·I·O: sizes of an operator as a block matmul')
    if not words:
        return '', 0.0, 0.0
    width = max(_width(line, _SMALL) for line in words) + 60
    height = 17.0 * len(words) + 12
    parts = [
        f'<rect x="0" y="{_n(top)}" width="{_n(width)}" height="{_n(height)}" rx="6" '
        'fill="#ffffff" stroke="#c3cad2"/>'
    ]
    for i, line in enumerate(words):
        y = top + 17.0 * i + 14.5
        if i < len(kinds):
            parts.append(f'<path d="M12 {_n(y)}H33" fill="none" {_stroke(_LINES[kinds[i]])}/>')
            parts.append(_arrow(40, y, 1, 0, kinds[i]))
        parts.append(f'<text x="50" y="{_n(y + 4)}" fill="{_INK}">{escape(line)}</text>')
    return (
        f'<g class="legend" font-size="{_n(_SMALL)}">{"".join(parts)}</g>',
        width,
        height,
    )
