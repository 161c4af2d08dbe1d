"""The learner shell: a learning rule inside automatic differentiation.

A learner is called in place of its model. It advances states and traces, and whatever
gradient is taken through it, `jax.grad` or `brainstate.transform.grad` of any loss, is the
online gradient of its rule.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms import drive
from etrace_algorithms.batching import split_keys, state_axes
from etrace_algorithms.learner import EligibilityTrace, ETraceAlgorithm
from etrace_algorithms.memory import (
    MemoryPlan,
    assemble_plan,
    measure_trace,
    parse_bytes,
    step_linearisation,
)
from etrace_algorithms.rule import Gradients, LearningRule, LearningSignal
from etrace_algorithms.validation import check_arguments, check_states, check_vjp_method
from etrace_compiler import (
    ControlFlowPolicy,
    Linearisation,
    effective_weights,
    is_traced,
    path_key,
    run_step,
    split_input_data,
)
from etrace_compiler.errors import explain_error

__all__ = ['ETraceVjpAlgorithm']


class ETraceVjpAlgorithm(ETraceAlgorithm):
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

    rule: LearningRule

    def __init__(
        self,
        model: brainstate.nn.Module,
        name: str | None = None,
        vjp_method: str = 'single-step',
        control_flow: ControlFlowPolicy | None = None,
    ):
        super().__init__(model, name, control_flow)
        self.vjp_method = check_vjp_method(vjp_method)
        self.etrace: EligibilityTrace | None = None
        self._inside_window = False

        credit = jax.custom_vjp(lambda params, hidden, history: self._zeros(hidden, history))
        credit.defvjp(self._update_fwd, self._update_bwd)
        self._credit = credit
        self._jitted: Any = None

    # ------------------------------------------------------------ the four hooks

    def _get_etrace_data(self) -> Any:
        """Return the trace, a pytree of arrays."""
        return None if self.etrace is None else self.etrace.value

    def _assign_etrace_data(self, data: Any) -> None:
        """Store the trace, in a new state if another model left one of another structure."""
        old = None if self.etrace is None else jax.tree.structure(self.etrace.value)
        if self.etrace is None or old != jax.tree.structure(data):
            self.etrace = EligibilityTrace(data)
        else:
            self.etrace.value = data

    def _update_etrace_data(self, data: Any, lin: Linearisation) -> Any:
        """Advance the trace by one step."""
        return self.rule.update(data, lin)

    def _solve_weight_gradients(
        self,
        before: Any,
        after: Any,
        lin: Linearisation | None,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        """Return the part of the gradient that comes from before the step or window.

        Args:
            before: The trace before it.
            after: The trace after it; `None` for a window.
            lin: The step; `None` for a window.
            signal: At the new states of a step, or at the states that enter a window.
            bypass: See `LearningRule.history`.
        """
        if lin is None:
            return self.rule.credit(before, signal)
        return self.rule.history(before, after, lin, signal, bypass)

    # ------------------------------------------------------------ trace life cycle

    def init_etrace_state(self, *args: Any, **kwargs: Any) -> None:
        """Set the trace to its beginning."""
        trace = self.rule.init(self.graph)
        if self.batch_axis_size is not None:
            size = self.batch_axis_size
            trace = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), trace)
        self._assign_etrace_data(trace)

    def compile_graph(self, *args: Any) -> None:
        """Compile the graph; see `ETraceAlgorithm.compile_graph`."""
        super().compile_graph(*args)
        self._jitted = None  # it holds the old graph

    def get_etrace_of(self, weight: brainstate.ParamState | tuple[str, ...] | str) -> dict:
        """Return the parts of the trace that belong to a parameter.

        Args:
            weight: The parameter, or its path.

        Returns:
            What the trace holds under the relations of this parameter, by relation key.

        Raises:
            ValueError: If the parameter has no trace; the reason is in the message.
        """
        if isinstance(weight, brainstate.State):
            weight = self.executor.state_id_to_path.get(id(weight), ('?',))
        key = path_key(weight)
        keys = {
            r.key
            for r in self.graph.hidden_param_op_relations
            if key in map(path_key, r.trainable_paths)
        }
        if not keys:
            reasons = '; '.join(r.message for r in self.graph.explain(weight_path=key))
            raise ValueError(
                explain_error(
                    key,
                    'has no eligibility trace',
                    got=reasons or 'a parameter that the model does not have',
                    expected='a weight that drives a hidden state',
                    fix='See learner.show_graph() for the weights that have one.',
                    code='ETA102',
                )
            )
        return _pick(self._get_etrace_data(), keys)

    def memory_plan(self, budget: int | str | None = None) -> MemoryPlan:
        """Say what this learner keeps and moves; `etrace_algorithms.memory_plan` compares others.

        Args:
            budget: Bytes that may be used, a number or text such as `'512 MB'`.

        Raises:
            ValueError: If `compile_graph` has not been called.
        """
        limit = None if budget is None else parse_bytes(budget)
        lin, copies = step_linearisation(self.graph), self.batch_axis_size
        trace = self._get_etrace_data()
        if copies is not None:
            trace = jax.eval_shape(lambda data: jax.tree.map(lambda x: x[0], data), trace)
        rule = getattr(self, 'rule', None)  # a learner may override the hooks instead
        promise = 'undeclared' if rule is None else rule.exactness
        name = self.name or type(self).__name__
        cost = measure_trace(name, promise, trace, self._update_etrace_data, lin, copies)
        return assemble_plan(self.graph, [cost], copies, limit)

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
        info = self.graph.module_info
        arg_axes = tuple(1 if is_multi else 0 for is_multi in multi)
        batched, keys = split_keys(info, states, self.batch_axis_size)
        axes = {**state_axes(info), **dict.fromkeys(keys, 0)}
        out, new, data = jax.vmap(
            lambda a, s, d: self._advance(a, s, d, multi),
            in_axes=(arg_axes, axes, 0),
            out_axes=(1 if any(multi) else 0, 0, 0),
        )(args, batched, data)
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

        constant = {s.key: states[s.key] for s in self.graph.module_info.by_role('param')}
        carried = {key: value for key, value in states.items() if key not in constant}

        def body(carry: tuple, repeated: tuple) -> tuple:
            now = iter(repeated)
            step_args = tuple(
                next(now) if is_multi else a for a, is_multi in zip(args, multi, strict=True)
            )
            out, new, data = step(step_args, {**constant, **carry[0]}, carry[1])
            return ({key: new[key] for key in carried}, data), out

        sequences = tuple(a for a, is_multi in zip(args, multi, strict=True) if is_multi)
        (carried, data), out = jax.lax.scan(body, (carried, data), sequences)
        return out, {**constant, **carried}, data

    def _single_step(
        self, args: tuple, states: Mapping[str, Any], data: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        _, _, lin = self.executor.lineariser(args, states)
        data = jax.lax.stop_gradient(data)
        after = jax.lax.stop_gradient(self._update_etrace_data(data, lin))
        hidden = jax.lax.stop_gradient(self._hidden(states))
        p, q = self._credit(self._params(states), hidden, (data, after, lin))
        out, new = self.executor.evaluator(args, states, p, q)
        return out, new, after

    def _plain_step(
        self, args: tuple, states: Mapping[str, Any], data: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        _, _, lin = self.executor.lineariser(args, states)  # what the model prints, it prints here
        out, new, _ = run_step(self.graph.module_info, args, states, effects=False)
        return out, new, jax.lax.stop_gradient(self._update_etrace_data(data, lin))

    def _enter_window(self, states: Mapping[str, Any], data: Any) -> dict[str, Any]:
        """Detach the states that enter a window, and credit the trace with what acts on them."""
        params = self._params(states)
        entered = {
            key: value if key in params else jax.lax.stop_gradient(value)
            for key, value in states.items()
        }
        history = (jax.lax.stop_gradient(data), None, None)
        p, _ = self._credit(params, self._hidden(entered), history)
        for group, zeros in zip(self.graph.hidden_groups, p, strict=True):
            for spec, zero in zip(group.hidden_states, zeros, strict=True):
                value = jax.tree.leaves(entered[spec.key])[0]
                entered[spec.key] = spec.treedef.unflatten([value + zero])
        return entered

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """Make the calls inside this context one window of a `'multi-step'` learner.

        States that enter the first call are detached and credited with the trace, as at the
        beginning of every window; from call to call they are not detached again.
        """
        enter = self._enter_window
        if self.batch_axis_size is not None:
            axes = state_axes(self.graph.module_info)
            enter = jax.vmap(enter, in_axes=(axes, 0), out_axes=axes)
        entered = enter(self.executor.state_values(), self._get_etrace_data())
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

    def _params(self, states: Mapping[str, Any]) -> dict[str, Any]:
        return {s.key: states[s.key] for s in self.graph.module_info.by_role('param')}

    def _hidden(self, states: Mapping[str, Any]) -> list[list[Any]]:
        """Values of the hidden states, without their units, per group."""
        return [
            [jax.tree.leaves(states[s.key])[0] for s in g.hidden_states]
            for g in self.graph.hidden_groups
        ]

    def _zeros(self, hidden: list[list[Any]], history: tuple) -> tuple[list, list]:
        """Perturbations of the new and of the old states, all zero."""
        bypassed = self.executor.evaluator.bypassed if history[2] is not None else frozenset()
        new = jax.tree.map(_zero_of, hidden)
        old = [
            jax.tree.map(_zero_of, values) if g.index in bypassed else None
            for g, values in zip(self.graph.hidden_groups, hidden, strict=True)
        ]
        return new, old

    def _update_fwd(
        self, params: Mapping[str, Any], hidden: list[list[Any]], history: tuple
    ) -> tuple[Any, Any]:
        """Forward half of the custom VJP: zero perturbations, and what their credit needs."""
        return self._zeros(hidden, history), (params, history)

    def _update_bwd(self, residuals: tuple, cotangents: tuple) -> tuple[Any, None, None]:
        """Backward half: signals on the states become gradients of the parameters."""
        params, (before, after, lin) = residuals
        to_new, to_old = cotangents
        graph = self.graph
        signal = self._signal(to_new)
        bypass = None if all(part is None for part in to_old) else self._signal(to_old)
        gradients = self._solve_weight_gradients(before, after, lin, signal, bypass)
        weights, pull = jax.vjp(lambda p: effective_weights(graph, p), dict(params))
        gradients = {key: _cast(gradients[key], w.dtype) for key, w in weights.items()}
        return pull(gradients)[0], None, None

    def _signal(self, cotangents: list) -> LearningSignal:
        groups = self.graph.hidden_groups
        values = [
            g.concat_hidden(part)
            if part is not None
            else jnp.zeros((*g.varshape, g.num_state), g.dtype)
            for g, part in zip(groups, cotangents, strict=True)
        ]
        return LearningSignal(self.graph, tuple(values))

    # ------------------------------------------------------------ sequences and batches

    def etrace_grad(self, *sequences: Any, **options: Any) -> Any:
        """Accumulate online gradients over a sequence; see `etrace_algorithms.etrace_grad`."""
        return drive.etrace_grad(self, *sequences, **options)

    def etrace_evolve(self, *sequences: Any, **options: Any) -> Any:
        """Advance over a sequence without gradients; see `etrace_algorithms.etrace_evolve`."""
        return drive.etrace_evolve(self, *sequences, **options)


def _zero_of(value: Any) -> Any:
    """Return zeros that depend on a value: under vmap they have its batch axis.

    A constant would have none, and its cotangent would be summed over the batch.
    """
    return jax.lax.select(jnp.zeros(value.shape, bool), value, jnp.zeros_like(value))


def _cast(gradient: Any, dtype: Any) -> Any:
    """Bring a gradient into the dtype of its weight; a real weight takes the real part."""
    return (gradient if jnp.issubdtype(dtype, jnp.complexfloating) else gradient.real).astype(dtype)


def _pick(data: Any, keys: set[str]) -> dict:
    """Keep the parts of a trace that stand under relation keys, at any depth.

    The innermost keys count: a rule may call one of its parts what a parameter is called.
    """
    if not isinstance(data, Mapping):
        return {}
    inner = {key: _pick(value, keys) for key, value in data.items()}
    found = {key: value for key, value in inner.items() if value}
    return found or {key: value for key, value in data.items() if key in keys}
