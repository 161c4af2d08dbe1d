"""From the cotangents of taps to gradients of effective weights, without a batch axis.

The rule of a learner says everything, or the hooks that the learner overrides do.
"""

from dataclasses import replace
from typing import Any, Protocol

import jax

from etrace_algorithms.algebra import product_gradient, store
from etrace_algorithms.credit import Taps, read_taps
from etrace_algorithms.rule import (
    Direct,
    Gradients,
    LearningRule,
    LearningSignal,
    window_by_steps,
    zero_gradients,
)
from etrace_compiler import ETraceGraph, Linearisation

__all__ = ['solve_step', 'solve_steps']


class _Learner(Protocol):
    """What is asked of a learner: its rule or its hooks."""

    rule: LearningRule

    @property
    def graph(self) -> ETraceGraph: ...

    @property
    def signal_at(self) -> str: ...

    @property
    def credits(self) -> str: ...

    @property
    def _has_rule(self) -> bool: ...

    def _update_etrace_data(self, data: Any, lin: Linearisation) -> Any: ...

    def _solve_weight_gradients(
        self,
        before: Any,
        after: Any,
        lin: Linearisation | None,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients: ...


def solve_step(
    learner: _Learner, before: Any, after: Any, lin: Linearisation | None, taps: Taps
) -> Gradients:
    """Solve one step, or the entry of a window.

    Args:
        learner: Whose rule or hooks to use.
        before: The trace before the step.
        after: The trace after it; `None` for a window.
        lin: The step; `None` for a window.
        taps: The cotangents of its taps.
    """
    signal, bypass, direct = read_taps(learner.graph, taps)
    if lin is None or learner.signal_at == 'old':
        return learner._solve_weight_gradients(before, None, None, signal, None)
    # of the bits of the states: the result must be linear in the signal
    values = tuple(store(s, h) for s, h in zip(signal.values, lin.hidden, strict=True))
    signal = replace(signal, values=values)
    if learner._has_rule:
        return learner.rule.gradient(before, after, lin, signal, bypass, direct)
    return _by_hooks(learner, before, after, lin, signal, bypass, direct)


def solve_steps(
    learner: _Learner, onward: bool, data: Any, lin: Linearisation, taps: Taps
) -> tuple[Gradients, Any]:
    """Solve several steps with fixed parameters.

    Args:
        learner: Whose rule or hooks to use.
        onward: Whether the trace after them is wanted.
        data: The trace before them.
        lin: The steps, stacked on leading axes.
        taps: The cotangents of their taps, stacked.

    Returns:
        The gradients; and the trace after the steps, or that before them.
    """
    signals = jax.vmap(lambda t: read_taps(learner.graph, t))(taps)
    if learner.signal_at == 'old':

        def credit(before: Any, after: Any, lin: Any, signal: LearningSignal, *_: Any) -> Gradients:
            return learner._solve_weight_gradients(before, None, None, signal, None)

        zeros = zero_gradients(learner.credits, lin)
        return window_by_steps(
            learner._update_etrace_data, credit, data, lin, *signals, zeros=zeros
        )
    if learner._has_rule and not onward:
        return learner.rule.window_gradient(data, lin, *signals), data
    if learner._has_rule:
        return learner.rule.window(data, lin, *signals)

    def solve(*step: Any) -> Gradients:
        return _by_hooks(learner, *step)

    return window_by_steps(learner._update_etrace_data, solve, data, lin, *signals)


def _by_hooks(
    learner: _Learner,
    before: Any,
    after: Any,
    lin: Linearisation,
    signal: LearningSignal,
    bypass: LearningSignal | None,
    direct: Direct,
) -> Gradients:
    past = learner._solve_weight_gradients(before, after, lin, signal, bypass)
    return {
        r.key: past[r.key] + product_gradient(direct[r.key], lin.inputs[r.key])
        for r in lin.relations
    }
