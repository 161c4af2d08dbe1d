"""Physical units at the border of operators: taken off the arguments, put back on the result."""

from collections.abc import Callable
from typing import Any

import brainunit as u
import jax.numpy as jnp

from etrace_compiler.errors import explain_error

__all__ = ['add_with_units', 'apply_hook', 'split_unit', 'with_unit']


def split_unit(value: Any) -> tuple[Any, Any]:
    """Split a quantity or an array into its number and its unit."""
    if isinstance(value, u.Quantity):
        return jnp.asarray(value.mantissa), value.unit
    return jnp.asarray(value), u.UNITLESS


def with_unit(value: Any, unit: Any) -> Any:
    """Put a unit on an array; a dimensionless, unscaled result stays a plain array."""
    return value if unit == u.UNITLESS else u.Quantity(value, unit=unit)


def apply_hook(hook: Callable[[Any], Any] | None, value: Any) -> Any:
    """Apply a weight transformation, if there is one."""
    return value if hook is None else hook(value)


def add_with_units(y: Any, bias: Any, subject: str) -> Any:
    """Add a bias to an operator's result.

    Raises:
        ValueError: If the bias has another dimension than the result or does not broadcast.
    """
    if not u.have_same_dim(y, bias):
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
    return y + bias
