"""Compiled loops: functions of states under `jit`, kept so that no second call compiles."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import brainstate
import jax

from etrace_algorithms.memory import PeakMemory
from etrace_compiler import is_traced
from etrace_compiler.errors import explain_error

__all__ = ['DriveCache', 'shape_dtype']


class DriveCache:
    """Compiled loops over sequences, so that the second call of one compiles nothing.

    A step function is traced once for all calls with the same shapes, as by `jit`: what it
    reads besides its arguments and states is fixed by then. The trace is updated in place.
    Inside a transformation the loop is part of what is being traced, and nothing is kept.
    """

    def __init__(self, size: int = 16):
        self._size = size
        self._kept: OrderedDict[Any, _Loop] = OrderedDict()

    def __call__(self, key: Any, run: Callable, learner: Any, *data: Any) -> Any:
        """Run a loop on data, compiled unless it is being traced."""
        states = learner.states().values()
        if is_traced((data, [state.value for state in states])):
            return run(*data)
        return self._loop(key, run, learner)(*data)

    def memory(self, key: Any, run: Callable, learner: Any, *data: Any) -> PeakMemory:
        """Compile a loop for data of some shapes, and say what it needs."""
        return self._loop(key, run, learner).memory(*data)

    def _loop(self, key: Any, run: Callable, learner: Any) -> '_Loop':
        # a compiled loop holds the states that it was traced with: new ones need a new loop
        key = (key, *map(id, learner.states().values()))
        if key not in self._kept:
            self._kept[key] = _Loop(run, learner.etrace)
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Forget every loop."""
        self._kept.clear()


class _Loop:
    """`jit` of a function of states, which gives the memory of one state to its new value."""

    def __init__(self, run: Callable, in_place: brainstate.State | None):
        self._function = function = brainstate.transform.StatefulFunction(run)
        self._in_place = in_place

        def call(given: dict[int, Any], values: dict[int, Any], *data: Any) -> Any:
            merged = {**values, **given}
            return function.jaxpr_call([merged[i] for i in range(len(merged))], *data)

        self._jitted = jax.jit(call, donate_argnums=0)

    def __call__(self, *data: Any) -> Any:
        """Run it on data, and write the states."""
        states, written = self._states(*data)
        new, out = self._jitted(*self._arguments(states, written), *data)
        for state, value in zip(states, new, strict=True):
            if id(state) in written:
                state.value = value
        return out

    def memory(self, *data: Any) -> PeakMemory:
        """Compile it for data of these shapes."""
        arguments = self._arguments(*self._states(*data))
        return PeakMemory.of(self._jitted.lower(*arguments, *data).compile())

    def _states(self, *data: Any) -> tuple[Any, set[int]]:
        """The states that it reads or writes, and which it writes."""
        states = self._function.get_states(*data)
        return states, {id(state) for state in self._function.get_write_states(*data)}

    def _arguments(self, states: Any, written: set[int]) -> tuple[dict, dict]:
        """Values of states by number: those whose memory is given away, and the others."""
        values = {i: state.value for i, state in enumerate(states)}
        if self._in_place is not None:
            _check_alive(self._in_place)
        given = {i: values.pop(i) for i, state in enumerate(states)
                 if state is self._in_place and id(state) in written}  # fmt: skip
        return given, values


def _check_alive(state: brainstate.State) -> None:
    """Check that a state holds arrays whose memory was not given away."""
    if any(x.is_deleted() for x in jax.tree.leaves(state.value) if isinstance(x, jax.Array)):
        raise ValueError(
            explain_error(
                'trace',
                'is gone',
                got='arrays that an earlier call has updated in place',
                expected='arrays of its own',
                fix='Keep a copy, jax.tree.map(jnp.copy, learner.etrace.value), and put that back.',
                code='ETA112',
            )
        )


def shape_dtype(x: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of an array, a number or a `jax.ShapeDtypeStruct`."""
    found = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    return found.shape, found.dtype
