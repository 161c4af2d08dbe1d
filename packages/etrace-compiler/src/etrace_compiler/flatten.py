"""From a jaxpr to a flat `Program`: `jit` and `remat` bodies are spliced into their caller."""

from typing import Any

import jax

from etrace_compiler import _jax
from etrace_compiler.program import Const, Equation, Program, Var

__all__ = ['flatten_jaxpr']


def flatten_jaxpr(closed_jaxpr: Any, library_paths: tuple[str, ...] = ()) -> Program:
    """Flatten a jaxpr; functions with derivative rules of their own stay one equation.

    Args:
        closed_jaxpr: A closed jaxpr.
        library_paths: Path prefixes whose frames are not the user's code.
    """
    jaxpr, consts = _jax.open_jaxpr(closed_jaxpr)
    inputs = tuple(_new_var(v) for v in jaxpr.invars)
    equations: list[Equation] = []
    outputs = _splice(jaxpr, consts, inputs, equations, library_paths, None)
    return Program(inputs, outputs, tuple(equations))


def _new_var(v: Any) -> Var:
    # key arrays and other extended types have a shape and a dtype as well
    return Var(v.aval.shape, v.aval.dtype)


def _splice(
    jaxpr: Any, consts: Any, args: Any, equations: list, library_paths: Any, caller: Any
) -> tuple:
    """Append the equations of one jaxpr, with `args` for its inputs; return its outputs."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, (Const(c) for c in consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(v: Any) -> Any:
        return Const(v.val) if isinstance(v, _jax.Literal) else env[v]

    for eqn in jaxpr.eqns:
        source = _jax.source_line(eqn, library_paths) or caller
        values = tuple(read(v) for v in eqn.invars)
        body = _jax.inlinable_jaxpr(eqn)
        if body is not None:
            inner, inner_consts = _jax.open_jaxpr(body)
            outputs = _splice(inner, inner_consts, values, equations, library_paths, source)
        else:
            outputs = tuple(_new_var(v) for v in eqn.outvars)
            equations.append(Equation(eqn.primitive, eqn.params, values, outputs, source))
        env.update(zip(eqn.outvars, outputs, strict=True))
    return tuple(read(v) for v in jaxpr.outvars)


def program_of(function: Any, *avals: Any) -> Program:
    """Trace a function of arrays into a program."""
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    return flatten_jaxpr(jax.make_jaxpr(function)(*structs))
