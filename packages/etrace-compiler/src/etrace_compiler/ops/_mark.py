"""What all operators do around their primitive: hooks, units, dtypes, the bias."""

from collections.abc import Callable
from typing import Any, NoReturn

from etrace_compiler.errors import explain_error
from etrace_compiler.ops._element_wise import element_wise
from etrace_compiler.ops._facts import Operator
from etrace_compiler.ops._units import (
    add_with_units,
    multiply_units,
    promote,
    promote_product,
    with_unit,
)

__all__ = ['Split', 'add_bias', 'mark_product', 'refuse_shapes']

#: A number and its unit.
Split = tuple[Any, Any]


def mark_product(
    operator: Operator, x: Split, weight: Split, *, mixed: bool = False, **params: Any
) -> Any:
    """Bind an operator that multiplies its input by its weight, and put units back.

    Args:
        operator: The operator.
        x: The input as `split_unit` gives it.
        weight: The effective weight, likewise.
        mixed: Whether the operator multiplies a real input by a complex weight.
        **params: Static parameters of the operator.
    """
    operands = (promote_product if mixed else promote)(x[0], weight[0])
    y = operator.primitive.bind(*operands, **params)
    return with_unit(y, multiply_units(x[1], weight[1]))


def add_bias(
    y: Any, bias: Any, bias_fn: Callable[[Any], Any] | None, subject: str, axes: int = 1
) -> Any:
    """Add a marked bias to a result, if there is one.

    Args:
        y: The result, with its unit.
        bias: Array or quantity that fits the last `axes` axes of the result.
        bias_fn: Transformation of the bias, traced with it.
        subject: Name of the operator.
        axes: How many axes of the result the bias may have.
    """
    if bias is None:
        return y
    marked = element_wise(bias, weight_fn=bias_fn)
    return add_with_units(y, marked, subject, axes)


def refuse_shapes(subject: str, x: Any, weight: Any, *, expected: str, fix: str) -> NoReturn:
    """Raise the error for an input and a weight that do not fit."""
    raise ValueError(
        explain_error(
            subject,
            'cannot multiply these shapes',
            got=f'x {x.shape} and weight {weight.shape}',
            expected=expected,
            fix=fix,
            code='ETC802',
        )
    )
