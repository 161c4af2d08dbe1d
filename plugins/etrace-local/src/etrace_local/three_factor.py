r"""`three_factor`: eligibility that waits for a modulator.

$$\varepsilon_t = D_t\,\varepsilon_{t-1} + f_t \otimes x_t, \qquad
E_t = \lambda\,E_{t-1} + \varepsilon_t, \qquad
\nabla = -\sum_t \langle m_t,\ E_t \rangle$$

The first two factors, what comes in and how the unit answers, make the eligibility $E$; the third,
the modulator $m_t$ (a reward, a surprise, one number or one for each unit), turns it into a change
of the weights. An optimiser that descends makes it $\Delta\theta \propto m_t\,E_t$.

References:
    Frémaux & Gerstner (2016), Neuromodulated spike-timing-dependent plasticity, and theory of
    three-factor learning rules, Frontiers in Neural Circuits, doi:10.3389/fncir.2015.00085.
    Gerstner et al. (2018), Eligibility traces and plasticity on behavioral time scales,
    Frontiers in Neural Circuits, doi:10.3389/fncir.2018.00053.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import brainstate
import jax.numpy as jnp

from etrace_algorithms import (
    ETraceGraph,
    Gradients,
    LearningRule,
    LearningSignal,
    Linearisation,
    NotSupportedError,
)
from etrace_algorithms.feedback import Feedback
from etrace_algorithms.rule import Direct
from etrace_algorithms.rules import advance_traces, credit_traces, zero_traces
from etrace_local._common import check_leak, leaky_sum, past

__all__ = ['Modulated', 'ThreeFactor']


class Modulated(brainstate.nn.Module):
    """Give a model one more argument, the modulator of the step, which it does not use itself.

    Args:
        model: A module that does one time step.

    Example:
        >>> import etrace_nn
        >>> model = Modulated(etrace_nn.GRUCell(2, 3))
        >>> _ = brainstate.nn.init_all_states(model)
        >>> model(jnp.ones(2), 0.5).shape
        (3,)
    """

    def __init__(self, model: brainstate.nn.Module):
        super().__init__()
        self.model = model

    def update(self, *args: Any) -> Any:
        """Do one step of the model with all arguments but the last."""
        return self.model(*args[:-1])


@dataclass(frozen=True)
class ThreeFactor(LearningRule):
    r"""Multiply eligibility traces by a modulator among the arguments of the step.

    The modulator is the whole learning signal of marked weights: the loss has none in it, but what
    reads out keeps its exact gradient. It reaches one observable of every group: a number, or an
    array whose axes are the first ones of the group's (the batch, then the units). The loss must
    be a function of what the step returns, if only of zero weight, or no gradient is asked for. A
    mask of the loss does not reach the modulator: where a step is not to count, pass 0.

    Args:
        decay: $\lambda$, in `[0, 1]`: how long eligibility waits.
        modulator: What the modulator is of the arguments of the step, a function of their tuple; by
            default the last one.
        observable: The hidden state of each group that is modulated, where it has several.
        readout: Paths of modules or parameters that read out.
        trace_dtype: Dtype in which traces are stored; that of the states by default.

    Raises:
        ValueError: If the decay is out of range.

    Example:
        >>> ThreeFactor(decay=0.9).exact_at_one_step
        False
    """

    decay: float = 0.0
    modulator: Callable[[tuple[Any, ...]], Any] = itemgetter(-1)
    observable: str | tuple[str, ...] = ()
    readout: str | tuple[str, ...] = ()
    trace_dtype: Any = None

    exact_at_one_step = False

    def __post_init__(self) -> None:
        check_leak('decay', self.decay)

    @property
    def _targets(self) -> Feedback:
        return Feedback(observable=self.observable, readout=self.readout)

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        self._targets.targets(graph)  # says so now if an option does not fit
        e, waiting = (zero_traces(graph, self.trace_dtype) for _ in range(2))
        return {'e': e, 'E': waiting}

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        e = advance_traces(trace['e'], lin, as_compiled=True)
        return {'e': e, 'E': leaky_sum(self.decay, trace['E'], e)}

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        raise NotSupportedError(
            "`vjp_method` does not go with this rule: got 'multi-step'; expected one modulator for "
            "each step. Use vjp_method='single-step'."
        )

    def history(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        # of what reads out; its traces wait for nothing
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
        values = [jnp.zeros_like(value) for value in signal.values]
        modulator = jnp.asarray(self.modulator(lin.args))
        for group, at in self._targets.targets(lin.graph):
            value = values[group.index]
            missing = len(group.varshape) - modulator.ndim
            third = -modulator.reshape(modulator.shape + (1,) * missing).astype(value.dtype)
            values[group.index] = value.at[..., at].set(jnp.broadcast_to(third, group.varshape))
        modulated = LearningSignal(lin.graph, tuple(values))
        return self._targets.route(lin.graph, exact, credit_traces(after['E'], modulated))
