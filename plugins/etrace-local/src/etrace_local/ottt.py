r"""`ottt`: online training through time.

$$\hat x_t = \lambda\,\hat x_{t-1} + x_t, \qquad
\nabla = \sum_t \langle L_t,\ f_t \rangle \otimes \hat x_t$$

In the paper $u_t = \lambda\,(u_{t-1} - V_{th}\,s_{t-1}) + W x_t$: the trace of what comes in
decays like the membrane, and the derivative of the spike is that of the present step,
$g_{u_t} = \partial\ell_t/\partial s_t\ \partial s_t/\partial u_t$. The reset has no derivative.

References:
    Xiao et al. (2022), Online training through time for spiking neural networks, NeurIPS 35,
    arXiv:2210.04195.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from etrace_algorithms import ETraceGraph, Gradients, LearningRule, LearningSignal, Linearisation
from etrace_algorithms.algebra import product_gradient
from etrace_algorithms.rule import pull_signal
from etrace_local._common import check_leak, leaky_sum

__all__ = ['OTTT']


@dataclass(frozen=True)
class OTTT(LearningRule):
    r"""One trace for each input, and the derivative of the present step: `O(B (I + O S))`.

    What is kept of $\mathrm{d}h_t/\mathrm{d}\theta$ is $f_t \otimes \sum_{s \le t}
    \lambda^{t-s} x_s$. It is complete where one state per unit decays by $\lambda$ and the
    derivative $f$ of the state with respect to its input does not change with time.

    Args:
        leak: $\lambda$, the leak of the membrane, in `[0, 1]`.
        trace_dtype: Dtype in which traces are stored; that of the inputs by default.

    Raises:
        ValueError: If the leak is out of range.

    Example:
        >>> OTTT(leak=0.5).exact_at_one_step
        True
    """

    leak: float
    trace_dtype: Any = None

    def __post_init__(self) -> None:
        check_leak('leak', self.leak)

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        x, f = {}, {}
        for r in graph.hidden_param_op_relations:
            shared, heads, fan_in, _ = r.block_shape
            x[r.key] = jnp.zeros((shared, heads, fan_in), self.trace_dtype or r.dtype)
            f[r.key] = tuple(
                jnp.zeros(
                    (shared, heads, len(r.columns[i]), g.num_state),
                    jnp.result_type(r.dtype, g.dtype),
                )
                for i, g in enumerate(r.hidden_groups)
            )
        return {'x': x, 'f': f}

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        return {'x': leaky_sum(self.leak, trace['x'], lin.x), 'f': leaky_sum(0, trace['f'], lin.f)}

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        return {
            r.key: product_gradient(pull_signal(signal, r, trace['f'][r.key]), trace['x'][r.key])
            for r in signal.graph.hidden_param_op_relations
        }
