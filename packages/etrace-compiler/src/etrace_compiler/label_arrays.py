"""Arrays of labels, whatever operations they come through: merging and broadcasting.

A label is the number of a position, or one of three others: `-1` is "none", `-2` "several", and
`-3` marks an element whose readers lead to different positions although each leads to one.
"""

from functools import lru_cache
from itertools import chain

import numpy as np

from etrace_compiler.moves import NONE

__all__ = ['CLASH', 'NONE', 'SEVERAL', 'collapse', 'compact', 'is_several',
           'merge_arrays', 'shaped', 'uniform']  # fmt: skip

SEVERAL, CLASH = -2, -3


@lru_cache(maxsize=1024)
def uniform(label: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array of one label everywhere: one number in memory.

    It is the same array for the same label and shape, so that equal ones are told at once.
    """
    return np.broadcast_to(np.int32(label), shape)


def compact(labels: np.ndarray) -> np.ndarray:
    """Leave out the axes along which labels only repeat."""
    if 0 not in labels.strides:
        return labels
    return labels[tuple([slice(None) if step else slice(0, 1) for step in labels.strides])]


def shaped(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Broadcast labels to a shape; `None` if there is none among them."""
    if not labels.size or 0 in shape:
        return None
    part = compact(labels)
    low = part.item(0) if part.size == 1 else part.min()
    if part.size == 1 or low == part.max():
        return None if low == NONE else uniform(int(low), shape)
    labels = labels.astype(np.int32, copy=False)
    return labels if labels.shape == shape else np.broadcast_to(labels, shape)


def merge_arrays(a: np.ndarray, b: np.ndarray, clash: int) -> np.ndarray:
    """Merge the labels of two ways to the same elements; `clash` where they differ."""
    if a is b:  # elementwise operations hand labels on as they are
        return a
    if clash == SEVERAL:
        for labels in (a, b):
            if is_several(labels):
                return labels
    out = np.where(a == b, a, clash)
    out = np.where(a == NONE, b, out)
    return np.where(b == NONE, a, out)


def is_several(labels: np.ndarray) -> bool:
    """Whether an array is seen at once to say "several" everywhere."""
    return labels.size > 0 and not any(labels.strides) and labels.item(0) == SEVERAL


def collapse(labels: np.ndarray, axes: tuple[int, ...], keepdims: bool = True) -> np.ndarray:
    """Merge labels along axes; "several" wins over an undecided clash only if it is certain."""
    if not axes:
        return labels
    if not labels.size:
        return labels.max(axis=axes, keepdims=keepdims, initial=NONE)
    if not any(labels.strides):
        sizes = ((1,) * keepdims if i in axes else (n,) for i, n in enumerate(labels.shape))
        return uniform(labels.item(0), tuple(chain.from_iterable(sizes)))
    for axis in axes:
        if not labels.strides[axis]:
            labels = labels[(slice(None),) * axis + (slice(0, 1),)]
    top = labels.max(axis=axes, keepdims=keepdims)
    # as numbers without a sign, the labels that are no position come last
    first = labels.view(f'u{labels.itemsize}').min(axis=axes, keepdims=keepdims)
    out = np.where(first.view(labels.dtype) == top, top, SEVERAL)
    if labels.min() < NONE:
        for label in (CLASH, SEVERAL):
            out = np.where((labels == label).any(axis=axes, keepdims=keepdims), label, out)
    return out
