"""`matmul`: a trainable dense matrix product."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from etrace_compiler.errors import explain_error
from etrace_compiler.ops._element_wise import element_wise
from etrace_compiler.ops._primitive import register_primitive
from etrace_compiler.ops._units import (
    add_with_units,
    apply_hook,
    multiply_units,
    promote,
    split_unit,
    with_unit,
)

__all__ = ['matmul', 'matmul_op']


def _forward(x: Any, weight: Any, *, weight_axes: int) -> Any:
    batch = tuple(range(weight_axes))
    contract = ((x.ndim - 1,), (weight_axes,))
    return jax.lax.dot_general(x, weight, (contract, (batch, batch)))


def _to_block(value: Any, weight_shape: Sequence[int], weight_axes: int) -> Any:
    """Bring `(h..., g..., n)` into the form `(G, H, n)`."""
    heads = math.prod(weight_shape[:weight_axes])
    last = value.shape[-1]
    shared = math.prod(value.shape[weight_axes:-1])
    return value.reshape((heads, shared, last)).transpose((1, 0, 2))


def _x_block(x: Any, weight_shape: Sequence[int], *, weight_axes: int) -> Any:
    return _to_block(x, weight_shape, weight_axes)


def _y_block(y: Any, weight_shape: Sequence[int], *, weight_axes: int) -> Any:
    return _to_block(y, weight_shape, weight_axes)


def _w_block(weight: Any, *, weight_axes: int) -> Any:
    return weight.reshape((math.prod(weight.shape[:weight_axes]), *weight.shape[weight_axes:]))


def _batching(args: Sequence, axes: Sequence, *, weight_axes: int) -> tuple[Any, int]:
    x, weight = args
    x_axis, w_axis = axes
    if w_axis is None:
        # a new shared axis: after the axes that x has in common with the weight
        x = jnp.moveaxis(x, x_axis, weight_axes)
        return matmul_op.primitive.bind(x, weight, weight_axes=weight_axes), weight_axes
    weight = jnp.moveaxis(weight, w_axis, 0)
    if x_axis is None:
        x = jnp.broadcast_to(x, (weight.shape[0], *x.shape))
    else:
        x = jnp.moveaxis(x, x_axis, 0)
    return matmul_op.primitive.bind(x, weight, weight_axes=weight_axes + 1), 0


matmul_op = register_primitive(
    'etp_matmul',
    _forward,
    x_block=_x_block,
    w_block=_w_block,
    y_block=_y_block,
    batching=_batching,
)


def matmul(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    weight_fn: Callable[[Any], Any] | None = None,
    bias_fn: Callable[[Any], Any] | None = None,
) -> Any:
    r"""Multiply by a trainable matrix: $y = x\,f(W) + g(b)$.

    Marks the product for eligibility-trace learning; otherwise it is an ordinary matrix product.

    Args:
        x: Input, an array or quantity of shape `(..., in)` with any leading axes.
        weight: Weight of shape `(in, out)`.
        bias: Optional bias of shape `(out,)`, in the unit of `x` times `weight`.
        weight_fn: Transformation of the weight (mask, sign constraint, ...), traced with it.
        bias_fn: Transformation of the bias.

    Returns:
        Array or quantity of shape `(..., out)`; unit of `x` times unit of the weight.

    Raises:
        ValueError: If the shapes do not fit, or the bias has the wrong unit.

    Example:
        >>> import jax.numpy as jnp
        >>> matmul(jnp.ones((4, 2)), jnp.ones((2, 3)), jnp.zeros(3)).shape
        (4, 3)
    """
    x_value, x_unit = split_unit(x)
    w_value, w_unit = split_unit(apply_hook(weight_fn, weight))
    if w_value.ndim != 2 or x_value.ndim < 1 or x_value.shape[-1] != w_value.shape[0]:
        raise ValueError(
            explain_error(
                'matmul',
                'cannot multiply these shapes',
                got=f'x {x_value.shape} and weight {w_value.shape}',
                expected='x (..., in) and weight (in, out)',
                fix='Make the last axis of x as long as the first axis of the weight.',
                code='ETC802',
            )
        )
    y = matmul_op.primitive.bind(*promote(x_value, w_value), weight_axes=0)
    y = with_unit(y, multiply_units(x_unit, w_unit))
    if bias is None:
        return y
    return add_with_units(y, element_wise(bias, weight_fn=bias_fn), 'matmul')
