"""From a compiled graph to the picture of it."""

from collections.abc import Iterable, Mapping, Sequence

from etrace_compiler.drawing._legs import Anchor, Leg, Legs, find_legs, groups_behind, place_of
from etrace_compiler.drawing._nodes import find_places, name_nodes
from etrace_compiler.drawing._picture import Cut, Edge, Node, Picture
from etrace_compiler.drawing._weights import Weights
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.relation import CutEdge

__all__ = ['describe']

_Cut = tuple[CutEdge, int]
_KINDS = ('flow', 'drive', 'recurrence', 'feed', 'cut', 'value')


def describe(graph: ETraceGraph) -> Picture:
    """Describe a compiled graph as boxes and what connects them.

    Marked operations of one module that drive the same groups share a node. Every format of
    `draw` is written from this description.

    Args:
        graph: A compiled graph.

    Returns:
        The picture; equal for two graphs of the same model.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> from etrace_compiler import compile_etrace_graph
        >>> cell = etrace_nn.ValinaRNNCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> picture = describe(compile_etrace_graph(cell, jnp.ones(3)))
        >>> [(edge.source, edge.target, edge.kind) for edge in picture.edges]
        [('input', 'operator:model', 'flow'), ('operator:model', 'group:0', 'drive'),
         ('group:0', 'operator:model', 'cut'), ('group:0', 'output', 'flow')]
    """
    legs = find_legs(graph)
    weights = Weights(graph, legs)
    drafts = [*find_places(graph, legs), *weights.operators(), *weights.parameters()]
    nodes, ids = name_nodes([*drafts, *weights.unused()])
    kinds = _Kinds(legs, weights.drives)
    return Picture(nodes, _edges(legs, kinds, nodes, ids))


class _Kinds:
    """Name what passes between anchors by what a trace does with it."""

    def __init__(self, legs: Legs, drives: Mapping[Anchor, frozenset[int]]):
        self._drives = drives
        self._leads = groups_behind(legs, {'operator'})
        self._behind = groups_behind(legs, {'operator', 'group'})

    def of(self, start: Anchor, end: Anchor, leg: Leg) -> Iterable[tuple[str, set[_Cut]]]:
        """Return kinds, and what is cut of each."""
        if not leg.passes:
            yield 'value', set()
            return
        own = {end.index} if end.kind == 'group' else set()
        groups = self._leads.get(end, frozenset()) | own
        if not groups or groups - leg.blocked:
            yield self._followed(start, end, groups - leg.blocked), set()
        behind = self._behind.get(end, frozenset()) | own
        cuts = {cut for cut in leg.cuts if cut[1] in behind}
        if cuts:
            yield 'cut', cuts

    def _followed(self, start: Anchor, end: Anchor, groups: frozenset[int]) -> str:
        if start.kind == 'operator' and end.kind == 'group':
            return 'drive' if end.index in self._drives.get(start, ()) else 'flow'
        if start.kind != 'group':
            return 'flow'
        if groups - {start.index}:
            return 'feed'
        if end.kind == 'group':
            return 'recurrence' if start.delayed else 'flow'
        return 'recurrence' if start.index in self._drives.get(end, ()) else 'flow'


def _edges(
    legs: Legs, kinds: _Kinds, nodes: Sequence[Node], ids: Mapping[Anchor, str]
) -> tuple[Edge, ...]:
    delayed: dict[tuple[str, str, str], bool] = {}
    cuts: dict[tuple[str, str, str], set[_Cut]] = {}
    for (start, end), leg in legs.direct.items():
        if start not in ids or end not in ids:
            continue
        for kind, found in kinds.of(start, end, leg):
            key = ids[start], ids[end], kind
            if key[0] == key[1] and kind not in ('recurrence', 'cut'):
                continue  # what happens inside a box
            delayed[key] = delayed.get(key, True) and start.delayed
            cuts.setdefault(key, set()).update(found)
    order = {node.id: i for i, node in enumerate(nodes)}
    keys = sorted(delayed, key=lambda k: (order[k[0]], order[k[1]], _KINDS.index(k[2])))
    return tuple(
        Edge(*key, delayed[key], _describe_cuts(cuts[key]))
        for key in keys
        if key[2] != 'value' or not any((*key[:2], kind) in delayed for kind in _KINDS[:-1])
    )


def _describe_cuts(cuts: Iterable[_Cut]) -> tuple[Cut, ...]:
    """Fold cut operands of one operation and one line, in the order of the step."""
    found: dict[tuple[str, str | None], tuple[set[tuple[int, int]], set[int]]] = {}
    for cut, group in sorted(cuts, key=lambda pair: (pair[0].edge, pair[1])):
        key = cut.primitive.removeprefix('etp_'), place_of(cut.source)
        edges, groups = found.setdefault(key, (set(), set()))
        edges.add(cut.edge)
        groups.add(group)
    return tuple(
        Cut(*key, len(edges), tuple(sorted(groups))) for key, (edges, groups) in found.items()
    )
