r"""`D_RTRL`: real-time recurrent learning along the diagonal.

$$\varepsilon_t = D_t\,\varepsilon_{t-1} + f_t \otimes x_t, \qquad
\text{history}_t = \langle D_t^\top L_t,\ \varepsilon_{t-1}\rangle
= \langle L_t,\ \varepsilon_t\rangle - \langle L_t,\ f_t\otimes x_t\rangle.$$

The recursion is linear in the trace, so that a window of `K` steps with fixed parameters needs no
trace within it: signals are pulled back to its entry, $\mu_K = 0$,
$\mu_{t-1} = D_t^\top (L_t + \mu_t)$, and the history is
$\sum_t \langle \mu_t, f_t \otimes x_t\rangle + \langle \mu_0, \varepsilon_0\rangle$: one product
over all steps and one pass over the trace.

References:
    Wang et al. (2026), Model-agnostic linear-memory online learning in spiking neural
    networks, Nature Communications, doi:10.1038/s41467-026-68453-w.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra import apply_diagonal, column_gradient, product_gradient, store
from etrace_algorithms.rule import (
    Direct,
    Exactness,
    Gradients,
    LearningRule,
    LearningSignal,
    pull_signal,
)
from etrace_algorithms.rules._carried import narrow_products, narrow_signal, narrowed
from etrace_algorithms.rules._traces import FullTraces, advance_traces, credit_traces, zero_traces
from etrace_algorithms.rules._windows import advance_window, look_back, merge_steps
from etrace_compiler import ETraceGraph, Linearisation, carried_part, columns_beside

__all__ = ['DiagonalRTRL']


@dataclass(frozen=True)
class DiagonalRTRL(LearningRule):
    """One trace entry per weight, batch element and state.

    Attributes:
        trace_dtype: Dtype in which traces are stored; that of the states by default.
        fast_solve: Contract the new trace and take the current step off again, where that
            loses nothing. The old trace need not outlive its update then, which saves a copy of
            it; the result is the same to rounding.
        carried_only: Keep no trace of what nothing carries on (see
            [`carried_part`][etrace_compiler.carried_part]): of a state whose old value acts
            through cut operands alone, and of operations that drive no other. The gradient of
            single steps is the same; the trace at the entry of a window needs all states.
    """

    trace_dtype: Any = None
    fast_solve: bool = True
    carried_only: bool = False

    @property
    def exactness(self) -> Exactness:
        return Exactness.EXACT_DIAGONAL

    def init(self, graph: ETraceGraph) -> FullTraces:
        part = carried_part(graph) if self.carried_only else graph
        return zero_traces(part, self.trace_dtype, active=True)

    def update(self, trace: FullTraces, lin: Linearisation) -> FullTraces:
        lin = narrowed(lin) if self.carried_only else lin
        return advance_traces(trace, lin, as_compiled=self.fast_solve)

    def credit(self, trace: FullTraces, signal: LearningSignal) -> Gradients:
        found = credit_traces(trace, narrow_signal(signal) if self.carried_only else signal)
        return {
            r.key: found[r.key] if r.key in found else jnp.zeros(r.block_shape[1:], r.dtype)
            for r in signal.graph.hidden_param_op_relations
        }

    def history(
        self,
        before: Any,
        after: Any,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        # literally; a trace of low precision loses no digits of the current step this way
        values = tuple(
            apply_diagonal(d, s).astype(s.dtype) for d, s in zip(lin.D, signal.values, strict=True)
        )
        pulled = LearningSignal(lin.graph, values)
        return self.credit(before, pulled if bypass is None else pulled + bypass)

    def gradient(
        self,
        before: Any,
        after: Any,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        part = carried_part(lin.graph) if self.carried_only else lin.graph
        incomplete = part is not lin.graph or self.trace_dtype is not None or bypass is not None
        if incomplete or not self.fast_solve:
            return super().gradient(before, after, lin, signal, bypass, direct)
        # the new trace holds the current step, but for what goes around the states
        total, beside = dict(self.credit(after, signal)), columns_beside(lin.graph)
        for r in lin.relations:
            if len(beside[r.key]):
                missing = direct[r.key] - pull_signal(signal, r, lin.f[r.key])
                total[r.key] += column_gradient(missing, lin.inputs[r.key], beside[r.key])
        return total

    def window(
        self,
        trace: FullTraces,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> tuple[Gradients, FullTraces]:
        if not self.fast_solve:
            return super().window(trace, lin, signal, bypass, direct)
        return self._window(trace, lin, signal, bypass, direct)

    def window_gradient(
        self,
        trace: FullTraces,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        if not self.fast_solve:
            return super().window_gradient(trace, lin, signal, bypass, direct)
        return self._window(trace, lin, signal, bypass, direct, onward=False)[0]

    def _window(
        self,
        trace: FullTraces,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
        onward: bool = True,
    ) -> tuple[Gradients, FullTraces]:
        later, entering, products = look_back(lin, signal, bypass)
        total = {}
        for r in lin.relations:
            pulled = jax.vmap(lambda s, f, r=r: pull_signal(s, r, f))(later, lin.f[r.key])
            cotangent = merge_steps(direct[r.key] + pulled)
            total[r.key] = product_gradient(cotangent, merge_steps(lin.inputs[r.key]))
        if self.carried_only:
            products = tuple(
                zip(
                    *(narrow_products(lin.graph, p) for p in zip(*products, strict=True)),
                    strict=True,
                )
            )
            lin, entering = narrowed(lin), narrow_signal(entering)
        if onward:
            read, trace = advance_window(trace, lin, products, entering)
        else:
            read = {key: store(g) for key, g in credit_traces(trace, entering).items()}
        return {key: g + read[key] if key in read else g for key, g in total.items()}, trace
