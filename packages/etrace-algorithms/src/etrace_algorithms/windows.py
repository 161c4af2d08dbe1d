"""The window engine: gradients of a step function over windows of fixed parameters.

The step function is traced once, and the trace is read in two ways. *Recording* runs the steps
of a window one after the other, for the values of the states alone. *Probing* evaluates all of
them side by side, by vmap over steps from the recorded states, with taps in place of the
learner's credit: their cotangents, and the linearisations of all steps, go to the learning rule.
Products that recording has computed are not computed again.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms.credit import Taps
from etrace_algorithms.memory import array_bytes
from etrace_compiler import Linearisation, Replay

__all__ = ['Unsuitable', 'WindowEngine']

Values = dict[int, Any]

#: Results of products, by class of equal values.
Products = dict[Hashable, Any]


class Unsuitable(Exception):
    """A step function that can only be run step by step; the message says why."""


class WindowEngine:
    """A step function that is run window by window.

    Args:
        learner: A learner of the kind `'single-step'`.
        function: `(*slices) -> (loss, rest)`; calls the learner once.
        slices: Arguments of one step; shapes and dtypes count.
        weights: States to differentiate with respect to.

    Raises:
        Unsuitable: If it can only be run step by step.
    """

    def __init__(
        self, learner: Any, function: Callable, slices: tuple, weights: Sequence[brainstate.State]
    ):
        if not learner.graph.hidden_param_op_relations:
            raise Unsuitable('no parameter of its model drives a hidden state')
        step = brainstate.transform.StatefulFunction(function, return_only_write=False)
        step.make_jaxpr(*slices)
        self._learner, self._weights = learner, weights
        self._states = step.get_states(*slices)
        written = {id(state) for state in step.get_write_states(*slices)}
        if any(id(s) in written for s in (*learner.param_states.values(), *weights)):
            raise Unsuitable('it writes a parameter')
        out_tree = jax.tree.structure(step.get_out_shapes(*slices)[0])
        self._out_tree = out_tree
        self._inputs: dict[int, range] = {}
        self._start = len(jax.tree.leaves(slices))
        self._read_layout(self._start)
        self._carried = [s for s in self._states if id(s) in written and s is not learner.etrace]

        replay = Replay(step.get_jaxpr(*slices), learner.credit_name)
        if not replay.replaceable:
            raise Unsuitable(_REASONS[min(replay.calls, 2)])
        if not self._carries_trace(replay):
            raise Unsuitable('it changes the trace')
        ends = self._ends(self._of(self._carried))
        self._operands, self._credited = self._linearisation_operands()
        self._linearised = replay.operand_shapes(self._operands)
        self._probe = replay.part(range(out_tree.num_leaves), self._operands)
        again = self._probe.products
        record = replay.part(ends, effects=True)
        self._shared = {c: v for c, v in record.products.items() if c in again}
        self._record = replay.part(ends, effects=True, values=self._shared.values())
        self._kept = replay.value_shapes(self._shared.values())
        read = self._probe.inputs | self._record.inputs
        if not read.isdisjoint(self._of([learner.etrace])):
            raise Unsuitable('it reads the trace')
        if self._probe.bends(self._of(weights), [*range(self._start), *self._of(self._carried)]):
            raise Unsuitable('a derivative rule that is not linear acts on a parameter alone')
        if self._probe.draws_anew:
            raise Unsuitable('keys of `rbg` draw other numbers for several steps than for one')
        if self._probe.effects:
            raise Unsuitable('what it prints cannot be told from what it computes')

    def _read_layout(self, start: int) -> None:
        """Find the inputs of the traced step that hold each state."""
        for state in self._states:
            stop = start + len(jax.tree.leaves(state.value))
            self._inputs[id(state)] = range(start, stop)
            start = stop

    def _of(self, states: Sequence[brainstate.State]) -> list[int]:
        """The inputs that hold some states."""
        return [i for s in states for i in self._inputs.get(id(s), ())]

    def _ends(self, inputs: Sequence[int]) -> list[int]:
        """The results of the traced step that are the new values of what states held."""
        return [i + self._out_tree.num_leaves - self._start for i in inputs]

    def _carries_trace(self, replay: Replay) -> bool:
        """Whether the learner begins with the trace that states hold, and leaves its own there."""
        tree = self._learner.credit_tree
        before, after, _ = tree.unflatten(range(tree.num_leaves))[2]
        first = replay.sources(operands=jax.tree.leaves(before))
        held = {i for values in self._inputs.values() for i in values}
        if not held.issuperset(first):
            return False
        last = replay.sources(operands=jax.tree.leaves(after))
        return replay.sources(self._ends(first)) == last

    def _linearisation_operands(self) -> tuple[list[int], Any]:
        """Which operands of the credit hold the linearisation, all but its parameters."""
        tree = self._learner.credit_tree
        params, _, (_, _, lin) = tree.unflatten(range(tree.num_leaves))
        moving = {key: value for key, value in lin.states.items() if key not in params}
        return jax.tree.flatten(replace(lin, states=moving))

    @property
    def step_bytes(self) -> int:
        """Bytes that one step of a window takes: states, products, taps, linearisation."""
        states = [x for s in self._carried for i, x in self._values([s]).items()
                  if i in self._probe.inputs]  # fmt: skip
        return array_bytes((states, self._kept, self._taps(), self._linearised))

    def run(self, data: tuple, window: int, carry_trace: bool) -> tuple[list[Any], Any]:
        """Run all steps, and advance the states.

        Args:
            data: Arguments of the steps, stacked.
            window: Steps per window; the last one may be shorter.
            carry_trace: Whether to advance the trace as well.

        Returns:
            The gradient of the sum of the losses, per weight; and the rest, stacked.
        """
        if self._record.effects:  # what recording prints must not be printed again, step by step
            self._try_probing(data)
        zeros = [jax.tree.map(jnp.zeros_like, s.value) for s in self._weights]
        before = self._learner._get_etrace_data()
        carry = (zeros, self._values(self._carried), before)
        steps = len(jax.tree.leaves(data)[0])
        whole = steps // window * window
        parts = []
        if whole > window:
            chunks = jax.tree.map(lambda x: x[:whole].reshape((-1, window, *x.shape[1:])), data)
            carry, rest = jax.lax.scan(self._window, carry, chunks)
            parts.append(jax.tree.map(lambda x: x.reshape((whole, *x.shape[2:])), rest))
        elif whole:
            onward = carry_trace or whole < steps
            carry, rest = self._window(carry, jax.tree.map(lambda x: x[:whole], data), onward)
            parts.append(rest)
        if whole < steps:
            carry, rest = self._window(carry, jax.tree.map(lambda x: x[whole:], data), carry_trace)
            parts.append(rest)
        gradients, carried, trace = carry
        for state in self._carried:
            leaves = [carried[i] for i in self._inputs[id(state)]]
            state.value = jax.tree.structure(state.value).unflatten(leaves)
        self._learner._assign_etrace_data(trace if carry_trace else before)
        return gradients, jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)

    def _values(self, states: Sequence[brainstate.State]) -> Values:
        """Current values of states by input."""
        return {
            i: leaf
            for s in states
            for i, leaf in zip(self._inputs[id(s)], jax.tree.leaves(s.value), strict=True)
        }

    def _window(self, carry: tuple, slices: tuple, onward: bool = True) -> tuple[tuple, Any]:
        """Record, probe and solve one window; without the trace after it, if it is the last."""
        learner = self._learner
        gradients, carried, trace = carry
        carried, entered, products = self._record_steps(carried, slices)
        found, taps, rest, lin = self._probe_steps(entered, products, slices)
        info = learner.graph.module_info
        live = learner.executor.states
        params = {s.key: live[s.path].value for s in info.by_role('param')}
        lin = replace(lin, states={**lin.states, **params})
        credited, trace = learner.solve_window(params, trace, lin, taps, onward)
        by_state = {id(live[s.path]): credited[s.key] for s in info.by_role('param')}
        gradients = [
            jax.tree.map(jnp.add, total, new) for total, new in zip(gradients, found, strict=True)
        ]
        gradients = [
            jax.tree.map(jnp.add, total, by_state[id(s)]) if id(s) in by_state else total
            for total, s in zip(gradients, self._weights, strict=True)
        ]
        return (gradients, carried, trace), rest

    def _arguments(self, slices: tuple) -> Values:
        return dict(enumerate(jax.tree.leaves(slices)))

    def _record_steps(self, carried: Values, slices: tuple) -> tuple[Values, Values, Products]:
        """Advance the states; keep those before each step, and products, that probing reads."""
        keys = list(carried)
        kept = [k for k in keys if k in self._probe.inputs]
        fixed = self._values(self._states)
        taps = jax.tree.leaves(self._taps())

        def step(now: Values, args: tuple) -> tuple[Values, tuple]:
            found, _ = self._record({**fixed, **now, **self._arguments(args)}, taps)
            ends, products = found[: len(keys)], found[len(keys) :]
            after = {
                k: jax.lax.convert_element_type(value, now[k].dtype)
                if not jnp.issubdtype(now[k].dtype, jax.dtypes.extended)
                else value
                for k, value in zip(keys, ends, strict=True)
            }
            return after, ({k: now[k] for k in kept}, products)

        last, (entered, products) = jax.lax.scan(step, carried, slices)
        return last, entered, dict(zip(self._shared, products, strict=True))

    def _probe_steps(
        self, entered: Values, products: Products, slices: tuple
    ) -> tuple[list, Taps, Any, Linearisation]:
        """Differentiate all steps side by side.

        Returns:
            The gradient per weight of what does not pass a marked operation; the cotangents of
            the taps; what the steps return beside their losses; their linearisations.
        """
        fixed = self._values(self._states)
        steps = len(jax.tree.leaves(slices)[0])

        def probe(weights: list, taps: Taps, now: Values, products: list, args: tuple) -> tuple:
            given = dict(fixed)
            for state, value in zip(self._weights, weights, strict=True):
                where = self._inputs.get(id(state), range(0))
                given.update(zip(where, map(_wide_gradient, jax.tree.leaves(value)), strict=False))
            given |= {**now, **self._arguments(args)}
            known = dict(zip(self._shared, products, strict=True))
            results, operands = self._probe(given, jax.tree.leaves(taps), known)
            loss, rest = self._out_tree.unflatten(results)
            return loss, rest, self._credited.unflatten(operands)

        def total(weights: list, taps: Taps) -> tuple[Any, tuple]:
            stacked = (taps, entered, [*products.values()], slices)
            losses, rest, lin = jax.vmap(probe, (None, 0, 0, 0, 0))(weights, *stacked)
            return jnp.sum(losses), (rest, lin)

        values = [state.value for state in self._weights]
        try:
            loss, pull, (rest, lin) = jax.vjp(total, values, self._taps(steps), has_aux=True)
        except NotImplementedError as reason:  # from `jax.vmap`
            raise Unsuitable(f'its steps cannot be evaluated side by side: {reason}') from reason
        found, taps = pull(jnp.ones_like(loss))
        return found, taps, rest, lin

    def _try_probing(self, data: tuple) -> None:
        """Find out from shapes whether steps can be evaluated side by side."""

        def stacked(x: Any) -> Any:
            return jax.ShapeDtypeStruct((1, *x.shape), x.dtype)

        held = self._values(self._carried)
        entered = {i: stacked(x) for i, x in held.items() if i in self._probe.inputs}
        slices = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), data)
        jax.eval_shape(
            lambda entered, products, slices: self._probe_steps(
                entered, dict(zip(self._shared, products, strict=True)), slices
            ),
            *(entered, [stacked(x) for x in self._kept], slices),
        )

    def _taps(self, *axes: int) -> Taps:
        return self._learner.make_taps(*axes)


def _wide_gradient(weight: Any) -> Any:
    """Return a weight as it is, whose gradient over many steps is computed with wide rows.

    The sum of outer products of a matrix of few columns takes XLA on a CPU several times as long
    as that of its transpose; it is kept from transposing the product back.
    """
    if weight.ndim != 2 or weight.shape[0] < 2 * weight.shape[1]:
        return weight
    return jax.lax.optimization_barrier(weight.T).T


_REASONS = (
    'it does not call the learner for one step',
    'it calls the learner inside a loop, a branch or a function with a derivative of its own',
    'it calls the learner more than once',
)
