r"""`otpe`: online training with postsynaptic estimates.

$$\varepsilon_t = D_t\,\varepsilon_{t-1} + f_t \otimes x_t, \qquad
\hat R_t = \lambda\,\hat R_{t-1} + \varepsilon_t, \qquad
\nabla = \sum_t \langle L_t,\ \hat R_t \rangle$$

In the paper $\hat R_t = \lambda\,\hat R_{t-1} + \partial s_t/\partial\theta$ is what the membrane
of the *next* layer has kept of the spikes of this one; $\lambda$ is its leak. The output layer has
no next one, and learns by $\varepsilon_t$.

References:
    Summe, Schaefer & Joshi (2023), Estimating post-synaptic effects for online training of
    feed-forward SNNs, arXiv:2311.16151.
"""

from dataclasses import dataclass
from typing import Any

from etrace_algorithms import ETraceGraph, Gradients, LearningRule, LearningSignal, Linearisation
from etrace_algorithms.feedback import Feedback
from etrace_algorithms.rules import advance_traces, credit_traces, zero_traces
from etrace_local._common import check_leak, leaky_sum, past

__all__ = ['OTPE']


@dataclass(frozen=True)
class OTPE(LearningRule):
    r"""Traces that go on in the membrane of the next layer.

    What is kept of the derivative of the next layer's potential $u'_t = \lambda\,u'_{t-1} + W'
    s_t$ is $W' \sum_{r \le t} \lambda^{t-r}\, \mathrm{d}s_r/\mathrm{d}\theta$: complete for one
    layer of linear leaks behind the hidden one, an estimate where that layer spikes and resets, or
    has further layers behind it. The layer's own recurrence is followed through each unit.

    Keep spikes as hidden states ([`Observed`][etrace_algorithms.observable.Observed]), so that
    each one's derivative is accumulated with its trace. The mathematics is that of e-prop with
    symmetric feedback and $\kappa = \lambda$.

    Args:
        leak: $\lambda$ of the next layer, in `[0, 1]`.
        output: Paths of the modules or parameters of the output layer.
        trace_dtype: Dtype in which traces are stored; that of the states by default.

    Raises:
        ValueError: If the leak is out of range, or the model does not have the output layer.

    Example:
        >>> OTPE(leak=0.9, output='readout').output
        'readout'
    """

    leak: float
    output: str | tuple[str, ...] = ()
    trace_dtype: Any = None

    def __post_init__(self) -> None:
        check_leak('leak', self.leak)

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        own = Feedback(readout=self.output).readout_relations(graph)
        zeros = zero_traces(graph, self.trace_dtype)
        estimate = {key: value for key, value in zeros.items() if key not in own}
        return {'e': zero_traces(graph, self.trace_dtype), 'R': estimate}

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        e = advance_traces(trace['e'], lin, as_compiled=True)
        return {'e': e, 'R': leaky_sum(self.leak, trace['R'], {key: e[key] for key in trace['R']})}

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        # at the entry of a window of several steps, inside of which the next layer is no estimate
        return credit_traces(trace['e'], signal)

    def history(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        beside = {} if bypass is None else _estimate(before, bypass)
        return past(_estimate(after, signal), lin, signal, beside)


def _estimate(trace: dict[str, Any], signal: LearningSignal) -> Gradients:
    return credit_traces({**trace['e'], **trace['R']}, signal)
