"""Arrays of labels, whatever operations they come through: merging and broadcasting.

A label is the number of a position, or one of three others: `-1` is "none", `-2` "several", and
`-3` marks an element whose readers lead to different positions although each leads to one.
"""

from weakref import WeakValueDictionary

import numpy as np

from etrace_compiler.moves import NONE

__all__ = ['CLASH', 'NONE', 'SEVERAL', 'collapse', 'compact', 'merge_arrays', 'shaped', 'uniform']

SEVERAL, CLASH = -2, -3

#: Labels in use, so that equal ones are the same array and are told to be equal at once.
_UNIFORM: WeakValueDictionary[tuple, np.ndarray] = WeakValueDictionary()


def uniform(label: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array of one label everywhere."""
    labels = _UNIFORM.get((label, shape))
    if labels is None:
        labels = _UNIFORM[label, shape] = np.broadcast_to(np.int32(label), shape)
    return labels


def compact(labels: np.ndarray) -> np.ndarray:
    """Leave out the axes along which labels only repeat."""
    if 0 not in labels.strides:
        return labels
    return labels[tuple([slice(None) if step else slice(0, 1) for step in labels.strides])]


def shaped(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Broadcast labels to a shape; `None` if there is none among them."""
    part = compact(labels)
    if not part.size:
        return None
    low = part.min()
    if low == part.max():
        return None if low == NONE else uniform(int(low), shape)
    labels = labels.astype(np.int32, copy=False)
    return labels if labels.shape == shape else np.broadcast_to(labels, shape)


def merge_arrays(a: np.ndarray, b: np.ndarray, clash: int) -> np.ndarray:
    """Merge the labels of two ways to the same elements; `clash` where they differ."""
    if a is b:  # elementwise operations hand labels on as they are
        return a
    if clash == SEVERAL:
        for labels in (a, b):
            if _is_several(labels):
                return labels
    out = np.where(a == b, a, clash)
    out = np.where(a == NONE, b, out)
    return np.where(b == NONE, a, out)


def _is_several(labels: np.ndarray) -> bool:
    """Whether an array is seen at once to say "several" everywhere."""
    return not any(labels.strides) and labels.size > 0 and labels.item(0) == SEVERAL


def collapse(labels: np.ndarray, axes: tuple[int, ...], keepdims: bool = True) -> np.ndarray:
    """Merge labels along axes; "several" wins over an undecided clash only if it is certain."""
    if not axes:
        return labels
    if not labels.size:
        return labels.max(axis=axes, keepdims=keepdims, initial=NONE)
    for axis in axes:
        if not labels.strides[axis]:
            labels = labels[(slice(None),) * axis + (slice(0, 1),)]
    top = labels.max(axis=axes, keepdims=keepdims)
    low = labels.min(axis=axes, keepdims=keepdims)
    # as numbers without a sign, the labels that are no position come last
    first = labels.view(f'u{labels.itemsize}').min(axis=axes, keepdims=keepdims)
    several, clash = low == SEVERAL, low == CLASH
    if clash.any():
        several = (labels == SEVERAL).any(axis=axes, keepdims=keepdims)
        top = np.where(clash, CLASH, top)
    return np.where(several | ((top >= 0) & (first != top)), SEVERAL, top)
