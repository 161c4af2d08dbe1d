"""The step as a flat list of equations, the form that every later pass reads.

A `Program` is a jaxpr without nesting, version differences or constants hidden elsewhere:
variables are compared by identity, and every equation knows the user's source line.

A loop that stays a loop is a stretch of equations that name it. Five of them tie it to what is
around it: `loop_carry(init, next)` begins a carry, `loop_slice(sequence)` takes one element,
`loop_next(value)` ends a carry, and `loop_last(carry, next)` and `loop_stack(value)` hand the
last carry and the stacked values out. So every analysis reads one flat list, with edges that
lead back from `loop_next` to `loop_carry`; `Program.settle` repeats a loop until nothing changes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache, cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import _jax
from etrace_compiler._jax import SourceLine
from etrace_compiler.errors import CompilationError, explain_error

__all__ = [
    'LOOP_CARRY',
    'LOOP_LAST',
    'LOOP_NEXT',
    'LOOP_SLICE',
    'LOOP_STACK',
    'Atom',
    'Const',
    'Equation',
    'Loop',
    'Program',
    'Structure',
    'Var',
    'apply_equation',
    'is_differentiable',
    'read_atom',
]


class Structure(Enum):
    """Stands in the place of a primitive where an equation only ties a loop to its surroundings."""

    loop_carry = auto()
    loop_slice = auto()
    loop_next = auto()
    loop_stack = auto()
    loop_last = auto()


LOOP_CARRY = Structure.loop_carry
LOOP_SLICE = Structure.loop_slice
LOOP_NEXT = Structure.loop_next
LOOP_STACK = Structure.loop_stack
LOOP_LAST = Structure.loop_last


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop of a fixed number of substeps.

    Attributes:
        length: Number of substeps.
        parent: The loop that it stands in, if any.
    """

    length: int
    parent: 'Loop | None' = None

    @property
    def chain(self) -> tuple['Loop', ...]:
        """The loops from the outermost one to this one."""
        return (*(self.parent.chain if self.parent else ()), self)


@cache
def _is_inexact(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, np.inexact))


@cache
def _is_complex(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, np.complexfloating))


class Var:
    """One array-valued variable; two variables are equal only if they are the same object."""

    __slots__ = ('dtype', 'is_complex', 'is_inexact', 'shape')

    def __init__(self, shape: Sequence[int], dtype: Any):
        self.shape = tuple(shape)
        self.dtype = dtype
        self.is_inexact = _is_inexact(dtype)
        self.is_complex = _is_complex(dtype)

    def __repr__(self) -> str:
        return f'Var({self.dtype}{list(self.shape)})'


@dataclass(frozen=True, eq=False)
class Const:
    """A constant operand."""

    value: Any

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.value)

    @cached_property
    def dtype(self) -> Any:
        return jax.dtypes.result_type(self.value)


