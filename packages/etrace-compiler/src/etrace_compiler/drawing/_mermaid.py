"""A picture as a Mermaid flowchart, which many pages and editors draw by themselves."""

from etrace_compiler.drawing._picture import Edge, Node, Picture
from etrace_compiler.drawing._text import headline, label_of, rows_of, summary

__all__ = ['write_mermaid']

_SHAPES = {
    'input': ('([', '])'),
    'output': ('([', '])'),
    'state': ('[', ']'),
    'operator': ('[', ']'),
    'group': ('(', ')'),
    'parameter': ('[', ']'),
    'unused': ('[', ']'),
}
_CLASSES = {
    'input': 'fill:#f1f3f5,stroke:#6b7785,color:#1d2733',
    'output': 'fill:#f1f3f5,stroke:#6b7785,color:#1d2733',
    'state': 'fill:#f1f3f5,stroke:#6b7785,color:#1d2733',
    'operator': 'fill:#eaf2fc,stroke:#3b78c4,color:#1d2733',
    'group': 'fill:#e6f5ec,stroke:#2e8b57,color:#1d2733,stroke-width:3px',
    'parameter': 'fill:#fbf6e6,stroke:#a8842c,color:#1d2733,stroke-dasharray:5 3',
    'unused': 'fill:#fdf0ee,stroke:#cf4a3c,color:#1d2733,stroke-dasharray:2 3',
}
_ARROWS = {
    'flow': '-->',
    'drive': '==>',
    'recurrence': '==>',
    'feed': '--o',
    'cut': '-.->',
    'value': '-.->',
}
_LINES = {
    'flow': 'stroke:#7f8a96',
    'drive': 'stroke:#3f82d2',
    'recurrence': 'stroke:#2f9c60',
    'feed': 'stroke:#8c6fc9',
    'cut': 'stroke:#e0503f,stroke-dasharray:6 4',
    'value': 'stroke:#7f8a96,stroke-dasharray:2 4',
}


def write_mermaid(picture: Picture) -> str:
    """Write a picture as a flowchart; nodes are numbered, names stand in their texts."""
    names = {node.id: f'n{i}' for i, node in enumerate(picture.nodes)}
    used = [kind for kind in _CLASSES if any(_class(node) == kind for node in picture.nodes)]
    styles: dict[str, list[str]] = {}
    for i, edge in enumerate(picture.edges):
        styles.setdefault(edge.kind, []).append(str(i))
    lines = [
        'flowchart TB',
        f'  accTitle: {_escape(summary(picture))}',
        *(f'  {_node(node, names[node.id])}' for node in picture.nodes),
        *(f'  {_edge(edge, names)}' for edge in picture.edges),
        *(f'  classDef {_name(kind)} {_CLASSES[kind]}' for kind in used),
        *(f'  linkStyle {",".join(found)} {_LINES[kind]}' for kind, found in styles.items()),
    ]
    return '\n'.join(lines) + '\n'


def _class(node: Node) -> str:
    return 'parameter' if node.kind == 'operator' and node.trace == 'none' else node.kind


def _name(kind: str) -> str:
    return f'etrace_{kind}'


def _node(node: Node, name: str) -> str:
    head, *rows = [headline(node), *rows_of(node)]
    first = ' '.join(filter(None, (f'<b>{_escape(head.name)}</b>', _escape(head.facts))))
    text = '<br/>'.join([first, *(_escape('  '.join(filter(None, row))) for row in rows)])
    left, right = _SHAPES[node.kind]
    return f'{name}{left}"{text}"{right}:::{_name(_class(node))}'


def _edge(edge: Edge, names: dict[str, str]) -> str:
    label = '<br/>'.join(map(_escape, label_of(edge)))
    label = f'|"{label}"|' if label else ''
    return f'{names[edge.source]} {_ARROWS[edge.kind]}{label} {names[edge.target]}'


def _escape(text: str) -> str:
    """Write what Mermaid or HTML would read as a sign of theirs by its number."""
    plain = ' .,:_-()·×−…'
    return ''.join(c if c.isalnum() or c in plain else f'#{ord(c)};' for c in text)
