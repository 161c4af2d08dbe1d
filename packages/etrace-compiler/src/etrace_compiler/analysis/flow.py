"""Where a derivative can flow at all, variable by variable."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etrace_compiler.primitives import passes_derivative
from etrace_compiler.program import Program, Var

__all__ = ['Reach', 'members']


def members(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, the lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


class Reach:
    """Which variables a derivative with respect to each of several sources flows to.

    One pass over the program answers for all sources: each has a bit.

    Args:
        program: The flat program.
        sources: Where to start, one variable or several per source, by number.
        blocked: Operands not to pass, as (equation, operand).
    """

    def __init__(
        self,
        program: Program,
        sources: Sequence[Iterable[Any]] | Mapping[int, Iterable[Any]],
        blocked: Collection[tuple[int, int]] = (),
    ):
        bits: dict[Any, int] = {}
        numbered = sources.items() if isinstance(sources, Mapping) else enumerate(sources)
        for n, variables in numbered:
            for v in variables:
                bits[v] = bits.get(v, 0) | 1 << n

        equations, reached = program.equations, bits.keys()

        def visit(i: int) -> bool:
            eqn = equations[i]
            if reached.isdisjoint(eqn.inputs) or not passes_derivative(eqn):
                return False
            found = 0
            for k, v in enumerate(eqn.inputs):
                if v in bits and (i, k) not in blocked:
                    found |= bits[v]
            changed = False
            for v in eqn.outputs:
                old = bits.get(v, 0)
                if old | found != old and v.is_inexact:
                    bits[v] = old | found
                    changed = True
            return changed

        program.settle(visit)
        self._bits = bits

    def __call__(self, source: int, v: Any) -> bool:
        """Whether a derivative with respect to one source flows to a variable."""
        return bool(self._bits.get(v, 0) >> source & 1)

    def sources(self, variables: Iterable[Any]) -> int:
        """The sources that flow to any of some variables, one bit each."""
        found = 0
        for v in variables:
            found |= self._bits.get(v, 0)
        return found

    def variables(self, source: int) -> set[Var]:
        """All variables that one source flows to."""
        return {v for v, found in self._bits.items() if found >> source & 1}
