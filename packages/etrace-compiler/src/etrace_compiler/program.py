"""The step as a flat list of equations, the form that every later pass reads.

A `Program` is a jaxpr without nesting, version differences or constants hidden elsewhere:
variables are compared by identity, and every equation knows the user's source line.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import _jax
from etrace_compiler._jax import SourceLine

__all__ = [
    'Atom',
    'Const',
    'Equation',
    'Program',
    'Var',
    'apply_equation',
    'is_differentiable',
    'read_atom',
    'run',
]


class Var:
    """One array-valued variable; two variables are equal only if they are the same object."""

    __slots__ = ('dtype', 'shape')

    def __init__(self, shape: Sequence[int], dtype: Any):
        self.shape = tuple(shape)
        self.dtype = dtype

    def __repr__(self) -> str:
        return f'Var({self.dtype}{list(self.shape)})'


@dataclass(frozen=True, eq=False)
class Const:
    """A constant operand."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.value)

    @property
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

    @property
    def name(self) -> str:
        return self.primitive.name


@dataclass(frozen=True, eq=False)
class Program:
    """Equations in order, from inputs to outputs."""

    inputs: tuple[Var, ...]
    outputs: tuple[Atom, ...]
    equations: tuple[Equation, ...]

    @cached_property
    def made(self) -> dict[Any, int]:
        """Index of the equation that computes each variable."""
        return {v: i for i, eqn in enumerate(self.equations) for v in eqn.outputs}

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
        for eqn in self.equations:
            if any(v in reached for v in eqn.inputs if isinstance(v, Var)):
                reached.update(eqn.outputs)
        return reached


def is_differentiable(atom: Atom) -> bool:
    """Whether a value can carry a derivative (floating or complex)."""
    return bool(jnp.issubdtype(atom.dtype, np.inexact))


def apply_equation(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation.

    A `while` loop has no reverse derivative, so its operands are detached: its value flows
    forward, no derivative passes it.
    """
    if eqn.name == 'while':
        values = [jax.lax.stop_gradient(v) for v in values]
    return _jax.bind_equation(eqn.primitive, dict(eqn.params), values)


def read_atom(atom: Atom, env: Mapping[Var, Any]) -> Any:
    """Look an operand up."""
    return atom.value if isinstance(atom, Const) else env[atom]


def run(
    program: Program,
    inputs: Sequence[Any],
    *,
    env: dict[Var, Any] | None = None,
    only: Callable[[int], bool] | None = None,
) -> dict[Var, Any]:
    """Evaluate a program and return the value of every variable.

    Args:
        program: The program.
        inputs: One value per program input.
        env: Values that are known already; extended in place.
        only: Which equations to evaluate, by index; all by default.
    """
    env = {} if env is None else env
    env.update(zip(program.inputs, inputs, strict=True))
    for i, eqn in enumerate(program.equations):
        if only is None or only(i):
            values = apply_equation(eqn, [read_atom(v, env) for v in eqn.inputs])
            env.update(zip(eqn.outputs, values, strict=True))
    return env
