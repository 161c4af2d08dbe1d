r"""`rflo`: random-feedback local online learning.

$$\varepsilon_t = \lambda\,\varepsilon_{t-1} + f_t \otimes x_t, \qquad
\nabla = \sum_t \langle B^\top \delta_t,\ \varepsilon_t \rangle, \qquad
\delta_t = \partial\ell_t/\partial y_t$$

In the paper $h_t = (1 - \tfrac1\tau)\,h_{t-1} + \tfrac1\tau\,\phi(u_t)$ with
$u_t = W h_{t-1} + W^{in} x_t$, and $p_{ab,t} = (1 - \tfrac1\tau)\,p_{ab,t-1} +
\tfrac1\tau\,\phi'(u_{a,t})\,h_{b,t-1}$: there $\lambda = 1 - \tfrac1\tau$ and
$f = \tfrac1\tau\,\phi'(u)$, which comes from the model here.

References:
    Murray (2019), Local online learning in recurrent networks with random feedback, eLife,
    doi:10.7554/eLife.43299.
"""

from dataclasses import dataclass
from typing import Any

from etrace_algorithms import (
    ETraceGraph,
    Gradients,
    LearningRule,
    LearningSignal,
    Linearisation,
    NotSupportedError,
)
from etrace_algorithms.feedback import as_feedback
from etrace_algorithms.rule import Direct
from etrace_algorithms.rules import credit_traces, zero_traces
from etrace_local._common import check_leak, leaky_sum, past, step_traces

__all__ = ['RFLO']


@dataclass(frozen=True)
class RFLO(LearningRule):
    r"""Traces with one leak for all units, and a random learning signal.

    What is kept of $\mathrm{d}h_t/\mathrm{d}\theta$ is the way through the leak of each unit
    alone; neither the recurrent weights nor their diagonal have a part in it, and states of one
    position do not act on each other. Where the recurrence of a model *is* a leak $\lambda$, plus
    products that mix its units, the traces are those of `d_rtrl`.

    Args:
        leak: $\lambda = 1 - 1/\tau$, in `[0, 1]`.
        feedback: `'symmetric'`, `'random'` (as in the paper), `'adaptive'`, or a `Feedback` or
            a dict of its options.
        trace_dtype: Dtype in which traces are stored; that of the states by default.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> RFLO(leak=0.9).exact_at_one_step, RFLO(0.9, 'symmetric').exact_at_one_step
        (False, True)
    """

    leak: float
    feedback: Any = 'random'
    trace_dtype: Any = None

    def __post_init__(self) -> None:
        check_leak('leak', self.leak)
        object.__setattr__(self, 'feedback', as_feedback(self.feedback))

    @property
    def reads_output(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.feedback.symmetric

    @property
    def exact_at_one_step(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.feedback.symmetric

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        matrices = {} if self.feedback.symmetric else self.feedback.init(graph)
        return {'e': zero_traces(graph, self.trace_dtype), 'feedback': matrices}

    def restart(self, before: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
        return {**fresh, 'feedback': before['feedback']}

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        e = leaky_sum(self.leak, trace['e'], step_traces(lin))
        return {'e': e, 'feedback': self.feedback.update(trace['feedback'], lin)}

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        if not self.feedback.symmetric:
            raise NotSupportedError(
                "`vjp_method` does not go with this rule: got 'multi-step' and "
                f"feedback={self.feedback.kind!r}; expected feedback='symmetric'. "
                "Use vjp_method='single-step'."
            )
        return credit_traces(trace['e'], signal)

    def history(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        beside = {} if bypass is None else credit_traces(before['e'], bypass)
        return past(credit_traces(after['e'], signal), lin, signal, beside)

    def gradient(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        exact = super().gradient(before, after, lin, signal, bypass, direct)
        if self.feedback.symmetric:
            return exact
        fed = self.feedback.project(after['feedback'], signal)
        return self.feedback.route(lin.graph, exact, credit_traces(after['e'], fed))
