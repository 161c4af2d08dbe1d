"""What a layout is made of: rows of boxes, and links between them."""

from dataclasses import dataclass, field

__all__ = ['Box', 'Link']


@dataclass(eq=False)
class Box:
    """A rectangle: a node, the label of a link, or the place where a link passes a row.

    Attributes:
        width: Its width.
        height: Its height.
        left: Room to keep free beside it.
        right: Likewise.
        x: Its middle, once it is placed.
        y: Its upper edge.
        row: Its row.
        weight: How much it has to say about where its neighbours stand.
    """

    width: float
    height: float
    left: float = 0.0
    right: float = 0.0
    x: float = 0.0
    y: float = 0.0
    row: int = 0
    weight: float = 1.0
    above: list['Box'] = field(default_factory=list, repr=False)
    below: list['Box'] = field(default_factory=list, repr=False)


@dataclass(eq=False)
class Link:
    """An edge between two boxes.

    Attributes:
        source: Index of the box where it begins.
        target: Index of the box where its arrow is.
        label: The size of what is written on it.
        weak: Whether it may point upwards, if it must; the weakest first.
        cells: The places that it takes between the boxes, from top to bottom.
        ends: The two points where it meets boxes, from top to bottom.
        upward: Whether its arrow is at the top.
    """

    source: int
    target: int
    label: Box | None = None
    weak: int = 0
    cells: list[Box] = field(default_factory=list)
    ends: list[tuple[float, float]] = field(default_factory=list)
    upward: bool = False

    @property
    def vertical(self) -> tuple[int, int]:
        """The upper and the lower box."""
        return (self.target, self.source) if self.upward else (self.source, self.target)
