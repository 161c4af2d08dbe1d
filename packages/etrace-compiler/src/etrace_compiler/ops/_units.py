"""Physical units at the border of operators: taken off the arguments, put back on the result."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp

from etrace_compiler.errors import explain_error

__all__ = [
    'add_with_units',
    'apply_hook',
    'multiply_units',
    'promote',
    'promote_product',
    'split_unit',
    'with_unit',
]


def split_unit(value: Any) -> tuple[Any, Any]:
    """Split a quantity or an array into its number and its unit."""
    if isinstance(value, u.Quantity):
        return jnp.asarray(value.mantissa), value.unit
    return jnp.asarray(value), u.UNITLESS


def with_unit(value: Any, unit: Any) -> Any:
    """Put a unit on an array; a dimensionless, unscaled result stays a plain array."""
    return value if unit is u.UNITLESS or unit == u.UNITLESS else u.Quantity(value, unit=unit)


def multiply_units(x: Any, y: Any) -> Any:
    """Return the unit of a product."""
    return x if x is y is u.UNITLESS else x * y


def promote(*values: Any) -> tuple[Any, ...]:
    """Bring arrays to their common dtype."""
    first = values[0].dtype
    if all([v.dtype == first and not v.weak_type for v in values]):
        return values
    dtype = reduce(jnp.promote_types, (v.dtype for v in values))
    return tuple(v.astype(dtype) for v in values)


def promote_product(x: Any, weight: Any) -> tuple[Any, Any]:
    """Bring the operands of a product to a common precision; a real input stays real."""
    found, weight = promote(x, weight)
    if jnp.iscomplexobj(weight) and not jnp.iscomplexobj(x):
        return x.astype(jnp.finfo(weight.dtype).dtype), weight
    return found, weight


def apply_hook(hook: Callable[[Any], Any] | None, value: Any) -> Any:
    """Apply a weight transformation, if there is one."""
    return value if hook is None else hook(value)


def add_with_units(y: Any, bias: Any, subject: str, axes: int = 1) -> Any:
    """Add a bias to an operator's result.

    Args:
        y: The result.
        bias: The bias.
        subject: Name of the operator.
        axes: How many axes the bias may have: it is repeated along those before.

    Raises:
        ValueError: If the bias has another dimension than the result or does not fit its shape.
    """
    has_units = isinstance(y, u.Quantity) or isinstance(bias, u.Quantity)
    if has_units and not u.have_same_dim(y, bias):
        raise ValueError(
            explain_error(
                f'{subject} bias',
                'has the wrong unit',
                got=f'[{u.get_unit(bias)}]',
                expected=f'[{u.get_unit(y)}], the unit of the result it is added to',
                fix='Give the bias the unit of input times weight.',
                code='ETC803',
            )
        )
    last = y.shape[-axes:] if axes else ()
    fits = len(bias.shape) <= len(last) and all(
        n in (1, m) for n, m in zip(bias.shape[::-1], last[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            explain_error(
                f'{subject} bias',
                'has the wrong shape',
                got=f'{bias.shape}',
                expected=f'{last}, or what broadcasts to it',
                fix='Give the bias the axes that the weight produces.',
                code='ETC805',
            )
        )
    if has_units or y.dtype != bias.dtype:
        return y + bias
    return _add(y, bias)


def _add(y: Any, bias: Any) -> Any:
    """Add arrays of one dtype; the sum of `jax.numpy` would be traced anew for every shape."""
    if bias.shape != y.shape:
        last = tuple(range(y.ndim - bias.ndim, y.ndim))
        bias = jax.lax.broadcast_in_dim(bias, y.shape, last)
    return jax.lax.add(y, bias)
