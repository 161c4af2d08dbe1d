"""The description of a compiled graph that every format is written from."""

from dataclasses import dataclass

__all__ = ['Cut', 'Edge', 'Item', 'Node', 'Picture']


@dataclass(frozen=True)
class Item:
    """One line of a node: an array of the step, or a marked operation and its weight.

    Attributes:
        name: Path in the model, `'rnn.Wh.weight.bias'`; of arguments and outputs the path inside
            the structure, empty where it is one array.
        shape: Shape of the array, or of the effective weight; `None` where it is not known.
        dtype: Name of its dtype, `None` likewise.
        unit: Its unit, `None` where it has none.
        operator: Name of the marked operation, without the prefix `etp_`.
        block: Sizes `(G, H, I, O)` of the operation as a block matmul.
        key: Key of the relation, for an operation that has a trace.
        parameters: Paths of the parameters that the weight is made of.
        exactness: What the online gradient of these parameters is worth, for an operation that
            has a trace: the least of `graph.exactness`.
        place: The user's line, `'net.py:12'`.
    """

    name: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    unit: str | None = None
    operator: str | None = None
    block: tuple[int, ...] | None = None
    key: str | None = None
    parameters: tuple[str, ...] = ()
    exactness: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Node:
    """A box.

    Attributes:
        id: Unique name, the same whenever the model is compiled.
        kind: `'input'`, `'state'` (carried along, not hidden), `'operator'`, `'group'`,
            `'parameter'` (used without a mark), `'unused'` or `'output'`.
        title: What is written above the items.
        items: The lines.
        trace: For operators and parameters: `'none'`, or the least `exactness` of the items.
        code: Code of the record that says why there is no trace.
    """

    id: str
    kind: str
    title: str
    items: tuple[Item, ...] = ()
    trace: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class Cut:
    """Operands through which an edge passes and no trace follows.

    Attributes:
        primitive: Name of the operation, without the prefix `etp_`.
        place: The user's line, `'net.py:12'`.
        count: How many operands there are of this operation and line.
        groups: Indices of the hidden groups whose traces do not follow.
    """

    primitive: str
    place: str | None
    count: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Edge:
    """A way from one box to another that passes no third one.

    Attributes:
        source: Where it begins, the id of a node.
        target: Where it ends.
        kind: `'drive'` (a trace is carried), `'recurrence'` (the trace follows it), `'feed'`
            (a group acts on another group), `'flow'` (any other way of values and derivatives),
            `'cut'` (the trace does not follow) or `'value'` (no derivative passes).
        delayed: Whether it begins at the values that the last step left.
        cuts: What is cut, for `'cut'`.
    """

    source: str
    target: str
    kind: str
    delayed: bool = False
    cuts: tuple[Cut, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Boxes and what connects them."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def node(self, id: str) -> Node:
        """Return a node by its id."""
        return next(node for node in self.nodes if node.id == id)
