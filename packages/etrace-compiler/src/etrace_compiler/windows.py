"""Operations that read or write a window whose place is known only when the model runs.

The place is unknown along the axes where the window is smaller than what it lies in; along the
others every element stays where it is. So a circular buffer that is written at a pointer keeps
its other axes apart.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from etrace_compiler.program import Equation

__all__ = ['Window', 'window_of']

Collapse = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


class Window(NamedTuple):
    """A window in an array, and how its axes lie in another array.

    Attributes:
        whole: Shape of the array that it lies in.
        sizes: Its size along each axis of that array.
        part: Shape of the array that holds what was read, or is written.
        axes: Axes of that array that are axes of the window, in order; the others repeat it.
        dropped: Axes of the window, of size 1, that the other array does not have.
        writes: Whether the window is written.
    """

    whole: tuple[int, ...]
    sizes: tuple[int, ...]
    part: tuple[int, ...]
    axes: tuple[int, ...]
    dropped: tuple[int, ...]
    writes: bool

    @property
    def unknown(self) -> tuple[int, ...]:
        """The axes along which the place is not known."""
        pairs = enumerate(zip(self.sizes, self.whole, strict=True))
        return tuple(i for i, (size, full) in pairs if size != full)

    def to_part(self, labels: np.ndarray, collapse: Collapse) -> np.ndarray:
        """Bring labels of the array into the form of what is read or written."""
        window = np.broadcast_to(collapse(labels, self.unknown), self.sizes)
        shape = [1] * len(self.part)
        for axis, size in zip(self.axes, np.squeeze(window, self.dropped).shape, strict=True):
            shape[axis] = size
        return np.broadcast_to(window.reshape(shape), self.part)

    def to_whole(self, labels: np.ndarray, collapse: Collapse) -> np.ndarray:
        """Bring labels of what is read or written into the form of the array."""
        repeated = tuple(i for i in range(len(self.part)) if i not in self.axes)
        window = collapse(labels, repeated).reshape(self.sizes)
        return np.broadcast_to(collapse(window, self.unknown), self.whole)


def _dynamic_slice(eqn: Equation) -> Window:
    sizes = tuple(eqn.params['slice_sizes'])
    return Window(eqn.inputs[0].shape, sizes, sizes, tuple(range(len(sizes))), (), False)


def _dynamic_update_slice(eqn: Equation) -> Window:
    whole, part = eqn.inputs[0].shape, eqn.inputs[1].shape
    return Window(whole, part, part, tuple(range(len(part))), (), True)


def _gather(eqn: Equation) -> Window | None:
    numbers = eqn.params['dimension_numbers']
    if getattr(numbers, 'operand_batching_dims', ()):
        return None
    return Window(
        eqn.inputs[0].shape,
        tuple(eqn.params['slice_sizes']),
        eqn.outputs[0].shape,
        tuple(numbers.offset_dims),
        tuple(numbers.collapsed_slice_dims),
        False,
    )


def _scatter(eqn: Equation) -> Window | None:
    numbers = eqn.params['dimension_numbers']
    if getattr(numbers, 'operand_batching_dims', ()):
        return None
    whole, part = eqn.inputs[0].shape, eqn.inputs[2].shape
    sizes = _inserted([part[i] for i in numbers.update_window_dims], numbers.inserted_window_dims)
    return Window(
        whole,
        sizes,
        part,
        tuple(numbers.update_window_dims),
        tuple(numbers.inserted_window_dims),
        True,
    )


def _inserted(sizes: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    out = list(sizes)
    for axis in sorted(axes):
        out.insert(axis, 1)
    return tuple(out)


_WINDOWS: dict[str, Callable[[Equation], Window | None]] = {
    'dynamic_slice': _dynamic_slice,
    'dynamic_update_slice': _dynamic_update_slice,
    'gather': _gather,
    'scatter': _scatter,
    'scatter-add': _scatter,
    'scatter-sub': _scatter,
    'scatter-mul': _scatter,
    'scatter-min': _scatter,
    'scatter-max': _scatter,
}


def window_of(eqn: Equation) -> Window | None:
    """The window that an equation reads or writes; `None` if it is of another kind."""
    find = _WINDOWS.get(eqn.name)
    return None if find is None else find(eqn)
