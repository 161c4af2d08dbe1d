"""How many multiplications a traced function makes, read off its jaxpr."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import operators

__all__ = ['marked_multiply_adds', 'multiply_adds']


def multiply_adds(function: Callable[..., Any], *args: Any) -> int:
    """Count the multiplications of floating-point (or complex) numbers in a function.

    Nothing is run. A loop counts as often as it runs if that is known, a `while` once; of a
    branch the most expensive way counts. Divisions and elementary functions are left out.

    Args:
        function: A function of arrays.
        *args: Its arguments; only shapes and dtypes matter.

    Returns:
        The number of multiplications, which is that of the multiply-adds of products and sums.

    Example:
        >>> import jax.numpy as jnp
        >>> multiply_adds(lambda a, b: 2.0 * (a @ b), jnp.ones((2, 3)), jnp.ones((3, 4)))
        32
    """
    return _walk(jax.make_jaxpr(function)(*args).jaxpr, _products)


def marked_multiply_adds(jaxpr: Any) -> int:
    """Count the multiply-adds of the marked operators in a traced step.

    Args:
        jaxpr: A jaxpr, for example `graph.module_info.closed_jaxpr`.
    """
    return _walk(jaxpr, _marked)


def _walk(jaxpr: Any, cost: Callable[[Any], int | None]) -> int:
    """Add up what equations cost; one without a cost of its own costs what is inside."""
    total = 0
    for eqn in jaxpr.eqns:
        own = cost(eqn)
        if own is not None:
            total += own
            continue
        inner = [_walk(sub, cost) for sub in _inside(eqn.params.values())]
        times = eqn.params.get('length', 1) if eqn.primitive.name == 'scan' else 1
        total += max(inner, default=0) if eqn.primitive.name == 'cond' else times * sum(inner)
    return total


def _inside(values: Any) -> Iterator[Any]:
    """Yield the jaxprs among the parameters of an equation."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inside(value)
        elif hasattr(value, 'eqns'):
            yield value


def _products(eqn: Any) -> int | None:
    """Multiplications of one equation; `None` where they are those of what is inside."""
    name = eqn.primitive.name
    marked = _marked(eqn)
    if marked is not None:
        return marked
    if name not in ('mul', 'dot_general', 'conv_general_dilated'):
        return None
    out = eqn.outvars[0].aval
    if not jnp.issubdtype(out.dtype, np.inexact):
        return 0
    size = math.prod(out.shape)
    if name == 'mul':
        return size
    if name == 'dot_general':
        (contracted, _), _ = eqn.params['dimension_numbers']
        return size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    kernel = eqn.invars[1].aval.shape
    features = eqn.params['dimension_numbers'].rhs_spec[0]
    return size * math.prod(kernel) // kernel[features]


def _marked(eqn: Any) -> int | None:
    """Multiply-adds of a marked operator, those of its forward function; of others `None`."""
    operator = {op.primitive: op for op in operators()}.get(eqn.primitive)
    if operator is None:
        return None
    if not operator.has_input:
        return 0  # a mark on a parameter, which computes nothing
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    return multiply_adds(lambda *args: operator.forward(*args, **eqn.params), *shapes)
