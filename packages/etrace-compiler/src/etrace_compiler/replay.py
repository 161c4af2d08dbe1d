"""Evaluate parts of a jaxpr, with the results of one named call given from outside.

What a call is replaced by, and which results are wanted, may differ from one evaluation to the
next; what does not lead to a result is not evaluated. As long as what replaces the call are zeros,
products that one part has computed need not be computed again by another.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from etrace_compiler import _jax
from etrace_compiler.analysis.derivatives import DerivativeKind, derivative_kind
from etrace_compiler.equal_values import equal_values, is_product, recall
from etrace_compiler.flatten import program_of
from etrace_compiler.program import is_differentiable

__all__ = ['Part', 'Replay']


@dataclass(frozen=True, eq=False)
class _Literal:
    """An operand that is a constant."""

    value: Any


@dataclass(frozen=True, eq=False)
class _Step:
    """One equation: operands are numbers of values, or constants."""

    eqn: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """What is needed for some results.

    Attributes:
        inputs: Which inputs of the jaxpr are read.
        effects: Whether something besides results happens (printing).
    """

    inputs: frozenset[int]
    effects: bool
    _steps: tuple[_Step, ...]
    _consts: dict[int, Any]
    _call: tuple[int, ...]
    _wanted: tuple[tuple[Any, ...], tuple[Any, ...]]
    _same: Callable[[int], Hashable]

    @property
    def products(self) -> dict[Hashable, int]:
        """The products that it evaluates: by class of equal values, one that is in it."""
        return {self._same(s.outputs[0]): s.outputs[0] for s in self._steps if is_product(s.eqn)}

    def bends(self, inputs: Collection[int], moving: Collection[int]) -> bool:
        """Whether some inputs alone go through a derivative rule that is not linear.

        The sum of several cotangents comes out of such a rule as something else than the sum of
        what comes out of it for each.

        Args:
            inputs: Which inputs of the jaxpr are differentiated.
            moving: Which inputs differ from one evaluation to the next.
        """
        active, moved = set(inputs), set(moving)
        for step in self._steps:
            reads = {v for v in step.inputs if not isinstance(v, _Literal)}
            moves, acts = not reads.isdisjoint(moved), not reads.isdisjoint(active)
            # a body may do something to a parameter alone; a rule sees all of its operands
            by_itself = not moves or _jax.custom_rule_jaxpr(step.eqn) is None
            if acts and by_itself and _bends(step.eqn):
                return True
            if moves or acts:
                (moved if moves else active).update(step.outputs)
        return False

    @property
    def draws_anew(self) -> bool:
        """Whether it draws random numbers that are others under `jax.vmap`."""
        return any(_draws_anew(step.eqn) for step in self._steps)

    def __call__(
        self,
        inputs: Mapping[int, Any],
        call: Sequence[Any] = (),
        known: Mapping[Hashable, Any] | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """Evaluate the part.

        Args:
            inputs: Values of the inputs of the jaxpr, those at least that are read.
            call: Results of the call.
            known: Values of `products` that are not to be computed again.

        Returns:
            The results that are wanted, and the operands of the call that are.
        """
        values = {**self._consts, **inputs, **dict(zip(self._call, call, strict=False))}

        def read(v: Any) -> Any:
            return v.value if isinstance(v, _Literal) else values[v]

        for step in self._steps:
            eqn, operands = step.eqn, [read(v) for v in step.inputs]
            if known and is_product(eqn) and self._same(step.outputs[0]) in known:
                found = [recall(eqn, known[self._same(step.outputs[0])], operands)]
            else:
                found = _jax.bind_equation(eqn.primitive, eqn.params, operands)
            values.update(zip(step.outputs, found, strict=True))
        results, operands = self._wanted
        return [read(v) for v in results], [read(v) for v in operands]


class Replay:
    """A jaxpr of which parts can be evaluated, with a named call replaced.

    Functions under `jit` or `checkpoint` are spliced in where the call stands inside them.

    Args:
        closed_jaxpr: The jaxpr.
        name: Name of the function under `jit` whose call is replaced.

    Attributes:
        calls: How often the function is called, those calls included that cannot be replaced.
        replaceable: Whether there is one call, and it stands in no loop, branch or function with
            a derivative rule of its own.
    """

    def __init__(self, closed_jaxpr: Any, name: str):
        jaxpr, consts = _jax.open_jaxpr(closed_jaxpr)
        self._name = name
        self._count = 0
        self._consts: dict[int, Any] = {}
        self._steps: list[_Step] = []
        self._stopped: dict[Any, Any] = {}
        self._call: _Step | None = None
        self.calls = _count_calls(jaxpr, name)
        inputs = [self._new() for _ in jaxpr.invars]
        self._inputs = frozenset(inputs)
        self._results = tuple(self._splice(jaxpr, consts, inputs))
        self.replaceable = self.calls == 1 and self._call is not None
        zeros = () if self._call is None else self._call.outputs
        self._same = equal_values(self._steps, zeros)

    def operand_shapes(self, operands: Collection[int]) -> list[Any]:
        """Return shapes and dtypes of operands of the call."""
        assert self._call is not None
        found = [self._call.eqn.invars[i].aval for i in operands]
        return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in found]

    def value_shapes(self, values: Collection[int]) -> list[Any]:
        """Return shapes and dtypes of values inside, by their numbers."""
        made = {
            v: a.aval for s in self._steps for v, a in zip(s.outputs, s.eqn.outvars, strict=True)
        }
        return [jax.ShapeDtypeStruct(made[v].shape, made[v].dtype) for v in values]

    def sources(self, results: Sequence[int] = (), operands: Sequence[int] = ()) -> list[Any]:
        """Say which results and operands of the call are the same value.

        Derivatives that are stopped on the way count for nothing.

        Returns:
            One thing for each: that of an input is its number.
        """
        assert self._call is not None
        found = [*(self._results[i] for i in results), *(self._call.inputs[i] for i in operands)]
        return [self._source(v) for v in found]

    def _source(self, value: Any) -> Any:
        while value in self._stopped:
            value = self._stopped[value]
        return value

    def _new(self, value: Any = None) -> int:
        self._count += 1
        if value is not None:
            self._consts[self._count - 1] = value
        return self._count - 1

    def _splice(self, jaxpr: Any, consts: Sequence, inputs: Sequence) -> list[Any]:
        """Lay the equations of a jaxpr out; return where its results are."""
        env: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
        env.update({v: self._new(c) for v, c in zip(jaxpr.constvars, consts, strict=True)})

        def read(v: Any) -> Any:
            return _Literal(v.val) if isinstance(v, _jax.Literal) else env[v]

        for eqn in jaxpr.eqns:
            operands = tuple(read(v) for v in eqn.invars)
            body = _jax.inlinable_jaxpr(eqn)
            is_call = _is_call(eqn, self._name)
            if body is not None and not is_call and (eqn.effects or self._inside(eqn)):
                env.update(
                    zip(eqn.outvars, self._splice(*_jax.open_jaxpr(body), operands), strict=True)
                )
                continue
            step = _Step(eqn, operands, tuple(self._new() for _ in eqn.outvars))
            env.update(zip(eqn.outvars, step.outputs, strict=True))
            self._steps.append(step)
            if eqn.primitive.name == 'stop_gradient':
                self._stopped[step.outputs[0]] = operands[0]
            if is_call:
                self._call = step
        return [read(v) for v in jaxpr.outvars]

    def _inside(self, eqn: Any) -> int:
        return sum(_count_calls(body, self._name) for body in _jax.bodies(eqn))

    def part(
        self,
        results: Collection[int],
        operands: Collection[int] = (),
        *,
        effects: bool = False,
        values: Collection[int] = (),
    ) -> Part:
        """Find what is needed for some results.

        Args:
            results: Which results of the jaxpr are wanted.
            operands: Which operands of the call are wanted.
            effects: Whether to keep what happens besides results.
            values: Values inside (see `Part.products`) that are wanted after the results.
        """
        call = self._call
        wanted = (
            (*(self._results[i] for i in results), *values),
            tuple(call.inputs[i] for i in operands) if call is not None else (),
        )
        needed = {v for part in wanted for v in part if not isinstance(v, _Literal)}
        kept = []
        for step in reversed(self._steps):
            if step is call:
                continue
            if not needed.isdisjoint(step.outputs) or (effects and _jax.has_effects(step.eqn)):
                kept.append(step)
                needed.update(v for v in step.inputs if not isinstance(v, _Literal))
        outputs = () if call is None else call.outputs
        return Part(
            self._inputs & needed,
            any(_jax.has_effects(step.eqn) for step in kept),
            tuple(reversed(kept)),
            {v: c for v, c in self._consts.items() if v in needed},
            outputs,
            wanted,
            self._same,
        )


def _is_call(eqn: Any, name: str) -> bool:
    return _jax.inlinable_jaxpr(eqn) is not None and eqn.params.get('name') == name


def _count_calls(jaxpr: Any, name: str) -> int:
    """How often a named function is called in a jaxpr, at any depth."""
    return sum(
        1 if _is_call(eqn, name) else sum(_count_calls(body, name) for body in _jax.bodies(eqn))
        for eqn in jaxpr.eqns
    )


def _draws_anew(eqn: Any) -> bool:
    inner = (_draws_anew(inner) for body in _jax.bodies(eqn) for inner in body.eqns)
    return _jax.draws_by_batch(eqn) or any(inner)


def _bends(eqn: Any) -> bool:
    """Whether an equation has, or holds, a reverse derivative rule that may not be linear."""
    if eqn.primitive.name == 'custom_jvp_call':
        return False
    if _jax.custom_rule_jaxpr(eqn) is None:
        return any(_bends(inner) for body in _jax.bodies(eqn) for inner in body.eqns)
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    program = program_of(lambda *args: _jax.bind_equation(eqn.primitive, eqn.params, args), *shapes)
    return any(
        derivative_kind(inner, k) is DerivativeKind.UNKNOWN
        for inner in program.equations
        if _jax.custom_rule_jaxpr(inner) is not None
        for k, v in enumerate(inner.inputs)
        if is_differentiable(v)
    )
