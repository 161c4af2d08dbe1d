r"""`D_RTRL`: real-time recurrent learning along the diagonal.

$$\varepsilon_t = D_t\,\varepsilon_{t-1} + f_t \otimes x_t, \qquad
\text{history}_t = \langle D_t^\top L_t,\ \varepsilon_{t-1}\rangle
= \langle L_t,\ \varepsilon_t\rangle - \langle L_t,\ f_t\otimes x_t\rangle.$$

References:
    Wang et al. (2026), Model-agnostic linear-memory online learning in spiking neural
    networks, Nature Communications, doi:10.1038/s41467-026-68453-w.
"""

from dataclasses import dataclass
from typing import Any

from etrace_algorithms.algebra import apply_diagonal
from etrace_algorithms.rule import Exactness, Gradients, LearningRule, LearningSignal
from etrace_algorithms.rules._traces import FullTraces, advance_traces, credit_traces, zero_traces
from etrace_compiler import ETraceGraph, Linearisation

__all__ = ['DiagonalRTRL']


@dataclass(frozen=True)
class DiagonalRTRL(LearningRule):
    """One trace entry per weight, batch element and state.

    Attributes:
        trace_dtype: Dtype in which traces are stored; that of the states by default.
        fast_solve: Contract the new trace and take the current step off again, where that
            loses nothing. The old trace need not outlive its update then, which saves a copy of
            it; the result is the same to rounding.
    """

    trace_dtype: Any = None
    fast_solve: bool = True

    @property
    def exactness(self) -> Exactness:
        return Exactness.EXACT_DIAGONAL

    def init(self, graph: ETraceGraph) -> FullTraces:
        return zero_traces(graph, self.trace_dtype)

    def update(self, trace: FullTraces, lin: Linearisation) -> FullTraces:
        return advance_traces(trace, lin)

    def credit(self, trace: FullTraces, signal: LearningSignal) -> Gradients:
        return credit_traces(trace, signal)

    def history(
        self,
        before: Any,
        after: Any,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        # a trace of low precision would lose digits of the current step on the way
        if self.fast_solve and self.trace_dtype is None and bypass is None:
            return super().history(before, after, lin, signal, bypass)
        values = tuple(
            apply_diagonal(d, s).astype(s.dtype) for d, s in zip(lin.D, signal.values, strict=True)
        )
        pulled = LearningSignal(lin.graph, values)
        return self.credit(before, pulled if bypass is None else pulled + bypass)
