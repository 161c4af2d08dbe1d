"""The learner shell: a learning rule inside automatic differentiation.

A learner is called in place of its model. It advances states and traces, and whatever
gradient is taken through it, `jax.grad` or `brainstate.transform.grad` of any loss, is the
online gradient of its rule.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms import drive
from etrace_algorithms.batching import (
    inside_axes,
    linearisation_axes,
    map_batch,
    split_keys,
)
from etrace_algorithms.credit import Taps, make_anchor, make_taps, pull_back
from etrace_algorithms.memory import PeakMemory
from etrace_algorithms.rule import Gradients
from etrace_algorithms.solve import solve_step, solve_steps
from etrace_algorithms.traced import TracedAlgorithm
from etrace_algorithms.validation import check_arguments, check_states, check_vjp_method
from etrace_compiler import (
    ControlFlowPolicy,
    Linearisation,
    is_traced,
    run_step,
    split_input_data,
)

__all__ = ['ETraceVjpAlgorithm']

_COUNT = itertools.count()


class ETraceVjpAlgorithm(TracedAlgorithm):
    r"""A learner whose gradient enters automatic differentiation by a custom VJP.

    A subclass either gives a `rule`, or overrides the four hooks `_update_etrace_data`,
    `_solve_weight_gradients`, `_get_etrace_data` and `_assign_etrace_data`.

    With `vjp_method='single-step'` every step is credited by its own learning signal
    $\partial\ell_t/\partial h_t$. With `'multi-step'` one call is a window of `k` steps,
    given as `MultiStepData` (or one step): inside the window the gradient is that of ordinary
    automatic differentiation, and the trace at its entry is credited with
    $\partial\ell/\partial h_{t-k}$.

    Args:
        model: A module that does one time step.
        name: Name of the learner.
        vjp_method: `'single-step'` or `'multi-step'`.
        control_flow: What to do with loops and branches inside the step.

    Raises:
        TypeError: If `model` is not a `brainstate.nn.Module`.
        ValueError: If `vjp_method` is unknown.
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        name: str | None = None,
        vjp_method: str = 'single-step',
        control_flow: ControlFlowPolicy | None = None,
    ):
        super().__init__(model, name, control_flow)
        self.vjp_method = check_vjp_method(vjp_method)
        self._inside_window = False

        self.credit_name = f'etrace_credit_{next(_COUNT)}'
        self.credit_tree: Any = None
        self._credit = self._make_credit()
        self._jitted: Any = None

    def compile_graph(self, *args: Any) -> None:
        """Compile the graph; see `ETraceAlgorithm.compile_graph`."""
        super().compile_graph(*args)
        self._jitted = None  # it holds the old graph

    # ------------------------------------------------------------ one call

    def update(self, *args: Any) -> Any:
        """Run the model for one step, or for the steps of a `MultiStepData`.

        Args:
            *args: Arguments of the step: bare data, `SingleStepData`, or `MultiStepData`, in any
                mix. Single-step arguments are repeated at each step.

        Returns:
            The model's output; stacked over steps if there is a `MultiStepData`.

        Raises:
            ValueError: If the graph is not compiled, or the arguments have other shapes or
                dtypes than those it was compiled for. States and traces are then unchanged.
        """
        bare, multi, length = split_input_data(args)
        check_arguments(self.graph.module_info, bare, multi, self.batch_axis_size)
        states = self.executor.state_values()
        check_states(self.graph.module_info, states, self.batch_axis_size)
        data = self._get_etrace_data()
        run = self._update
        if not is_traced((bare, states, data)):
            run = self._jitted = self._jitted or jax.jit(self._update, static_argnums=3)
        out, new, data = run(bare, states, data, multi)
        live = self.executor.states
        for spec in self.graph.module_info.states:
            if spec.written and spec.role != 'param':
                live[spec.path].value = new[spec.key]
        self._assign_etrace_data(data)
        self.running_index.value = self.running_index.value + (length or 1)
        return out

    def _update(
        self, args: tuple, states: Mapping[str, Any], data: Any, multi: tuple[bool, ...]
    ) -> tuple[Any, dict[str, Any], Any]:
        """Advance states and trace: a pure function of arrays."""
        if self.batch_axis_size is None:
            return self._advance(args, states, data, multi)
        states, keys = split_keys(self.graph.module_info, states, self.batch_axis_size)
        out, new, data = self._advance(args, states, data, multi)
        return out, {**new, **keys}, data  # one key for the whole batch

    def _advance(
        self, args: tuple, states: Mapping[str, Any], data: Any, multi: tuple[bool, ...]
    ) -> tuple[Any, dict[str, Any], Any]:
        if self.vjp_method == 'single-step':
            step = self._single_step
        else:
            states = states if self._inside_window else self._enter_window(states, data)
            step = self._plain_step
        if not any(multi):
            return step(args, states, data)

        constant = self._params(states)
        carried = {key: value for key, value in states.items() if key not in constant}

        def body(carry: tuple, repeated: tuple) -> tuple:
            now = iter(repeated)
            step_args = tuple(
                next(now) if is_multi else a for a, is_multi in zip(args, multi, strict=True)
            )
            out, new, data = step(step_args, {**constant, **carry[0]}, carry[1])
            return (new, data), out

        sequences = tuple(a for a, is_multi in zip(args, multi, strict=True) if is_multi)
        (carried, data), out = jax.lax.scan(body, (carried, data), sequences)
        return out, carried, data

    def _single_step(
        self, args: tuple, states: Mapping[str, Any], data: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        lin = self._linearise(args, states)
        data = jax.lax.stop_gradient(data)
        after = self._carry(data, lin)
        credited = (self._params(states), make_anchor(args, states), (data, after, lin))
        self.credit_tree = jax.tree.structure(credited)
        taps = self._credit(*credited)
        if self.signal_at == 'old':
            out, new = self._run_plainly(args, self._enter(states, taps))
        else:
            evaluate = self._mapped(lambda a, s, t: self.executor.evaluator(a, s, *t), 0)
            out, new = evaluate(args, states, (taps.new, taps.old, taps.results))
        return taps.on_outputs(out), self._without_params(new), after

    def _plain_step(
        self, args: tuple, states: Mapping[str, Any], data: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        lin = self._linearise(args, states)  # what the model prints, it prints here
        out, new = self._run_plainly(args, states)
        return out, self._without_params(new), self._carry(data, lin)

    def _run_plainly(self, args: tuple, states: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Run one step with all of its ordinary derivatives."""
        info = self.graph.module_info
        return self._mapped(lambda a, s: run_step(info, a, s, effects=False)[:2])(args, states)

    def _enter_window(self, states: Mapping[str, Any], data: Any) -> dict[str, Any]:
        """Detach the states that enter a window, and credit the trace with what acts on them."""
        history = (jax.lax.stop_gradient(data), None, None)
        taps = self._credit(self._params(states), make_anchor((), states), history)
        return self._enter(states, taps)

    def _enter(self, states: Mapping[str, Any], taps: Taps) -> dict[str, Any]:
        """Detach states, and add taps to the hidden ones."""
        params = self._params(states)
        entered = {
            key: value if key in params else jax.lax.stop_gradient(value)
            for key, value in states.items()
        }
        for group, zeros in zip(self.graph.hidden_groups, taps.new, strict=True):
            for spec, zero in zip(group.hidden_states, zeros, strict=True):
                value = jax.tree.leaves(entered[spec.key])[0]
                entered[spec.key] = spec.treedef.unflatten([value + zero])
        return entered

    # ------------------------------------------------------------ parts of a step

    def _mapped(self, function: Callable, *rest: Any, out_axes: Any = 0) -> Callable:
        """Run a function of `(args, states, ...)` for every element of the batch."""
        axes = (0, inside_axes(self.graph.module_info), *rest)
        return map_batch(self.batch_axis_size, function, axes, out_axes)

    def _linearise(self, args: tuple, states: Mapping[str, Any]) -> Linearisation:
        axes = linearisation_axes(self.graph)
        return self._mapped(lambda a, s: self.executor.lineariser(a, s)[2], out_axes=axes)(
            args, states
        )

    def _carry(self, data: Any, lin: Linearisation) -> Any:
        axes = (0, linearisation_axes(self.graph))
        return jax.lax.stop_gradient(
            map_batch(self.batch_axis_size, self._update_etrace_data, axes)(data, lin)
        )

    def _params(self, states: Mapping[str, Any]) -> dict[str, Any]:
        return {s.key: states[s.key] for s in self.graph.module_info.by_role('param')}

    def _without_params(self, states: Mapping[str, Any]) -> dict[str, Any]:
        params = {s.key for s in self.graph.module_info.by_role('param')}
        return {key: value for key, value in states.items() if key not in params}

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """Make the calls inside this context one window of a `'multi-step'` learner.

        States that enter the first call are detached and credited with the trace, as at the
        beginning of every window; from call to call they are not detached again.
        """
        entered = self._enter_window(self.executor.state_values(), self._get_etrace_data())
        live = self.executor.states
        for spec in self.graph.module_info.states:
            if spec.role != 'param':
                live[spec.path].value = entered[spec.key]
        self._inside_window = True
        try:
            yield
        finally:
            self._inside_window = False

    # ------------------------------------------------------------ the custom VJP

    def _make_credit(self) -> Callable[..., Taps]:
        """Make the function with the custom VJP, under a name that marks it in a jaxpr."""

        def etrace_credit(params: Mapping[str, Any], anchor: Any, history: tuple) -> Taps:
            return self._update_fwd(params, anchor, history)[0]

        etrace_credit.__name__ = self.credit_name
        credit = jax.custom_vjp(etrace_credit)
        credit.defvjp(self._update_fwd, self._update_bwd)
        return jax.jit(credit)

    def _update_fwd(
        self, params: Mapping[str, Any], anchor: Any, history: tuple
    ) -> tuple[Taps, Any]:
        """Forward half of the custom VJP: taps of zeros, and what their credit needs."""
        return self.make_taps(anchor=anchor, window=history[2] is None), (params, history)

    def _update_bwd(self, residuals: tuple, cotangents: Taps) -> tuple[Any, None, None]:
        """Backward half: cotangents of the taps become gradients of the parameters."""
        params, (before, after, lin) = residuals
        axes = (0, 0, None if lin is None else linearisation_axes(self.graph), 0)
        solve = map_batch(self.batch_axis_size, partial(solve_step, self), axes)
        gradients = solve(before, after, lin, cotangents)
        gradients = self._sum_batch(gradients)
        return pull_back(self.graph, params, gradients, self.credits), None, None

    def _sum_batch(self, gradients: Gradients) -> Gradients:
        if self.batch_axis_size is None:
            return gradients
        return jax.tree.map(lambda g: jnp.sum(g, axis=0), dict(gradients))

    def make_taps(self, *axes: int, anchor: Any = None, window: bool = False) -> Taps:
        """Return the taps that the credit of one step, or of the entry of a window, needs.

        Args:
            *axes: Leading axes beside that of the batch.
            anchor: A zero to add to each.
            window: Whether it is the entry of a window.
        """
        if self.batch_axis_size is not None:
            axes = (*axes, self.batch_axis_size)
        return make_taps(
            self.graph,
            self.executor.evaluator.bypassed,
            axes=axes,
            anchor=anchor,
            window=window or self.signal_at == 'old',
            outputs=not window and getattr(getattr(self, 'rule', None), 'reads_output', False),
        )

    # ------------------------------------------------------------ windows of fixed parameters

    def solve_window(
        self,
        params: Mapping[str, Any],
        data: Any,
        lin: Linearisation,
        taps: Taps,
        onward: bool = True,
    ) -> tuple[dict[str, Any], Any]:
        """Solve several steps with fixed parameters at once.

        Args:
            params: Values of the parameters, by key.
            data: The trace before them.
            lin: The steps, stacked on a leading axis (all but parameters).
            taps: The cotangents of their taps, stacked.
            onward: Whether the trace after them is wanted.

        Returns:
            The gradients of the parameters by key, without what does not pass a marked
            operation; and the trace after the steps, or that before them.
        """
        axes = (0, linearisation_axes(self.graph, 1), 1)
        solve = map_batch(self.batch_axis_size, partial(solve_steps, self, onward), axes)
        gradients, data = solve(data, lin, taps)
        return pull_back(self.graph, params, self._sum_batch(gradients), self.credits), data

    # ------------------------------------------------------------ sequences and batches

    def etrace_grad(self, *sequences: Any, **options: Any) -> Any:
        """Accumulate online gradients over a sequence; see `etrace_algorithms.etrace_grad`."""
        return drive.etrace_grad(self, *sequences, **options)

    def peak_memory(self, *sequences: Any, **options: Any) -> PeakMemory:
        """Say what `etrace_grad` would need at once; see `etrace_algorithms.peak_memory`."""
        return drive.peak_memory(self, *sequences, **options)

    def etrace_evolve(self, *sequences: Any, **options: Any) -> Any:
        """Advance over a sequence without gradients; see `etrace_algorithms.etrace_evolve`."""
        return drive.etrace_evolve(self, *sequences, **options)