Atom = Var | Const


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation: a JAX primitive, its parameters, operands and results."""

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[Atom, ...]
    outputs: tuple[Var, ...]
    source: SourceLine | None = None
    loop: Loop | None = None

    @property
    def name(self) -> str:
        return self.primitive.name

    @cached_property
    def rule(self) -> Any:
        """What calls of one `custom_jvp` have in common, if that can be found."""
        return _jax.custom_rule_key(self)

    @property
    def signature(self) -> Any:
        """The same for equations that do the same to operands of the same shapes."""
        atoms = tuple(
            [
                (v.shape, v.dtype) if isinstance(v, Var) else id(v.value)
                for v in (*self.inputs, *self.outputs)
            ]
        )
        params: Any = tuple(self.params.items())
        if self.name == 'custom_jvp_call' and self.rule is not None:
            # what is called is traced anew by every call
            params = self.rule, _jax.body_key(_jax.custom_rule_jaxpr(self))
        try:
            hash(params)
        except TypeError:
            params = id(self.params)
        return self.primitive, params, atoms

    @property
    def loops(self) -> tuple[Loop, ...]:
        """The loops that the equation stands in, from the outermost one inward."""
        return self.loop.chain if self.loop else ()


@dataclass(frozen=True, eq=False)
class Program:
    """Equations in order, from inputs to outputs.

    Attributes:
        inputs: Its arguments.
        outputs: Its results.
        equations: What it does.
        rounds: How often an analysis that might not settle goes through a loop.
    """

    inputs: tuple[Var, ...]
    outputs: tuple[Atom, ...]
    equations: tuple[Equation, ...]
    rounds: int = 64

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """Results that an analysis may need again; to be cleared when it is over."""
        return {}

    @cached_property
    def made(self) -> dict[Any, int]:
        """Index of the equation that computes each variable."""
        return {v: i for i, eqn in enumerate(self.equations) for v in eqn.outputs}

    @cached_property
    def has_loops(self) -> bool:
        """Whether any equation stands in a loop."""
        return any([e.loop is not None for e in self.equations])

    @cached_property
    def _stretches(self) -> list[tuple[Loop | None, int]]:
        """The outermost loop of every equation."""
        return [(e.loops[0] if e.loop else None, i) for i, e in enumerate(self.equations)]

    def loops_of(self, v: Atom) -> tuple[Loop, ...]:
        """The loops in each round of which a variable has another value."""
        if v not in self.made:
            return ()
        eqn = self.equations[self.made[v]]
        outside = eqn.primitive in (LOOP_LAST, LOOP_STACK)
        return eqn.loops[:-1] if outside else eqn.loops

    def settle(
        self,
        visit: Callable[[int], bool],
        region: Iterable[int] | None = None,
        *,
        bounded: bool = False,
    ) -> None:
        """Visit equations in order, each outermost loop again until nothing changes.

        Args:
            visit: Called with the index of an equation; tells whether it changed anything.
            region: Sorted indices of the equations to visit; all by default.
            bounded: Give up on a loop that is gone through more often than `rounds`.

        Raises:
            CompilationError: If a loop is given up.
        """
        if not self.has_loops:
            for i in range(len(self.equations)) if region is None else region:
                visit(i)
            return
        places = self._stretches
        chosen = places if region is None else [places[i] for i in region]
        for loop, items in groupby(chosen, key=itemgetter(0)):
            stretch = [i for _, i in items]
            rounds = 1
            while any([visit(i) for i in stretch]) and loop is not None:
                rounds += 1
                if bounded and rounds > self.rounds:
                    raise _unsettled(self.equations[stretch[0]], self.rounds)

    def upstream(self, targets: Iterable[Atom]) -> set[int]:
        """Return the indices of the equations that `targets` are computed from."""
        found: set[int] = set()
        wanted = [self.made[v] for v in targets if v in self.made]
        while wanted:
            i = wanted.pop()
            if i not in found:
                found.add(i)
                wanted.extend(self.made[v] for v in self.equations[i].inputs if v in self.made)
        return found

    def downstream(self, sources: Iterable[Var]) -> set[Var]:
        """Return every variable that depends on `sources`, themselves included."""
        reached = set(sources)

        def visit(i: int) -> bool:
            eqn = self.equations[i]
            if reached.isdisjoint(eqn.inputs) or reached.issuperset(eqn.outputs):
                return False
            reached.update(eqn.outputs)
            return True

        self.settle(visit)
        return reached


def _unsettled(eqn: Equation, limit: int) -> CompilationError:
    return CompilationError(
        explain_error(
            'ControlFlowPolicy',
            'gives up on a loop whose labels go on changing',
            got=f'{limit} rounds through the loop',
            expected='labels that settle within fixpoint_iteration_limit',
            fix='Raise fixpoint_iteration_limit, or set scan_descent="off".',
            code='ETC105',
            where=eqn.source,
        )
    )


def is_differentiable(atom: Atom) -> bool:
    """Whether a value can carry a derivative (floating or complex)."""
    return atom.is_inexact if isinstance(atom, Var) else _is_inexact(atom.dtype)


def apply_equation(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation that does not belong to the frame of a loop.

    A `while` loop has no reverse derivative, so its operands are detached: its value flows
    forward, no derivative passes it.
    """
    if eqn.name == 'while':
        values = [jax.lax.stop_gradient(v) for v in values]
    if eqn.primitive is LOOP_NEXT:
        return list(values)
    return _jax.bind_equation(eqn.primitive, dict(eqn.params), values)


def read_atom(atom: Atom, env: Mapping[Var, Any]) -> Any:
    """Look an operand up."""
    return atom.value if isinstance(atom, Const) else env[atom]
