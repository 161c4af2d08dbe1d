"""`matmul` and `grouped_matmul`: trainable dense and block-diagonal matrix products."""

from collections.abc import Callable
from string import ascii_letters
from typing import Any

from etrace_compiler.ops._mark import add_bias, mark_product, refuse_shapes
from etrace_compiler.ops._product import register_product
from etrace_compiler.ops._units import apply_hook, split_unit

__all__ = ['grouped_matmul', 'grouped_matmul_op', 'matmul', 'matmul_op']

matmul_op = register_product('etp_matmul')
grouped_matmul_op = register_product('etp_grouped_matmul')

#: Letters for the leading axes.
_LEADING = ''.join(c for c in ascii_letters if c not in 'hio')


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
        Array or quantity of shape `(..., out)` in the common dtype of input and weight; its unit
        is that of `x` times that of the weight.

    Raises:
        ValueError: If the shapes do not fit, or the bias has the wrong unit or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> matmul(jnp.ones((4, 2)), jnp.ones((2, 3)), jnp.zeros(3)).shape
        (4, 3)
    """
    x, weight = split_unit(x), split_unit(apply_hook(weight_fn, weight))
    shape = weight[0].shape
    if len(shape) != 2 or x[0].shape[-1:] != shape[:1]:
        refuse_shapes(
            'matmul', x[0], weight[0],
            expected='x (..., in) and weight (in, out)',
            fix='Make the last axis of x as long as the first axis of the weight.',
        )  # fmt: skip
    lead = _LEADING[: x[0].ndim - 1]
    y = mark_product(matmul_op, x, weight, mixed=True, equation=f'{lead}i,io->{lead}o')
    return add_bias(y, bias, bias_fn, 'matmul')


def grouped_matmul(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    weight_fn: Callable[[Any], Any] | None = None,
    bias_fn: Callable[[Any], Any] | None = None,
) -> Any:
    r"""Multiply each group by a trainable matrix of its own: $y_h = x_h\,f(W)_h + g(b)_h$.

    A block-diagonal product; its trace has the entries of the blocks alone.

    Args:
        x: Input, an array or quantity of shape `(..., groups, in)` with any leading axes.
        weight: Weight of shape `(groups, in, out)`.
        bias: Optional bias of shape `(groups, out)`, in the unit of `x` times `weight`.
        weight_fn: Transformation of the weight, traced with it.
        bias_fn: Transformation of the bias.

    Returns:
        Array or quantity of shape `(..., groups, out)` in the common dtype of input and weight;
        its unit is that of `x` times that of the weight.

    Raises:
        ValueError: If the shapes do not fit, or the bias has the wrong unit or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> grouped_matmul(jnp.ones((4, 5, 2)), jnp.ones((5, 2, 3)), jnp.zeros((5, 3))).shape
        (4, 5, 3)
    """
    x, weight = split_unit(x), split_unit(apply_hook(weight_fn, weight))
    shape = weight[0].shape
    if len(shape) != 3 or x[0].shape[-2:] != shape[:2]:
        refuse_shapes(
            'grouped_matmul', x[0], weight[0],
            expected='x (..., groups, in) and weight (groups, in, out)',
            fix='Make the last two axes of x as long as the first two of the weight.',
        )  # fmt: skip
    lead = _LEADING[: x[0].ndim - 2]
    y = mark_product(grouped_matmul_op, x, weight, mixed=True, equation=f'{lead}hi,hio->{lead}ho')
    return add_bias(y, bias, bias_fn, 'grouped_matmul', axes=2)
