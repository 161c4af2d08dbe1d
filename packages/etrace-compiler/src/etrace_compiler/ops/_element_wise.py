"""`element_wise`: marks parameters that act position by position.

A parameter is the weight of a product with the input 1, whose leading axes `shared` are those
along which it is repeated: the batch, for a bias.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from etrace_compiler.ops._facts import Likeness
from etrace_compiler.ops._primitive import register_primitive
from etrace_compiler.ops._units import apply_hook, split_unit, with_unit

__all__ = ['element_wise', 'element_wise_op']


def _forward(weight: Any, *, shared: tuple[int, ...]) -> Any:
    return weight * 1 if not shared else jnp.broadcast_to(weight, (*shared, *weight.shape))


def _x_block(x: None, weight_shape: Sequence[int], *, shared: tuple[int, ...]) -> Any:
    return np.ones((math.prod(shared), 1, 1), np.float32)


def _w_block(weight: Any, *, shared: tuple[int, ...]) -> Any:
    return weight.reshape((1, 1, -1))


def _y_block(y: Any, weight_shape: Sequence[int], *, shared: tuple[int, ...]) -> Any:
    return y.reshape((math.prod(shared), 1, -1))


def _batching(args: Sequence, axes: Sequence, *, shared: tuple[int, ...]) -> tuple[Any, int]:
    weight = jnp.moveaxis(args[0], axes[0], 0)
    return element_wise_op.primitive.bind(weight, shared=shared), len(shared)


def _like(weight: tuple[int, ...], *, shared: tuple[int, ...]) -> Likeness:
    axes = tuple(range(len(shared), len(shared) + len(weight)))
    moves = 'broadcast_in_dim' if shared else 'copy'
    return Likeness(moves, {'broadcast_dimensions': axes}, (*shared, *weight))


element_wise_op = register_primitive(
    'etp_element_wise',
    _forward,
    x_block=_x_block,
    w_block=_w_block,
    y_block=_y_block,
    has_input=False,
    batching=_batching,
    like=_like,
)


def element_wise(weight: Any, *, weight_fn: Callable[[Any], Any] | None = None) -> Any:
    """Mark a parameter that acts on each position alone: a time constant, a bias, a decay.

    The value is that of `weight_fn(weight)`. What follows may transform and broadcast it
    freely; the trace is kept where the parameter first meets an input or a state.

    Args:
        weight: Array or quantity of any shape.
        weight_fn: Transformation of the weight, traced with it.

    Returns:
        The transformed weight, with its unit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> decay = element_wise(jnp.zeros(3), weight_fn=jax.nn.sigmoid)
        >>> decay * jnp.ones((4, 3))
        Array([[0.5, 0.5, 0.5],
               [0.5, 0.5, 0.5],
               [0.5, 0.5, 0.5],
               [0.5, 0.5, 0.5]], dtype=float32)
    """
    value, unit = split_unit(apply_hook(weight_fn, weight))
    return with_unit(element_wise_op.primitive.bind(value, shared=()), unit)
