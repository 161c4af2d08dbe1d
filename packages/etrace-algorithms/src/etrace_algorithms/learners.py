"""The learners by their usual names: each a rule inside the common shell."""

from typing import Any

import brainstate

from etrace_algorithms.rule import LearningRule
from etrace_algorithms.rules import DiagonalRTRL, ImmediateDerivatives, IODimTrace, as_decay
from etrace_algorithms.vjp import ETraceVjpAlgorithm
from etrace_compiler import ControlFlowPolicy

__all__ = [
    'D_RTRL',
    'ES_D_RTRL',
    'IODimVjpAlgorithm',
    'Immediate',
    'ParamDimVjpAlgorithm',
    'RuleLearner',
    'pp_prop',
]


class RuleLearner(ETraceVjpAlgorithm):
    """A learner made of any learning rule.

    Args:
        model: A module that does one time step.
        rule: The learning rule.
        name: Name of the learner.
        vjp_method: `'single-step'` or `'multi-step'`.
        control_flow: What to do with loops and branches inside the step.
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        rule: LearningRule,
        name: str | None = None,
        vjp_method: str = 'single-step',
        control_flow: ControlFlowPolicy | None = None,
    ):
        super().__init__(model, name, vjp_method, control_flow)
        self.rule = rule


class ParamDimVjpAlgorithm(RuleLearner):
    r"""Online gradients with one trace entry per weight and batch element, `O(B I O S)`.

    $$\varepsilon_t = D_t\,\varepsilon_{t-1} + f_t \otimes x_t$$

    Equal to backpropagation through time wherever the recurrence is position-diagonal.

    Args:
        model: A module that does one time step.
        name: Name of the learner.
        vjp_method: `'single-step'` or `'multi-step'`.
        fast_solve: Contract the new trace and take the current step off again, and solve windows
            at once; otherwise contract the old trace with the signal pulled back over the step.
            The result is the same to rounding.
        trace_dtype: Dtype in which traces are stored; that of the states by default.
        control_flow: What to do with loops and branches inside the step.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> cell = etrace_nn.GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> learner = ParamDimVjpAlgorithm(cell)
        >>> learner.compile_graph(jnp.ones(3))
        >>> learner(jnp.ones(3)).shape
        (4,)

    References:
        Wang et al. (2026), Nature Communications, doi:10.1038/s41467-026-68453-w.
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        name: str | None = None,
        vjp_method: str = 'single-step',
        fast_solve: bool = True,
        trace_dtype: Any = None,
        control_flow: ControlFlowPolicy | None = None,
    ):
        rule = DiagonalRTRL(trace_dtype, fast_solve, carried_only=vjp_method == 'single-step')
        super().__init__(model, rule, name, vjp_method, control_flow)


class D_RTRL(ParamDimVjpAlgorithm):
    """The diagonal real-time recurrent learner; see `ParamDimVjpAlgorithm`."""


class IODimVjpAlgorithm(RuleLearner):
    r"""Online gradients from two smoothed factors, `O(B (I + O S))`.

    $$\epsilon^x_t = \alpha\,\epsilon^x_{t-1} + x_t, \qquad
    \epsilon^f_t = \alpha\,D_t\,\epsilon^f_{t-1} + (1-\alpha)\,f_t$$

    Args:
        model: A module that does one time step.
        decay_or_rank: Decay in `[0, 1)`, or an integer rank `n` for the decay
            `(n - 1) / (n + 1)`; a pair gives the two factors `(x, f)` their own.
        name: Name of the learner.
        vjp_method: `'single-step'` or `'multi-step'`.
        fast_solve: Solve the factors and the step itself with one product, and windows at once;
            otherwise literally. The result is the same to rounding.
        trace_dtype: Dtype in which the factors are stored; that of the states by default.
        control_flow: What to do with loops and branches inside the step.
        debias: Divide the smoothed side by the weight it holds so far, `1 - decay**n`.

    Raises:
        ValueError: If a decay is outside `[0, 1)` or a rank below 1.
        TypeError: If it is neither.

    References:
        Wang et al. (2026), Nature Communications, doi:10.1038/s41467-026-68453-w.
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        decay_or_rank: Any,
        name: str | None = None,
        vjp_method: str = 'single-step',
        fast_solve: bool = True,
        trace_dtype: Any = None,
        control_flow: ControlFlowPolicy | None = None,
        debias: bool = True,
    ):
        pair = isinstance(decay_or_rank, (tuple, list)) and len(decay_or_rank) == 2
        x, f = decay_or_rank if pair else (decay_or_rank, decay_or_rank)
        rule = IODimTrace(as_decay(x), as_decay(f), debias, trace_dtype, fast_solve)
        super().__init__(model, rule, name, vjp_method, control_flow)


class pp_prop(IODimVjpAlgorithm):
    """The input-output-dimension learner by its usual name; see `IODimVjpAlgorithm`."""


ES_D_RTRL = pp_prop


class Immediate(RuleLearner):
    r"""One-step gradients without any trace: the control that every comparison needs.

    $$\nabla_\theta \ell_t \approx \frac{\partial \ell_t}{\partial h_t}\,
    \frac{\partial h_t}{\partial \theta}\Big|_{h_{t-1}}$$

    Args:
        model: A module that does one time step.
        name: Name of the learner.
        vjp_method: `'single-step'` or `'multi-step'`.
        control_flow: What to do with loops and branches inside the step.
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        name: str | None = None,
        vjp_method: str = 'single-step',
        control_flow: ControlFlowPolicy | None = None,
    ):
        super().__init__(model, ImmediateDerivatives(), name, vjp_method, control_flow)
