"""Which values of laid-out equations are equal, whatever derivatives they carry."""

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import jax
import numpy as np

from etrace_compiler import _jax
from etrace_compiler.ops import operator_of

__all__ = ['equal_values', 'is_product', 'recall']

#: What makes zeros of zeros.
_MOVES = frozenset(
    """
    broadcast_in_dim convert_element_type copy expand_dims reshape slice squeeze stop_gradient
    transpose
    """.split()
)

#: What leaves every value as it is.
_SAME = frozenset({'copy', 'stop_gradient'})

_ZERO = 'zero'


def equal_values(steps: Iterable[Any], zeros: Collection[int]) -> Callable[[int], Hashable]:
    """Sort values into classes of equal ones.

    Two values are known to be equal if the same operations make them of equal values. A
    derivative that is stopped on the way, and zeros that are added, change nothing.

    Args:
        steps: Equations with numbered operands (`inputs`, numbers or constants with a `value`)
            and results (`outputs`), in order.
        zeros: Numbers of values that are zeros.

    Returns:
        The class of a value by its number.
    """
    classes: dict[int, Hashable] = dict.fromkeys(zeros, _ZERO)
    made: dict[Hashable, tuple[int, ...]] = {}

    def of(v: Any) -> Hashable:
        return classes.get(v, v) if isinstance(v, int) else _constant(v.value)

    for step in steps:
        name, reads = step.eqn.primitive.name, [of(v) for v in step.inputs]
        if name in _SAME or (name in _MOVES and reads[0] == _ZERO):
            classes[step.outputs[0]] = reads[0]
        elif name in ('add', 'add_any') and _ZERO in reads:
            classes[step.outputs[0]] = reads[1 - reads.index(_ZERO)]
        elif not _jax.has_effects(step.eqn):
            key = (step.eqn.primitive, _params(step.eqn), *reads)
            first = made.setdefault(key, step.outputs)
            classes.update(zip(step.outputs, (of(v) for v in first), strict=True))
    return of


def _constant(value: Any) -> Hashable:
    array = np.asarray(value)
    return ('constant', array.dtype.name, array.shape, array.tobytes())


def _params(eqn: Any) -> Hashable:
    """The parameters of an equation; its own identity where they cannot be compared."""
    found = tuple(sorted(eqn.params.items(), key=lambda item: item[0]))
    try:
        hash(found)
    except TypeError:
        return id(eqn)
    return found


def is_product(eqn: Any) -> bool:
    """Whether an equation is a product: it costs more than to keep its result."""
    operator = operator_of(eqn.primitive)
    if operator is not None:
        return operator.has_input
    return eqn.primitive.name in ('dot_general', 'conv_general_dilated')


def recall(eqn: Any, result: Any, operands: Iterable[Any]) -> Any:
    """Give an equation the result that is known, with the derivatives of the equation.

    Args:
        eqn: An equation with one result.
        result: Its value.
        operands: Its operands; they count for derivatives alone.
    """

    @jax.custom_jvp
    def known(result: Any, *operands: Any) -> Any:
        return result

    def derivative(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        result, *operands = primals
        zero = jax.custom_derivatives.SymbolicZero
        moving = [k for k, t in enumerate(tangents[1:]) if not isinstance(t, zero)]

        def evaluate(*values: Any) -> Any:
            given = [*operands]
            for k, value in zip(moving, values, strict=True):
                given[k] = value
            return _jax.bind_equation(eqn.primitive, eqn.params, given)[0]

        if not moving:
            return result, tangents[0]
        values = [operands[k] for k in moving]
        return result, jax.jvp(evaluate, values, [tangents[1:][k] for k in moving])[1]

    known.defjvp(derivative, symbolic_zeros=True)
    return known(result, *operands)
