"""`lora_matmul`: a trainable product of low rank."""

from collections.abc import Callable
from string import ascii_letters
from typing import Any

from etrace_compiler._jax import is_traced
from etrace_compiler.errors import explain_error
from etrace_compiler.ops._mark import add_bias, mark_product, refuse_shapes
from etrace_compiler.ops._product import register_product
from etrace_compiler.ops._units import apply_hook, multiply_units, promote, split_unit, with_unit

__all__ = ['lora_matmul', 'lora_matmul_op']

lora_matmul_op = register_product('etp_lora_matmul')

_LEADING = ''.join(c for c in ascii_letters if c not in 'hio')


def lora_matmul(
    x: Any,
    B: Any,
    A: Any,
    *,
    alpha: float = 1.0,
    bias: Any = None,
    weight_fn: Callable[[Any], Any] | None = None,
    bias_fn: Callable[[Any], Any] | None = None,
) -> Any:
    r"""Multiply by a trainable matrix of low rank: $y = \alpha\,x B A + g(b)$.

    A full trace of `B` needs one entry for each input and result, as has that of the product
    $W = \alpha B A$; from this one follow the gradients of both. Where `B` is a plain array and
    not a parameter, the trace is that of `A` alone, and the input $x B$.

    Args:
        x: Input, an array or quantity of shape `(..., in)` with any leading axes.
        B: First factor, of shape `(in, rank)`.
        A: Second factor, of shape `(rank, out)`.
        alpha: Scale of the product.
        bias: Optional bias of shape `(out,)`, in the unit of the product.
        weight_fn: Transformation of the matrix `alpha B A`, traced with it.
        bias_fn: Transformation of the bias.

    Returns:
        Array or quantity of shape `(..., out)` in the common dtype of input and factors; its unit
        is that of `x` times those of the factors.

    Raises:
        ValueError: If the shapes do not fit, or the bias has the wrong unit or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> lora_matmul(jnp.ones((4, 6)), jnp.ones((6, 2)), jnp.ones((2, 3)), alpha=0.5).shape
        (4, 3)
    """
    x, first, second = split_unit(x), split_unit(B), split_unit(A)
    shapes = first[0].shape, second[0].shape
    if list(map(len, shapes)) != [2, 2] or shapes[0][1] != shapes[1][0]:
        raise ValueError(
            explain_error(
                'lora_matmul',
                'cannot multiply its factors',
                got=f'B {shapes[0]} and A {shapes[1]}',
                expected='B (in, rank) and A (rank, out)',
                fix='Give both the same rank.',
                code='ETC802',
            )
        )
    if x[0].shape[-1:] != shapes[0][:1]:
        refuse_shapes(
            'lora_matmul', x[0], first[0],
            expected='x (..., in) and B (in, rank)',
            fix='Make the last axis of x as long as the first axis of B.',
        )  # fmt: skip
    unit = multiply_units(first[1], second[1])
    left, right = promote(first[0], second[0])
    if is_traced(B) or weight_fn is not None or shapes[0][1] >= shapes[0][0]:
        matrix = split_unit(apply_hook(weight_fn, with_unit(alpha * (left @ right), unit)))
    else:  # the constant factor belongs to the input
        value, left = promote(x[0], left)
        x, matrix = (value @ left, x[1]), (alpha * right, unit)
    lead = _LEADING[: x[0].ndim - 1]
    y = mark_product(lora_matmul_op, x, matrix, equation=f'{lead}i,io->{lead}o')
    return add_bias(y, bias, bias_fn, 'lora_matmul')
