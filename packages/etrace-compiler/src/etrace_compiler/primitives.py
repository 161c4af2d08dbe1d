"""What is known of JAX's primitives beside how they move elements."""

import jax

from etrace_compiler.program import Equation, Var

__all__ = ['ELEMENTWISE', 'is_elementwise', 'is_holomorphic', 'passes_derivative']

#: Operations whose result at a position depends on their operands at that position alone.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp complex conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc
    exp exp2 expm1 exprel floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le
    lgamma log log1p log2 logistic lt max min mul ne neg nextafter not one_minus_square or
    polygamma polynomial pow random_gamma_grad real reduce_precision regularized_incomplete_beta
    rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh
    sqrt square stop_gradient sub tan tanh xor zeta
    """.split()
)

#: Derivative rules, position by position, of functions of JAX that are so themselves.
_ELEMENTWISE_RULES = frozenset({getattr(jax.nn.relu, 'jvp', object)})

#: Operations that depend on a complex number and on its conjugate.
_NOT_HOLOMORPHIC = frozenset({'abs', 'conj', 'imag', 'real', 'sign'})

#: Operations that pass no derivative.
_FLAT = frozenset({'ceil', 'floor', 'round', 'sign', 'stop_gradient', 'while'})


def is_elementwise(eqn: Equation) -> bool:
    """Whether a result at a position, and its derivative, depend on that position alone."""
    known = eqn.name == 'custom_jvp_call' and eqn.rule in _ELEMENTWISE_RULES
    return known or eqn.name in ELEMENTWISE


def passes_derivative(eqn: Equation) -> bool:
    """Whether any derivative can pass an equation."""
    return eqn.name not in _FLAT


def is_holomorphic(eqn: Equation) -> bool:
    """Whether an equation's derivative with respect to a complex operand is one complex number."""
    if eqn.name not in _NOT_HOLOMORPHIC and not eqn.name.startswith('custom_'):
        return True
    # a derivative rule of the user's own may do anything
    return not any(isinstance(v, Var) and v.is_complex for v in eqn.inputs)
