"""What kind of map a derivative rule is: the body of a function does not tell.

A function with a rule of its own (`custom_jvp`, `custom_vjp`) may compute position by position
and send cotangents elsewhere, or through something that is not linear (a clipped gradient).
Backpropagation sends the sum of all later losses through such a rule, a learner each loss by
itself, and the two differ.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import jax

from etrace_compiler import _jax
from etrace_compiler.flatten import program_of
from etrace_compiler.primitives import is_elementwise
from etrace_compiler.program import Equation, is_differentiable

__all__ = ['DerivativeKind', 'derivative_kind']

#: Linear in one operand, position by position, and the operands in which they are.
_POSITIONWISE = {
    'add': (0, 1), 'add_any': (0, 1), 'convert_element_type': (0,), 'copy': (0,), 'div': (0,),
    'mul': (0, 1), 'neg': (0,), 'select_n': (), 'sub': (0, 1),
}  # fmt: skip

#: Linear, from one position to another, and the operands in which they are; `None` for all.
_LINEAR = {
    'broadcast_in_dim': (0,), 'complex': (0, 1), 'concatenate': None, 'conj': (0,),
    'conv_general_dilated': (0, 1), 'cumsum': (0,), 'dot_general': (0, 1), 'dynamic_slice': (0,),
    'dynamic_update_slice': (0, 1), 'expand_dims': (0,), 'gather': (0,), 'imag': (0,),
    'pad': (0, 1), 'real': (0,), 'reduce_sum': (0,), 'reshape': (0,), 'rev': (0,),
    'scatter-add': (0, 2), 'slice': (0,), 'split': (0,), 'squeeze': (0,), 'transpose': (0,),
}  # fmt: skip

_PRODUCTS = frozenset({'conv_general_dilated', 'dot_general', 'mul'})

#: What has been looked at, by rule or signature, and operand: `relu` is the same everywhere.
_KNOWN: dict[Any, 'DerivativeKind'] = {}
_MOST = 256


class DerivativeKind(IntEnum):
    """What is known of the map from the cotangents of results to those of operands."""

    POSITIONWISE = 0
    LINEAR = 1
    UNKNOWN = 2


def derivative_kind(eqn: Equation, operand: int) -> DerivativeKind:
    """Look at the derivative rule of an equation with a body.

    Args:
        eqn: An equation that is not a plain operation of JAX.
        operand: The operand whose derivative is looked at.

    Returns:
        What kind of map its reverse derivative is; `UNKNOWN` if there is none.
    """
    if is_elementwise(eqn):
        return DerivativeKind.POSITIONWISE
    shapes = tuple((v.shape, v.dtype) for v in eqn.inputs)
    key = (eqn.signature if eqn.rule is None else (eqn.rule, shapes)), operand
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        _KNOWN[key] = _derivative_kind(eqn, operand)
    return _KNOWN[key]


def _derivative_kind(eqn: Equation, operand: int) -> DerivativeKind:
    if _jax.custom_rule_jaxpr(eqn) is None:  # a loop or branch is as linear as what is in it
        return DerivativeKind.UNKNOWN if _holds_rules(eqn) else DerivativeKind.LINEAR
    count = len(eqn.inputs)
    wanted = [j for j, v in enumerate(eqn.outputs) if is_differentiable(v)]

    def pushforward(*values: Any) -> Any:  # as local as its transpose, and cheaper to trace
        def forward(x: Any) -> list[Any]:
            operands = [*values[:operand], x, *values[operand + 1 : count]]
            return _jax.bind_equation(eqn.primitive, dict(eqn.params), operands)

        moved = jax.jvp(forward, (values[operand],), (values[count],))[1]
        return [moved[j] for j in wanted]

    def pullback(*values: Any) -> Any:
        def forward(x: Any) -> list[Any]:
            operands = [*values[:operand], x, *values[operand + 1 : count]]
            results = _jax.bind_equation(eqn.primitive, dict(eqn.params), operands)
            return [results[j] for j in wanted]

        _, pull = jax.vjp(forward, values[operand])
        return pull(list(values[count:]))

    try:
        if eqn.name == 'custom_jvp_call':
            program = program_of(pushforward, *eqn.inputs, eqn.inputs[operand])
        else:
            program = program_of(pullback, *eqn.inputs, *(eqn.outputs[j] for j in wanted))
    except (TypeError, ValueError, NotImplementedError):
        return DerivativeKind.UNKNOWN
    carried = set(program.inputs[count:])
    kinds = [DerivativeKind.POSITIONWISE]
    for inner in program.equations:
        at = [k for k, v in enumerate(inner.inputs) if v in carried]
        if at:
            kinds.append(_kind_in(inner, at))
            carried.update(inner.outputs)
    return max(kinds)


def _holds_rules(eqn: Any) -> bool:
    """Whether a derivative rule stands in the bodies of an equation, at any depth."""
    return any(
        _jax.custom_rule_jaxpr(inner) is not None or _holds_rules(inner)
        for body in _jax.bodies(eqn)
        for inner in body.eqns
    )


def _kind_in(eqn: Equation, at: Sequence[int]) -> DerivativeKind:
    """What kind of map one equation is in some of its operands together."""
    if eqn.name == 'select_n':
        is_linear = 0 not in at
    else:
        places = {**_POSITIONWISE, **_LINEAR}.get(eqn.name, ())
        is_linear = places is None or set(at) <= set(places)
    if not is_linear or (eqn.name in _PRODUCTS and len(at) > 1):
        return DerivativeKind.UNKNOWN
    same_shape = all(eqn.inputs[k].shape == eqn.outputs[0].shape for k in at)
    kept = eqn.name in _POSITIONWISE and same_shape
    return DerivativeKind.POSITIONWISE if kept else DerivativeKind.LINEAR
