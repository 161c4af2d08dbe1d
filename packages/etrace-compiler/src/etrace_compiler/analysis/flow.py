"""Where a derivative can flow at all, variable by variable."""

from collections.abc import Collection, Iterable

from etrace_compiler.primitives import passes_derivative
from etrace_compiler.program import Program, Var, is_differentiable

__all__ = ['reached']


def reached(
    program: Program, sources: Iterable[Var], blocked: Collection[tuple[int, int]] = ()
) -> set[Var]:
    """Return the variables that a derivative with respect to `sources` can flow to.

    Args:
        program: The flat program.
        sources: Where to start.
        blocked: Operands not to pass, as (equation, operand).
    """
    found = set(sources)
    for i, eqn in enumerate(program.equations):
        if not passes_derivative(eqn):
            continue
        if any(v in found and (i, k) not in blocked for k, v in enumerate(eqn.inputs)):
            found.update(v for v in eqn.outputs if is_differentiable(v))
    return found
