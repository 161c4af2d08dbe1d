"""Pictures of a compiled graph: what drives what, what is cut, and what has no trace."""

from collections.abc import Callable
from typing import Literal

from etrace_compiler.drawing._describe import describe
from etrace_compiler.drawing._dot import write_dot
from etrace_compiler.drawing._json import write_json
from etrace_compiler.drawing._mermaid import write_mermaid
from etrace_compiler.drawing._picture import Cut, Edge, Item, Node, Picture
from etrace_compiler.drawing._svg import write_svg
from etrace_compiler.errors import explain_error
from etrace_compiler.graph import ETraceGraph

__all__ = ['Cut', 'Edge', 'Item', 'Node', 'Picture', 'describe', 'draw']

_WRITERS: dict[str, Callable[[Picture], str]] = {
    'svg': write_svg,
    'dot': write_dot,
    'mermaid': write_mermaid,
    'json': write_json,
}


def draw(graph: ETraceGraph, format: Literal['svg', 'dot', 'mermaid', 'json'] = 'svg') -> str:
    """Draw a compiled graph.

    A picture shows the inputs and the output of the step, hidden groups with their states,
    marked operations with their weights and sizes `G·H·I·O` as a block matmul, which operation
    drives which group, what is cut and on which line of the model, and weights without a trace.
    The same model always gives the same text.

    Args:
        graph: A compiled graph.
        format: `'svg'`, a drawing that needs no other program; `'dot'` for Graphviz;
            `'mermaid'` for pages that draw it themselves; `'json'`, the description alone: the
            fields of [`Picture`][etrace_compiler.drawing.Picture] by name.

    Returns:
        The text of the picture.

    Raises:
        TypeError: If `graph` is not a compiled graph.
        ValueError: If the format is unknown.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> from etrace_compiler import compile_etrace_graph
        >>> cell = etrace_nn.GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> svg = draw(compile_etrace_graph(cell, jnp.ones(3)))
        >>> svg.splitlines()[1]
        '<title>One step of the model: 1 hidden group, 4 weights with a trace, 3 cuts</title>'
    """
    if not isinstance(graph, ETraceGraph):
        raise TypeError(
            explain_error(
                'graph',
                'is not a compiled graph',
                got=type(graph).__name__,
                expected='an ETraceGraph',
                fix='Pass learner.graph, or what compile_etrace_graph returns.',
                code='ETC114',
            )
        )
    if format not in _WRITERS:
        raise ValueError(
            explain_error(
                'format',
                'is unknown',
                got=repr(format),
                expected=f'one of {", ".join(map(repr, _WRITERS))}',
                fix='Leave it out for a drawing.',
                code='ETC115',
            )
        )
    return _WRITERS[format](describe(graph))
