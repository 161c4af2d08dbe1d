"""`einsum`: a trainable product of two operands, written as an equation."""

from collections import Counter
from collections.abc import Callable
from string import ascii_letters
from typing import Any, NoReturn

from etrace_compiler.errors import explain_error
from etrace_compiler.ops._mark import add_bias, mark_product, refuse_shapes
from etrace_compiler.ops._product import Letters, letters_of, register_product
from etrace_compiler.ops._units import apply_hook, split_unit

__all__ = ['einsum', 'einsum_op']

einsum_op = register_product('etp_einsum')


def einsum(
    equation: str,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    weight_fn: Callable[[Any], Any] | None = None,
    bias_fn: Callable[[Any], Any] | None = None,
) -> Any:
    r"""Multiply an input and a trainable weight by an equation such as `'bti,hio->bhto'`.

    Letters are shared (input and result), summed (input and weight), produced (weight and
    result) or do not mix (all three); there are no others in a block product.

    Args:
        equation: `'x,weight->result'`; `...` stands for any leading axes of input and result.
        x: Input, an array or quantity.
        weight: Weight, an array or quantity.
        bias: Optional bias that broadcasts to the result, in the unit of `x` times `weight`.
        weight_fn: Transformation of the weight, traced with it.
        bias_fn: Transformation of the bias.

    Returns:
        Array or quantity in the common dtype of input and weight; its unit is that of `x`
        times that of the weight.

    Raises:
        ValueError: If the equation is no block product or does not fit the shapes, or the bias
            has the wrong unit or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> einsum('...hi,hio->...ho', jnp.ones((4, 5, 2)), jnp.ones((5, 2, 3))).shape
        (4, 5, 3)
    """
    x, weight = split_unit(x), split_unit(apply_hook(weight_fn, weight))
    spelled = _spell_out(equation, x[0].ndim)
    e = letters_of(spelled)
    if not _fits(e, x[0].shape, weight[0].shape):
        refuse_shapes(
            'einsum', x[0], weight[0],
            expected=f'shapes of the form {equation!r}',
            fix='Give every axis one letter, and axes with the same letter the same length.',
        )  # fmt: skip
    y = mark_product(einsum_op, x, weight, mixed=True, equation=spelled)
    return add_bias(y, bias, bias_fn, 'einsum', axes=len(e.y))


def _fits(e: Letters, x: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    if (len(e.x), len(e.weight)) != (len(x), len(weight)):
        return False
    sizes = dict(zip(e.x, x, strict=True))
    return all(sizes.get(c, n) == n for c, n in zip(e.weight, weight, strict=True))


def _spell_out(equation: str, ndim: int) -> str:
    """Replace `...` by letters, and check that an equation is a block product."""
    compact = equation.replace(' ', '')
    operands, arrow, y = compact.partition('->')
    x, comma, weight = operands.partition(',')
    if not (arrow and comma) or '.' in weight or x.count('...') != y.count('...'):
        _refuse(equation, 'it is not written as x,weight->result')
    free = [c for c in ascii_letters if c not in compact]
    axes = ''.join(free[: max(ndim - len(x.replace('...', '')), 0)])
    x, y = x.replace('...', axes), y.replace('...', axes)
    if not (x + weight + y).isalpha() or not (x + weight + y).isascii():
        _refuse(equation, 'its axes are not letters')
    for part in (x, weight, y):
        twice = [c for c, times in Counter(part).items() if times > 1]
        if twice:
            _refuse(equation, f'{twice[0]!r} stands twice in {part!r}')
    for c in dict.fromkeys(x + weight + y):
        if sum(c in part for part in (x, weight, y)) < 2:
            _refuse(equation, f'{c!r} stands in one place alone')
    return f'{x},{weight}->{y}'


def _refuse(equation: str, reason: str) -> NoReturn:
    raise ValueError(
        explain_error(
            'einsum',
            'is given an equation that is no block product',
            got=f'{equation!r}, where {reason}',
            expected="'x,weight->result', each letter in two or all three of these",
            fix='Sum or repeat such axes before or after the product.',
            code='ETC804',
        )
    )
