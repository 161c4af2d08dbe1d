r"""`eprop`: eligibility propagation.

$$\varepsilon_t = D_t\,\varepsilon_{t-1} + f_t \otimes x_t, \qquad
\bar\varepsilon_t = \kappa\,\bar\varepsilon_{t-1} + \varepsilon_t, \qquad
\nabla = \sum_t \langle L_t,\ \bar\varepsilon_t \rangle$$

References:
    Bellec et al. (2020), A solution to the learning dilemma for recurrent networks of spiking
    neurons, Nature Communications, doi:10.1038/s41467-020-17236-y.
"""

from dataclasses import dataclass
from typing import Any

import jax

from etrace_algorithms import (
    ETraceGraph,
    Gradients,
    LearningRule,
    LearningSignal,
    Linearisation,
    NotSupportedError,
)
from etrace_algorithms.feedback import as_feedback
from etrace_algorithms.rule import Direct, one_step_gradients
from etrace_algorithms.rules import advance_traces, credit_traces, zero_traces

__all__ = ['EProp']

#: `'e'` and `'filtered'` by relation key, and what the feedback keeps.
Trace = dict[str, Any]


@dataclass(frozen=True)
class EProp(LearningRule):
    r"""Filter the traces of single neurons with the leak of the readout.

    What is kept of $\mathrm{d}h_t/\mathrm{d}\theta$ is the way through each neuron itself: the
    recurrent product is left out, as in the paper. The filter stands in for a leaky readout
    $y_t = \kappa\,y_{t-1} + W z_t$ whose past the learning signal of one step cannot see. It is
    right where that readout is no part of the model, and where it is, if its own weights are named
    as `Feedback(readout=...)`: their traces carry the leak already. Without a leak, $\kappa = 0$.

    What is filtered is the trace of hidden states. Of spiking neurons keep the spike as one
    ([`Observed`][etrace_algorithms.observable.Observed]), so that its derivative is filtered too.

    With symmetric feedback and $\kappa = 0$ this is `d_rtrl`.

    Args:
        kappa: $\kappa$, in `[0, 1)`.
        feedback: `'symmetric'`, `'random'`, `'adaptive'`, or a `Feedback` or a dict of its options.
        trace_dtype: Dtype in which traces are stored; that of the states by default.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> EProp(kappa=0.9, feedback='random').exact_at_one_step
        False
    """

    kappa: float = 0.0
    feedback: Any = 'symmetric'
    trace_dtype: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.kappa < 1:
            raise ValueError(
                f'`kappa` is out of range: got {self.kappa}; expected 0 <= kappa < 1. '
                'Use exp(-dt/tau) of the readout, or 0 where it has no leak.'
            )
        object.__setattr__(self, 'feedback', as_feedback(self.feedback))

    @property
    def reads_output(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.feedback.symmetric

    @property
    def exact_at_one_step(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.feedback.symmetric

    def init(self, graph: ETraceGraph) -> Trace:
        trace: Trace = {'e': zero_traces(graph, self.trace_dtype)}
        if self.kappa:
            unfiltered = self.feedback.readout_relations(graph)
            zeros = zero_traces(graph, self.trace_dtype)
            trace['filtered'] = {k: v for k, v in zeros.items() if k not in unfiltered}
        if not self.feedback.symmetric:
            trace['feedback'] = self.feedback.init(graph)
        return trace

    def restart(self, before: Trace, fresh: Trace) -> Trace:
        return {**fresh, **{k: v for k, v in before.items() if k == 'feedback'}}

    def update(self, trace: Trace, lin: Linearisation) -> Trace:
        new = {**trace, 'e': advance_traces(trace['e'], lin, as_compiled=True)}
        for key, old in trace.get('filtered', {}).items():
            add = jax.tree.map(lambda e, now: self.kappa * e + now, old, new['e'][key])
            new['filtered'] = {**new['filtered'], key: add}
        if 'feedback' in trace:
            new['feedback'] = self.feedback.update(trace['feedback'], lin)
        return new

    def _contract(self, trace: Trace, signal: LearningSignal) -> Gradients:
        return credit_traces({**trace['e'], **trace.get('filtered', {})}, signal)

    def credit(self, trace: Trace, signal: LearningSignal) -> Gradients:
        if self.kappa or not self.feedback.symmetric:
            raise NotSupportedError(
                "`vjp_method` does not go with this rule: got 'multi-step' and "
                f'kappa={self.kappa}, feedback={self.feedback.kind!r}; expected kappa=0 and '
                "symmetric feedback. Use vjp_method='single-step'."
            )
        return self._contract(trace, signal)

    def history(
        self,
        before: Trace,
        after: Trace,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        total, now = self._contract(after, signal), one_step_gradients(lin, signal)
        beside = {} if bypass is None else self._contract(before, bypass)
        return {key: total[key] - now[key] + beside.get(key, 0) for key in total}

    def gradient(
        self,
        before: Trace,
        after: Trace,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        exact = super().gradient(before, after, lin, signal, bypass, direct)
        if self.feedback.symmetric:
            return exact
        fed = self.feedback.project(after['feedback'], signal)
        return self.feedback.route(lin.graph, exact, self._contract(after, fed))
