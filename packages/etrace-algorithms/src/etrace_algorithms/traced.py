"""A learner with a trace: the hooks by which it is kept, and what can be asked of it."""

from functools import partial
from typing import Any

import brainstate
import jax

from etrace_algorithms.batching import map_batch, replicate
from etrace_algorithms.introspect import plan_of, trace_of
from etrace_algorithms.learner import EligibilityTrace, ETraceAlgorithm
from etrace_algorithms.memory import MemoryPlan
from etrace_algorithms.rule import Gradients, LearningRule, LearningSignal
from etrace_compiler import Linearisation

__all__ = ['TracedAlgorithm']


class TracedAlgorithm(ETraceAlgorithm):
    """A learner that keeps a trace, by a rule or by the four hooks that a subclass overrides."""

    rule: LearningRule
    etrace: EligibilityTrace | None = None

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
            trace = jax.tree.map(partial(replicate, self.batch_axis_size), trace)
        self._assign_etrace_data(trace)

    def reset_state(self, batch_size: int | None = None, **kwargs: Any) -> None:
        """Reset the model's states, and the trace as its rule says; see `LearningRule.restart`."""
        before = self._get_etrace_data()
        super().reset_state(batch_size, **kwargs)
        if hasattr(self, 'rule'):
            restart = map_batch(self.batch_axis_size, self.rule.restart, 0)
            self._assign_etrace_data(restart(before, self._get_etrace_data()))

    def get_etrace_of(self, weight: brainstate.ParamState | tuple[str, ...] | str) -> dict:
        """Return the parts of the trace that belong to a parameter.

        Args:
            weight: The parameter, or its path.

        Returns:
            What the trace holds under the relations of this parameter, by relation key; or under
            its own key, for a rule that credits parameters.

        Raises:
            ValueError: If the parameter has no trace; the reason is in the message.
        """
        if isinstance(weight, brainstate.State):
            weight = self.executor.state_id_to_path.get(id(weight), ('?',))
        return trace_of(self.graph, self._get_etrace_data(), weight, self.credits)

    def memory_plan(self, budget: int | str | None = None) -> MemoryPlan:
        """Say what this learner keeps and moves; `etrace_algorithms.memory_plan` compares others.

        Args:
            budget: Bytes that may be used, a number or text such as `'512 MB'`.

        Raises:
            ValueError: If `compile_graph` has not been called.
        """
        rule = getattr(self, 'rule', None)  # a learner may override the hooks instead
        promise = 'undeclared' if rule is None else rule.exactness
        name = self.name or type(self).__name__
        return plan_of(self, name, str(promise), budget)

    # ------------------------------------------------------------ what the rule is like

    @property
    def signal_at(self) -> str:
        """Where learning signals are taken; see `LearningRule.signal_at`."""
        return self.rule.signal_at if hasattr(self, 'rule') else LearningRule.signal_at

    @property
    def credits(self) -> str:
        """What credit is given to; see `LearningRule.credits`."""
        return self.rule.credits if hasattr(self, 'rule') else LearningRule.credits

    @property
    def _has_rule(self) -> bool:
        """Whether the rule says everything: a subclass may override the hooks instead."""
        base = TracedAlgorithm
        hooks = ('_update_etrace_data', '_solve_weight_gradients')
        return all(getattr(type(self), hook) is getattr(base, hook) for hook in hooks)
