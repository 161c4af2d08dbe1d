"""The words of a picture, the same in every format that is looked at."""

from collections.abc import Iterable
from typing import NamedTuple

from etrace_compiler.diagnostics import TABLE, DiagnosticKind
from etrace_compiler.drawing._picture import Edge, Item, Node, Picture

__all__ = [
    'MEANING',
    'Row',
    'headline',
    'label_of',
    'printable',
    'rows_of',
    'summary',
    'tooltip_of',
]

#: What the edges mean, in the order of the legend.
MEANING = {
    'flow': 'values and derivatives of this step',
    'drive': 'drives the group, with a trace',
    'recurrence': 'recurrence that the trace follows',
    'feed': 'acts on another group; no trace crosses over',
    'cut': 'cut: the trace does not follow',
    'value': 'values without a derivative',
}

#: Codes of weights whose gradient of the one step is all there is.
_COMPLETE = {
    TABLE[kind].code
    for kind in (DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL, DiagnosticKind.PARAMETER_ONE_STEP)
}

_LONGEST = 44


class Row(NamedTuple):
    """One line of a box: what is named, and what is said of it."""

    name: str
    facts: str


def summary(picture: Picture) -> str:
    """Say what a picture shows, for those who do not see it."""
    groups = [node for node in picture.nodes if node.kind == 'group']
    traced = [node for node in picture.nodes if node.trace not in (None, 'none')]
    cuts = sum(cut.count for edge in picture.edges for cut in edge.cuts)
    parts = (
        _count(len(groups), 'hidden group'),
        _count(sum(len(node.items) for node in traced), 'weight') + ' with a trace',
        _count(cuts, 'cut'),
    )
    return 'One step of the model: ' + ', '.join(parts)


def headline(node: Node) -> Row:
    """The first line of a box."""
    if node.kind == 'unused':
        return Row(node.title, f'no gradient, {node.code}')
    if node.trace == 'none':
        note = 'no trace needed' if node.code in _COMPLETE else 'no trace'
        return Row(_short(node.title), ', '.join(filter(None, (note, node.code))))
    return Row(_short(node.title), f'gradient {node.trace}' if node.trace else '')


def rows_of(node: Node) -> list[Row]:
    """The further lines of a box."""
    return [Row(_short(_relative(item.name, node)), _facts(item)) for item in node.items]


def tooltip_of(node: Node) -> str:
    """Everything that is known of a box."""
    lines = [' '.join(filter(None, (node.title, headline(node).facts)))]
    for item in node.items:
        facts = [item.name, _array(item), _facts(item) if item.operator else '']
        facts += [f'gradient {item.exactness}'] if item.exactness else []
        facts += [item.place or '']
        lines.append('  '.join(filter(None, facts)))
    return '\n'.join(map(printable, lines))


def label_of(edge: Edge) -> list[str]:
    """What is written on an edge, line by line."""
    if edge.kind == 'cut':
        lines = []
        for cut in edge.cuts:
            lines.append(f'cut: {cut.primitive}' + f' ×{cut.count}' * (cut.count > 1))
            lines += [_short(cut.place)] if cut.place else []
        return lines
    if edge.kind == 'value':
        return ['no derivative']
    if edge.delayed and edge.kind in ('flow', 'feed') and edge.source.startswith('group'):
        return ['from t−1']
    return []


def _count(n: int, noun: str) -> str:
    return f'{n} {noun}{"" if n == 1 else "s"}'


def _relative(name: str, node: Node) -> str:
    if name == node.title:
        return ''
    return name if node.kind == 'group' else name.removeprefix(f'{node.title}.')


def _facts(item: Item) -> str:
    if item.operator:
        return _words((item.operator, '·'.join(map(str, item.block or ()))))
    return _array(item)


def _array(item: Item) -> str:
    if item.shape is None:
        return ''
    return _words((str(item.shape) if item.shape else 'scalar', item.dtype, item.unit))


def _words(parts: Iterable[str | None]) -> str:
    return ' '.join(part for part in parts if part)


def printable(text: str) -> str:
    """Put a blank for what cannot be printed, the end of a line included."""
    return ''.join(c if c.isprintable() else ' ' for c in text)


def _short(text: str) -> str:
    """Leave out the middle of a long name, and what cannot be printed."""
    text = printable(text)
    if len(text) <= _LONGEST:
        return text
    return f'{text[: _LONGEST // 2 - 3]}…{text[-_LONGEST // 2 - 2 :]}'
