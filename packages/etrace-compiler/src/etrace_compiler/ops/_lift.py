"""Facts under `vmap`: an operator mapped over its input, its weight, or both, is an operator.

The parameter `mapped` says what has an axis of its own in front, outermost first: `'x'`, `'w'` or
`'xw'`. Without the weight, the axis shares it (`g`); with it, the axis does not mix (`h`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    'lift_batching',
    'lift_forward',
    'lift_like',
    'lift_w_block',
    'lift_x_block',
    'lift_y_block',
]

Mapped = tuple[str, ...]


def lift_forward(forward: Callable[..., Any], has_input: bool) -> Callable[..., Any]:
    """Return the forward function with a parameter `mapped`."""

    def lifted(*args: Any, mapped: Mapped = (), **params: Any) -> Any:
        if not mapped:
            return forward(*args, **params)
        operands = 'xw' if has_input else 'w'
        axes = tuple(0 if operand in mapped[0] else None for operand in operands)
        return jax.vmap(partial(lifted, mapped=mapped[1:], **params), axes)(*args)

    return lifted


def lift_like(like: Callable[..., Any]) -> Callable[..., Any]:
    """Return `like` with a parameter `mapped`: a mapped operator is like none."""

    def lifted(*shapes: tuple[int, ...], mapped: Mapped = (), **params: Any) -> Any:
        return None if mapped else like(*shapes, **params)

    return lifted


def lift_x_block(x_block: Callable[..., Any]) -> Callable[..., Any]:
    """Return `x_block` with a parameter `mapped`."""

    def lifted(x: Any, shape: Sequence[int], *, mapped: Mapped = (), **params: Any) -> Any:
        if not mapped:
            return x_block(x, shape, **params)
        own, inner = _split(mapped[0], shape)

        def block(x: Any) -> Any:
            return lifted(x, inner, mapped=mapped[1:], **params)

        if 'x' in mapped[0]:
            return _merge(jax.vmap(block)(x), mapped[0])
        repeated = jax.tree.map(lambda a: jnp.broadcast_to(a, (*own, *jnp.shape(a))), block(x))
        return _merge(repeated, mapped[0])

    return lifted


def lift_w_block(w_block: Callable[..., Any]) -> Callable[..., Any]:
    """Return `w_block` with a parameter `mapped`."""

    def lifted(weight: Any, *, mapped: Mapped = (), **params: Any) -> Any:
        if not mapped:
            return w_block(weight, **params)
        block = partial(lifted, mapped=mapped[1:], **params)
        if 'w' not in mapped[0]:
            return block(weight)
        blocks = jax.vmap(block)(weight)
        return blocks.reshape((-1, *blocks.shape[2:]))

    return lifted


def lift_y_block(y_block: Callable[..., Any]) -> Callable[..., Any]:
    """Return `y_block` with a parameter `mapped`."""

    def lifted(y: Any, shape: Sequence[int], *, mapped: Mapped = (), **params: Any) -> Any:
        if not mapped:
            return y_block(y, shape, **params)
        _, inner = _split(mapped[0], shape)

        def block(y: Any) -> Any:
            return lifted(y, inner, mapped=mapped[1:], **params)

        if isinstance(y, np.ndarray):  # labels, which must not become a part of what is traced
            return _merge(np.stack([block(part) for part in y]), mapped[0])
        return _merge(jax.vmap(block)(y), mapped[0])

    return lifted


def lift_batching(bind: Callable[..., Any], has_input: bool) -> Callable[..., Any]:
    """Return the rule of `vmap`, `(args, axes, **params) -> (out, axis)`."""

    def rule(args: Sequence, axes: Sequence, *, mapped: Mapped = (), **params: Any) -> Any:
        operands = 'xw' if has_input else 'w'
        kind = ''.join(o for o, axis in zip(operands, axes, strict=True) if axis is not None)
        front = [
            a if axis is None else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(args, axes, strict=True)
        ]
        return bind(*front, mapped=(kind, *mapped), **params), 0

    return rule


def _split(kind: str, weight_shape: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The mapped axis of a weight, if there is one, and the shape of one of its parts."""
    cut = int('w' in kind)
    return weight_shape[:cut], weight_shape[cut:]


def _merge(blocks: Any, kind: str) -> Any:
    """Join the mapped axis of `(K, G, H, ...)` with `H` or with `G`."""

    def merge(a: Any) -> Any:
        if 'w' not in kind:
            return a.reshape((a.shape[0] * a.shape[1], *a.shape[2:]))
        a = a.swapaxes(0, 1)
        return a.reshape((a.shape[0], a.shape[1] * a.shape[2], *a.shape[3:]))

    return jax.tree.map(merge, blocks)
