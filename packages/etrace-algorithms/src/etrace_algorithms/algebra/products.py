"""Products that JAX would take the long way."""

from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['add_products', 'mixed_einsum']

#: Up to so many products the sum is written out.
_UNROLL = 64


def add_products(a: Any, b: Any) -> Any:
    r"""Add products up along the first axis, $\sum_k a_k b_k$, position by position.

    One after the other: on a CPU that is many times faster than a reduction over the first axis,
    and than products of matrices of one element each.

    Args:
        a: `(K, ...)`.
        b: The same shape.

    Returns:
        `(...)`.
    """
    shape = a.shape[1:]
    # axes of length 1 at the end would be the innermost loops
    a, b = (v.reshape((len(v), -1)) for v in (a, b))
    if len(a) <= _UNROLL:
        return reduce(add, (a[k] * b[k] for k in range(len(a)))).reshape(shape)
    zeros = jnp.zeros(a.shape[1:], jnp.result_type(a, b))
    total, _ = jax.lax.scan(lambda total, now: (total + now[0] * now[1], None), zeros, (a, b))
    return total.reshape(shape)


def mixed_einsum(equation: str, a: Any, b: Any) -> Any:
    """`jnp.einsum` of two operands; of a complex and a real one two real products, not four.

    Args:
        equation: As for `jnp.einsum`.
        a: An array, real or complex.
        b: An array of real numbers, or of complex ones as `a`.

    Returns:
        The array that `jnp.einsum` returns.
    """
    if jnp.iscomplexobj(a) and not jnp.iscomplexobj(b):
        return jax.lax.complex(*(jnp.einsum(equation, part, b) for part in (a.real, a.imag)))
    return jnp.einsum(equation, a, b)
