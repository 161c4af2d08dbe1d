"""A picture in the language of Graphviz."""

from etrace_compiler.drawing._picture import Edge, Node, Picture
from etrace_compiler.drawing._text import headline, label_of, rows_of, summary, tooltip_of

__all__ = ['write_dot']

_BOXES = {
    'input': 'style="rounded,filled", fillcolor="#f1f3f5", color="#6b7785"',
    'output': 'style="rounded,filled", fillcolor="#f1f3f5", color="#6b7785"',
    'state': 'style="filled", fillcolor="#f1f3f5", color="#6b7785"',
    'operator': 'style="filled", fillcolor="#eaf2fc", color="#3b78c4"',
    'group': 'style="rounded,filled", fillcolor="#e6f5ec", color="#2e8b57", penwidth=2.5',
    'parameter': 'style="dashed,filled", fillcolor="#fbf6e6", color="#a8842c"',
    'unused': 'style="dotted,filled", fillcolor="#fdf0ee", color="#cf4a3c"',
}
_LINES = {
    'flow': 'color="#7f8a96"',
    'drive': 'color="#3f82d2", penwidth=2.5',
    'recurrence': 'color="#2f9c60", penwidth=2',
    'feed': 'color="#8c6fc9", arrowhead=empty',
    'cut': 'color="#e0503f", style=dashed',
    'value': 'color="#7f8a96", style=dotted',
}


def write_dot(picture: Picture) -> str:
    """Write a picture as a directed graph for `dot`, `neato` and their like."""
    lines = [
        'digraph etrace {',
        f'  tooltip={_quote(summary(picture))};',
        '  rankdir=TB; bgcolor=white;',
        '  node [shape=box, fontname="Courier", fontsize=11];',
        '  edge [fontname="Courier", fontsize=10];',
        *(_node(node) for node in picture.nodes),
        *(_edge(edge) for edge in picture.edges),
        '}',
    ]
    return '\n'.join(lines) + '\n'


def _node(node: Node) -> str:
    rows = [headline(node), *rows_of(node)]
    text = ''.join(_escape('  '.join(filter(None, row))) + '\\l' for row in rows)
    look = _BOXES['parameter' if node.kind == 'operator' and node.trace == 'none' else node.kind]
    return f'  {_quote(node.id)} [label="{text}", tooltip={_quote(tooltip_of(node))}, {look}];'


def _edge(edge: Edge) -> str:
    label = '\\n'.join(map(_escape, label_of(edge)))
    look = _LINES[edge.kind] + (f', label="{label}"' if label else '')
    # what comes from the last step leads upwards and has no say in where boxes stand
    look += ', constraint=false' if edge.delayed else ''
    return f'  {_quote(edge.source)} -> {_quote(edge.target)} [{look}];'


def _quote(text: str) -> str:
    return '"' + _escape(text).replace('\n', '\\n') + '"'


def _escape(text: str) -> str:
    return text.replace('\\', '\\\\').replace('"', '\\"')
