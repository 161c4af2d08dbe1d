"""The boxes of a picture, in the order of the step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax

from etrace_compiler.contract import Verdict, worst
from etrace_compiler.drawing._items import array_items, state_items
from etrace_compiler.drawing._legs import Anchor, Legs
from etrace_compiler.drawing._picture import Item, Node
from etrace_compiler.graph import ETraceGraph

__all__ = ['Draft', 'find_places', 'name_nodes']


@dataclass
class Draft:
    """A box that is being filled.

    Attributes:
        kind: What it is, see `Node`.
        title: Its title; empty for weights that belong to no module but the model itself.
        place: Where it stands in the step.
        items: Its lines.
        anchors: The parts of the step that it stands for.
        code: Why what is in it has no trace.
    """

    kind: str
    title: str
    place: tuple[int, int]
    items: list[Item] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    code: str | None = None

    def finish(self) -> Node:
        """Give the box its title and a name that is not unique yet."""
        trace, title, id = None, self.title, self.kind
        if self.kind in ('operator', 'parameter'):
            found = [item.exactness for item in self.items]
            trace = str(worst(*map(Verdict, found))) if all(found) else 'none'
            title = title or (self.items[0].name if len(self.items) == 1 else 'model')
        if self.kind in ('operator', 'parameter', 'state'):
            id = f'{self.kind}:{title}'
        elif self.kind in ('input', 'group') and title != self.kind:
            id = f'{self.kind}:{title.rsplit(" ", 1)[-1]}'
        return Node(id, self.kind, title, tuple(self.items), trace, self.code)


def name_nodes(drafts: Sequence[Draft]) -> tuple[tuple[Node, ...], dict[Anchor, str]]:
    """Finish the boxes; return them in the order of the step, and the box of each anchor."""
    nodes: dict[str, Node] = {}
    ids: dict[Anchor, str] = {}
    for draft in sorted(drafts, key=lambda draft: draft.place):
        node = draft.finish()
        id, n = node.id, 2
        while id in nodes:
            id, n = f'{node.id}#{n}', n + 1
        nodes[id] = Node(id, node.kind, node.title, node.items, node.trace, node.code)
        for anchor in draft.anchors:
            ids[anchor] = ids[Anchor(anchor.kind, anchor.index, delayed=True)] = id
    return tuple(nodes.values()), ids


def find_places(graph: ETraceGraph, legs: Legs) -> list[Draft]:
    """Boxes of all that is not a weight: arguments, states, hidden groups and the output."""
    return [*_inputs(graph), *_states(graph, legs), *_groups(graph), _output(graph)]


def _inputs(graph: ETraceGraph) -> list[Draft]:
    info = graph.module_info
    arguments = info.in_tree.unflatten(info.in_avals)
    drafts, start = [], 0
    for n, argument in enumerate(arguments):
        items = array_items(argument)
        anchors = [Anchor('input', i) for i in range(start, start + len(items))]
        title = 'input' if len(arguments) == 1 else f'input {n}'
        drafts.append(Draft('input', title, (-3, n), items, anchors))
        start += len(items)
    return drafts


def _states(graph: ETraceGraph, legs: Legs) -> list[Draft]:
    """States that are neither parameters nor hidden states and have to do with anything else."""
    drafts = []
    for i, spec in enumerate(graph.module_info.by_role('other')):
        old, new = Anchor('state', i, delayed=True), Anchor('state', i)
        if any((old in pair) != (new in pair) for pair in legs.direct):
            drafts.append(Draft('state', spec.key, (-2, i), state_items([spec]), [new]))
    return drafts


def _groups(graph: ETraceGraph) -> list[Draft]:
    made = graph.module_info.program.made
    return [
        Draft(
            'group',
            f'hidden group {group.index}',
            (max(made.get(v, -1) for v in group.hidden_outvars), 1),
            state_items(group.hidden_states),
            [Anchor('group', group.index)],
        )
        for group in graph.hidden_groups
    ]


def _output(graph: ETraceGraph) -> Draft:
    info = graph.module_info
    avals = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in info.out_atoms]
    items = array_items(info.out_tree.unflatten(avals))
    place = (len(info.program.equations), 0)
    return Draft('output', 'output', place, items, [Anchor('output')])
