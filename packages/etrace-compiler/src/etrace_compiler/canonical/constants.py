"""Evaluate index arithmetic on constants, so that a gather with fixed indices is a permutation."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp

from etrace_compiler.program import Const, Equation, Program, Structure, apply_equation, read_atom

__all__ = ['fold_constants']

#: Larger constants stay in the program.
_MAX_SIZE = 1 << 20


def fold_constants(program: Program) -> Program:
    """Replace integer and boolean equations whose operands are constants by their values."""
    known: dict = {}
    equations = []
    for eqn in program.equations:
        if known and not known.keys().isdisjoint(eqn.inputs):
            eqn = replace(eqn, inputs=tuple(known.get(v, v) for v in eqn.inputs))
        if _is_index_arithmetic(eqn):
            with jax.ensure_compile_time_eval():
                values = apply_equation(eqn, [read_atom(v, {}) for v in eqn.inputs])
            known.update(zip(eqn.outputs, map(Const, values), strict=True))
        else:
            equations.append(eqn)
    outputs = tuple(known.get(v, v) for v in program.outputs)
    return replace(program, outputs=outputs, equations=tuple(equations))


def _is_index_arithmetic(eqn: Equation) -> bool:
    if not all([isinstance(v, Const) for v in eqn.inputs]):
        return False
    if isinstance(eqn.primitive, Structure) or (not eqn.inputs and eqn.name != 'iota'):
        return False
    return all(
        (jnp.issubdtype(v.dtype, jnp.integer) or v.dtype == jnp.bool_)
        and math.prod(v.shape) <= _MAX_SIZE
        for v in eqn.outputs
    )
