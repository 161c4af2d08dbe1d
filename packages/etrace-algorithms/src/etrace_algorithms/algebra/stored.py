"""Values that are computed once, before they are broadcast along a trace."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['store']


def store(value: Any, bits: Any = None) -> Any:
    """Return a value as it is, in a form that XLA does not compute again where it is used.

    On a CPU, XLA fuses cheap arithmetic into whatever uses it. What is broadcast over the input
    axis of a trace would be computed again in every row: a pass over the trace that should be
    bound by memory is then bound by arithmetic. A barrier does not help, since it is gone
    before fusion; but a division counts as too dear to be repeated. So this divides by ones of
    which the compiler does not know that they are ones.

    Args:
        value: An array of floating-point or complex numbers.
        bits: Any array of such numbers and of this shape, of which the ones are made; by
            default `value` itself. Of another one the result is linear in `value`.
    """
    bits = value if bits is None else bits
    if jnp.iscomplexobj(value):
        bits = bits.real
        return jax.lax.complex(store(value.real, bits), store(value.imag, bits))
    bits = jax.lax.bitcast_convert_type(bits.real, f'int{8 * bits.real.dtype.itemsize}')
    return value / ((bits | 1) != 0).astype(value.dtype)
