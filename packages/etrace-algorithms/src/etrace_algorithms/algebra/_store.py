"""Values that are computed once, before they are broadcast along a trace."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['store']


def store(value: Any) -> Any:
    """Return a value as it is, in a form that XLA does not compute again where it is used.

    On a CPU, XLA fuses cheap arithmetic into whatever uses it. What is broadcast over the input
    axis of a trace would be computed again in every row: a pass over the trace that should be
    bound by memory is then bound by arithmetic. A barrier does not help, since it is gone
    before fusion; but a division counts as too dear to be repeated. So this divides by ones of
    which the compiler does not know that they are ones.

    Args:
        value: An array of floating-point or complex numbers.
    """
    if jnp.iscomplexobj(value):
        return jax.lax.complex(store(value.real), store(value.imag))
    bits = jax.lax.bitcast_convert_type(value, f'int{8 * value.dtype.itemsize}')
    return value / ((bits | 1) != 0).astype(value.dtype)
