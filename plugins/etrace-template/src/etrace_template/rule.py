r"""`decayed_trace`: diagonal real-time recurrent learning that discounts the past.

$$\varepsilon_t = \lambda\, D_t\, \varepsilon_{t-1} + f_t \otimes x_t, \qquad 0 \le \lambda \le 1$$
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
)
from etrace_algorithms.rules import advance_traces, credit_traces, zero_traces

__all__ = ['DecayedTrace']

#: Per relation key and hidden group that it drives, one array `(G, H, I, O)` per state.
Trace = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class DecayedTrace(LearningRule):
    r"""Weight the credit of `n` steps ago by $\lambda^n$.

    With a decay of 1 this is `D_RTRL`, with a decay of 0 no credit crosses a step.

    Args:
        decay: $\lambda$, in `[0, 1]`.

    Raises:
        ValueError: If the decay is out of range.

    Example:
        >>> import brainstate, etrace_algorithms, jax, jax.numpy as jnp
        >>> from etrace_compiler import element_wise
        >>> class Leaky(brainstate.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.gain = brainstate.ParamState(jnp.ones(1))
        ...         self.h = brainstate.HiddenState(jnp.zeros(1))
        ...     def update(self, x):
        ...         self.h.value = 0.5 * self.h.value + element_wise(self.gain.value) * x
        ...         return self.h.value
        >>> rule = DecayedTrace(decay=0.5)
        >>> learner = etrace_algorithms.compile(Leaky(), rule, jnp.zeros(1))
        >>> for x in (1.0, 0.0, 0.0):
        ...     _ = learner(jnp.full(1, x))
        >>> jax.tree.leaves(learner.get_etrace_of('gain'))[0].ravel()
        Array([0.0625], dtype=float32)
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(
                f'`decay` is out of range: got {self.decay}; expected 0 <= decay <= 1. '
                'Use 1 to discount nothing.'
            )

    def init(self, graph: ETraceGraph) -> Trace:
        """Return the trace before the first step: zeros."""
        return zero_traces(graph)

    def update(self, trace: Trace, lin: Linearisation) -> Trace:
        """Advance the trace by one step."""
        discounted = jax.tree.map(lambda e: self.decay * e, trace)
        return advance_traces(discounted, lin)

    def credit(self, trace: Trace, signal: LearningSignal) -> Gradients:
        """Contract a learning signal with the trace."""
        return credit_traces(trace, signal)
