"""From a jaxpr to a flat `Program`: `jit` and `remat` bodies are spliced into their caller.

What becomes of loops and branches is for a `Rewrite` to say; without one they stay one equation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from etrace_compiler import _jax
from etrace_compiler._jax import SourceLine
from etrace_compiler.program import (
    LOOP_CARRY,
    LOOP_LAST,
    LOOP_NEXT,
    LOOP_STACK,
    Atom,
    Const,
    Equation,
    Loop,
    Program,
    Structure,
    Var,
)

__all__ = ['Depends', 'Flattener', 'Rewrite', 'flatten_jaxpr', 'program_of']


class Depends:
    """What a variable is computed from: bits, to be combined."""

    NOTHING = 0
    DATA = 1
    PARAMETER = 2
    HIDDEN = 4


#: `(flattener, equation, operands, source) -> results`, or `None` to leave an equation alone.
Rewrite = Callable[['Flattener', Any, tuple[Atom, ...], SourceLine | None], tuple[Atom, ...] | None]


class Flattener:
    """Collect the equations of a program, loops included.

    An equation inside a loop that reads nothing of the loop is placed before it.

    Args:
        rewrite: Called for every equation that is not spliced.
        library_paths: Path prefixes whose frames are not the user's code; `None` if nobody will
            ask for the user's lines.
    """

    def __init__(self, rewrite: Rewrite | None = None, library_paths: tuple[str, ...] | None = ()):
        self._rewrite = rewrite
        self._library_paths = library_paths
        self._depends: dict[Atom, int] = {}
        #: The user's line by traceback: a loop in Python makes many equations in one place.
        self._lines: dict[Any, SourceLine | None] = {}
        #: How many loops each variable changes with, if any.
        self._levels: dict[Atom, int] = {}
        #: Equation and operands -> the equation, kept so that its id stays its own, and results.
        self._seen: dict[Any, tuple[Any, tuple[Var, ...]]] = {}
        self._loops: list[Loop | None] = [None]
        self._blocks: list[list[Equation]] = [[]]

    @property
    def equations(self) -> tuple[Equation, ...]:
        """The equations collected so far, outside open loops."""
        return tuple(self._blocks[0])

    def depends(self, atoms: Sequence[Atom]) -> int:
        """What some operands are computed from."""
        found = Depends.NOTHING
        for v in atoms:
            found |= self._depends.get(v, Depends.NOTHING)
        return found

    def input(self, like: Any, depends: int) -> Var:
        """Make a variable for an input of the program."""
        v = _new_var(like)
        self._depends[v] = depends
        return v

    def splice(
        self, closed_jaxpr: Any, args: Sequence[Atom], source: SourceLine | None = None
    ) -> tuple[Atom, ...]:
        """Append the equations of a jaxpr, with `args` for its inputs; return its outputs."""
        jaxpr, consts = _jax.open_jaxpr(closed_jaxpr)
        env: dict[Any, Atom] = dict(zip(jaxpr.constvars, map(Const, consts), strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            line = self._line(eqn) or source
            operands = tuple(
                [Const(v.val) if isinstance(v, _jax.Literal) else env[v] for v in eqn.invars]
            )
            body = _jax.inlinable_jaxpr(eqn)
            if body is not None:
                results = self.splice(body, operands, line)
            else:
                results = self._rewrite(self, eqn, operands, line) if self._rewrite else None
                if results is None:
                    results = self.append(eqn, operands, line)
            env.update(zip(eqn.outvars, results, strict=True))
        return tuple(Const(v.val) if isinstance(v, _jax.Literal) else env[v] for v in jaxpr.outvars)

    def _line(self, eqn: Any) -> SourceLine | None:
        if self._library_paths is None:
            return None
        place = _jax.traceback_of(eqn)
        if place not in self._lines:
            self._lines[place] = _jax.source_line(eqn, self._library_paths)
        return self._lines[place]

    def apply(
        self, function: Callable, args: Sequence[Atom], source: SourceLine | None
    ) -> tuple[Atom, ...]:
        """Append what a function of arrays, returning a tuple, does to some operands."""
        structs = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in args]
        return self.splice(jax.make_jaxpr(function)(*structs), args, source)

    def tie(
        self, kind: Structure, inputs: Sequence[Atom], like: Any, source: SourceLine | None
    ) -> Var:
        """Append an equation of the frame of the innermost open loop."""
        out = Var(like.shape, like.dtype)
        outside = kind in (LOOP_LAST, LOOP_STACK)
        self._record(kind, {}, tuple(inputs), (out,), source, len(self._loops) - 1)
        if outside:
            self._levels[out] = len(self._loops) - 2
        return out

    def open_loop(self, length: int) -> None:
        """Begin a loop inside the one that is open."""
        self._loops.append(Loop(length, self._loops[-1]))
        self._blocks.append([])

    def close_loop(self) -> None:
        """End the innermost open loop."""
        self._loops.pop()
        block = self._blocks.pop()
        self._blocks[-1].extend(block)

    def begin_carry(self, init: Atom, depends: int, source: SourceLine | None) -> tuple[Var, Var]:
        """Append `loop_carry`; return the carry, and the variable that its end must define."""
        end = Var(init.shape, init.dtype)
        self._depends[end] = depends
        return self.tie(LOOP_CARRY, (init, end), init, source), end

    def end_carry(self, value: Atom, end: Var, source: SourceLine | None) -> None:
        """Append `loop_next`."""
        self._record(LOOP_NEXT, {}, (value,), (end,), source, len(self._loops) - 1)

    def append(self, eqn: Any, operands: tuple, source: SourceLine | None) -> tuple[Var, ...]:
        """Append an equation as it is; return its results."""
        # the copies of a loop's body share what does not change from one to the next
        same = (id(eqn), *[id(v.value) if isinstance(v, Const) else v for v in operands])
        effects = _jax.has_effects(eqn)
        if same in self._seen and not effects:
            return self._seen[same][1]
        outputs = tuple([_new_var(v) for v in eqn.outvars])
        level = len(self._loops) - 1
        if level and not effects:
            level = max([self._levels.get(v, 0) for v in operands], default=0)
        self._record(eqn.primitive, eqn.params, operands, outputs, source, level)
        self._seen[same] = eqn, outputs
        return outputs

    def _record(
        self, primitive: Any, params: Any, inputs: tuple, outputs: tuple, source: Any, level: int
    ) -> None:
        equation = Equation(primitive, params, inputs, outputs, source, self._loops[level])
        self._blocks[level].append(equation)
        depends = self.depends(inputs)
        for v in outputs:
            if level:
                self._levels[v] = level
            self._depends[v] = self._depends.get(v, Depends.NOTHING) | depends


def flatten_jaxpr(
    closed_jaxpr: Any, rewrite: Rewrite | None = None, *, lines: bool = True
) -> Program:
    """Flatten a jaxpr; loops, branches and functions with derivative rules stay one equation.

    Args:
        closed_jaxpr: The jaxpr.
        rewrite: What becomes of them, if that is something else.
        lines: Whether to look the user's lines up.
    """
    flattener = Flattener(rewrite, () if lines else None)
    jaxpr, _ = _jax.open_jaxpr(closed_jaxpr)
    inputs = tuple(flattener.input(v, Depends.NOTHING) for v in jaxpr.invars)
    outputs = flattener.splice(closed_jaxpr, inputs)
    return Program(inputs, outputs, flattener.equations)


def program_of(function: Any, *avals: Any) -> Program:
    """Trace a function of arrays into a program."""
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    return flatten_jaxpr(jax.make_jaxpr(function)(*structs))


def _new_var(v: Any) -> Var:
    # key arrays and other extended types have a shape and a dtype as well
    return Var(v.aval.shape, v.aval.dtype)
