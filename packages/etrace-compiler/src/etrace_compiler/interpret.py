"""Evaluate a program in several versions at once.

A *version* says how a variable is read: with which derivatives, perturbed or not. What it means
is up to a `Reading`; the plan, which equation is needed in which version, is made once. Loops
carry every version of a carry that is needed.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from etrace_compiler.program import (
    LOOP_CARRY,
    LOOP_LAST,
    LOOP_SLICE,
    LOOP_STACK,
    Atom,
    Const,
    Loop,
    Program,
    Var,
    apply_equation,
)

__all__ = ['Interpreter', 'Plain', 'Reading', 'run']

V = TypeVar('V')
Item = tuple[int, Any]
Values = dict[tuple[Var, Any], Any]


class Reading(Protocol[V]):
    """What the versions of a program mean."""

    def resolve(self, v: Var, version: V) -> V | None:
        """The version in which a variable is computed for a reader; `None` if it is given."""
        ...

    def operand(self, i: int, k: int, version: V) -> V:
        """The version in which an equation that is needed in a version reads an operand."""
        ...


class Plain:
    """The one version of ordinary evaluation; the inputs are given."""

    def __init__(self, program: Program):
        self._made = program.made

    def resolve(self, v: Var, version: None) -> Any:
        return () if v in self._made else None

    def operand(self, i: int, k: int, version: Any) -> Any:
        return ()


@dataclass
class _Stretch:
    """What is to be evaluated of a program, or of one loop: items and inner loops in order."""

    loop: Loop | None = None
    steps: list[Any] = field(default_factory=list)
    carries: list[Item] = field(default_factory=list)
    slices: list[Item] = field(default_factory=list)
    stacks: list[Item] = field(default_factory=list)
    lasts: list[Item] = field(default_factory=list)
    inside: set[Var] = field(default_factory=set)


class Interpreter:
    """Evaluate some variables of a program in the versions that are wanted.

    Args:
        program: The program.
        wanted: Variables and the versions in which they will be read.
        reading: What versions mean.
        collect: Variables inside loops whose values, stacked over substeps, are wanted in the
            versions that are needed of them.
        effects: Equations without results (printing) to evaluate, with their versions.
    """

    def __init__(
        self,
        program: Program,
        wanted: Iterable[tuple[Atom, Any]],
        reading: Reading,
        collect: Collection[Var] = (),
        effects: Collection[Item] = (),
    ):
        self._program = program
        self._reading = reading
        self._collect = frozenset(collect)
        needed: set[Item] = set(effects)
        left = [*wanted, *(read for item in effects for read in self._reads_of(item))]
        while left:
            v, version = left.pop()
            found = None if isinstance(v, Const) else reading.resolve(v, version)
            if found is None or (program.made[v], found) in needed:
                continue
            item = (program.made[v], found)
            needed.add(item)
            left.extend(self._reads_of(item))
        self.items = sorted(needed)
        self._plan = self._schedule(self.items)

    def _reads_of(self, item: Item) -> list[tuple[Atom, Any]]:
        """The operands of an equation, and the versions in which it reads them."""
        i, version = item
        inputs = self._program.equations[i].inputs
        return [(v, self._reading.operand(i, k, version)) for k, v in enumerate(inputs)]

    def _schedule(self, items: Iterable[Item]) -> _Stretch:
        """Sort the items into the loops that they stand in."""
        open_: list[_Stretch] = [_Stretch()]
        for item in items:
            eqn = self._program.equations[item[0]]
            chain = eqn.loops
            while len(open_) > 1 and open_[-1].loop not in chain:
                open_.pop()
            for loop in chain[len(open_) - 1 :]:
                inner = _Stretch(loop)
                open_[-1].steps.append(inner)
                open_.append(inner)
            lists = {
                LOOP_CARRY: open_[-1].carries,
                LOOP_SLICE: open_[-1].slices,
                LOOP_STACK: open_[-1].stacks,
                LOOP_LAST: open_[-1].lasts,
            }
            # what stands for a loop as a whole belongs to the stretch around it
            around = open_[:-1] if eqn.primitive in (LOOP_STACK, LOOP_LAST) else open_
            for stretch in around[1:]:
                stretch.inside.update(eqn.outputs)
            lists.get(eqn.primitive, open_[-1].steps).append(item)
        return open_[0]

    def __call__(
        self,
        given: Callable[[Var, Any], Any],
        adjust: Callable[[Var, Any, Any], Any] | None = None,
        add: Mapping[Var, Mapping[Any, Any]] | None = None,
    ) -> Callable[[Atom, Any], Any]:
        """Evaluate the plan.

        Args:
            given: `(variable, version) -> value` for what is not computed.
            adjust: `(variable, version of the reader, value) -> value`, for every read.
            add: By variable and version, what is added where it is computed; with one leading
                axis per loop that the variable stands in.

        Returns:
            `(variable, version) -> value`, for everything outside loops and for what is collected.
        """
        values: Values = {}
        reads = _Reads(self._reading, given, adjust)
        self._run(self._plan, reads, values, add or {})
        return lambda v, version: reads(v, version, values)

    def _run(self, plan: _Stretch, reads: '_Reads', values: Values, add: Mapping) -> None:
        for step in plan.steps:
            if isinstance(step, _Stretch):
                self._run_loop(step, reads, values, add)
                continue
            i, version = step
            eqn = self._program.equations[i]
            operands = [reads(v, asked, values) for v, asked in self._reads_of(step)]
            for v, value in zip(eqn.outputs, apply_equation(eqn, operands), strict=True):
                extra = add.get(v, {}).get(version)
                values[v, version] = value if extra is None else value + extra

    def _run_loop(self, plan: _Stretch, reads: '_Reads', values: Values, add: Mapping) -> None:
        """Evaluate a loop by `jax.lax.scan`; what it reads from around it is closed over."""

        def asked(item: Item, k: int) -> tuple[Atom, Any]:
            return self._reads_of(item)[k]

        def result(item: Item) -> tuple[Var, Any]:
            return self._program.equations[item[0]].outputs[0], item[1]

        inits: dict[Any, Any] = {
            result(c): _typed(reads(*asked(c, 0), values), result(c)[0]) for c in plan.carries
        }
        ends: dict[Any, tuple[Atom, Any]] = {
            key: asked(c, 1) for key, c in zip(inits, plan.carries, strict=True)
        }
        finals = {}
        for item in plan.lasts:
            end = asked(item, 1)
            key = next((k for k, other in ends.items() if self._same(other, end)), None)
            if key is None:  # the last value in a version that no later substep reads
                key = (result(item), 'last')
                inits[key] = reads(*asked(item, 0), {**values, **inits})
                ends[key] = end
            finals[result(item)] = key
        sequences = {result(s): reads(*asked(s, 0), values) for s in plan.slices}
        added = {v: parts for v, parts in add.items() if v in plan.inside}
        inside = {self._program.made[v]: v for v in plan.inside & self._collect}
        kept = [(inside[i], version) for i, version in self.items if i in inside]

        def body(carry: dict, slices: tuple) -> tuple:
            now = {**values, **{k: c for k, c in carry.items()}, **slices[0]}
            self._run(plan, reads, now, slices[1])
            after = {k: _typed(reads(*end, now), carry[k]) for k, end in ends.items()}
            stacked = {result(s): reads(*asked(s, 0), now) for s in plan.stacks}
            return after, (stacked, {key: now[key] for key in kept})

        last, (stacked, collected) = _scan(body, inits, (sequences, added), plan.loop)
        values.update({key: last[name] for key, name in finals.items()})
        values.update(stacked)
        values.update(collected)

    def _same(self, a: tuple[Atom, Any], b: tuple[Atom, Any]) -> bool:
        (u, version), (v, other) = a, b
        if isinstance(u, Const) or isinstance(v, Const) or u is not v:
            return u is v
        return self._reading.resolve(u, version) == self._reading.resolve(v, other)


class _Reads:
    """Look operands up: constants, what is given, what was computed."""

    def __init__(self, reading: Reading, given: Callable, adjust: Callable | None):
        self._reading, self._given, self._adjust = reading, given, adjust

    def __call__(self, v: Atom, version: Any, values: Values) -> Any:
        if isinstance(v, Const):
            return v.value
        found = self._reading.resolve(v, version)
        value = self._given(v, version) if found is None else values[v, found]
        return value if self._adjust is None else self._adjust(v, version, value)


def _typed(value: Any, like: Any) -> Any:
    """Give a value the dtype that a carry keeps, where it is that of a Python number."""
    if jnp.issubdtype(like.dtype, jax.dtypes.extended):
        return value
    return jax.lax.convert_element_type(value, like.dtype)


def _scan(body: Callable, inits: Mapping, xs: tuple, loop: Loop | None) -> tuple[dict, tuple]:
    """`jax.lax.scan` over dictionaries whose keys have no order of their own."""
    assert loop is not None
    carry_keys, seq_keys, add_keys = (
        list(inits),
        list(xs[0]),
        [(v, k) for v in xs[1] for k in xs[1][v]],
    )
    layout: dict[str, list] = {}

    def step(carry: Sequence, slices: tuple) -> tuple:
        sequences, extra = slices
        added: dict[Any, dict] = {}
        for (v, k), value in zip(add_keys, extra, strict=True):
            added.setdefault(v, {})[k] = value
        after, (stacked, collected) = body(
            dict(zip(carry_keys, carry, strict=True)),
            (dict(zip(seq_keys, sequences, strict=True)), added),
        )
        layout['stacked'], layout['collected'] = list(stacked), list(collected)
        return [after[k] for k in carry_keys], (list(stacked.values()), list(collected.values()))

    last, (stacked, collected) = jax.lax.scan(
        step,
        [inits[k] for k in carry_keys],
        ([xs[0][k] for k in seq_keys], [xs[1][v][k] for v, k in add_keys]),
        length=loop.length,
    )
    return dict(zip(carry_keys, last, strict=True)), (
        dict(zip(layout['stacked'], stacked, strict=True)),
        dict(zip(layout['collected'], collected, strict=True)),
    )


def run(
    program: Program,
    inputs: Sequence[Any],
    collect: Collection[Var] = (),
    *,
    effects: bool = True,
    add: Mapping[Var, Any] | None = None,
) -> Callable[[Atom], Any]:
    """Evaluate a whole program as it stands.

    Args:
        program: The program.
        inputs: One value per program input.
        collect: Variables inside loops whose values, stacked over substeps, are wanted.
        effects: Whether to evaluate equations without results (printing).
        add: By variable, what is added where it is computed; with one leading axis per loop
            that the variable stands in.

    Returns:
        The value of every variable outside loops, and of those collected.
    """
    made = [v for e in program.equations for v in e.outputs if not program.loops_of(v)]
    wanted = [(v, ()) for v in (*made, *collect)]
    printing = [(i, ()) for i, e in enumerate(program.equations) if effects and not e.outputs]
    interpreter = Interpreter(program, wanted, Plain(program), collect, printing)
    known = dict(zip(program.inputs, inputs, strict=True))
    read = interpreter(lambda v, _: known[v], add={v: {(): x} for v, x in (add or {}).items()})
    return lambda v: read(v, ())
