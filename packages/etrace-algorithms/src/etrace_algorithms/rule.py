r"""The contract of a learning rule: three functions and one that follows from them.

The gradient of a window is always

$$\nabla_\theta = \sum_t G_t + \text{history},$$

where $G_t$, the gradient of one step, comes from automatic differentiation and is exact for
every parameter. A rule supplies the history: the credit that crosses a step.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import jax

from etrace_algorithms.algebra import outer_gradient
from etrace_compiler import ETraceGraph, HiddenParamOpRelation, Linearisation, gather_positions

__all__ = ['Exactness', 'Gradients', 'LearningRule', 'LearningSignal', 'one_step_gradients']

#: Gradients with respect to effective weights, `(H, I, O)` by relation key.
Gradients = Mapping[str, Any]

#: What a rule carries from step to step: any pytree of arrays.
Trace = Any


class Exactness(StrEnum):
    """What a rule promises about its gradient."""

    EXACT_DIAGONAL = 'exact-diagonal'
    APPROXIMATE = 'approximate'
    UNBIASED = 'unbiased'
    IMMEDIATE = 'immediate'


@partial(jax.tree_util.register_dataclass, data_fields=['values'], meta_fields=['graph'])
@dataclass(frozen=True, eq=False)
class LearningSignal:
    r"""The derivative of the loss with respect to hidden states, $\partial\ell/\partial h$.

    Attributes:
        graph: What the arrays belong to.
        values: Per group, `(*varshape, S)`.
    """

    graph: ETraceGraph
    values: tuple[Any, ...]

    def at(self, relation: HiddenParamOpRelation, driven: int, *, folded: bool = False) -> Any:
        """Return the signal where a relation's results go: `(G, H, O, S)`.

        Args:
            relation: A relation.
            driven: Which of the groups that it drives.
            folded: Give one substep of an operation inside a loop: `G` of `folded_shape`.
        """
        values = self.values[relation.hidden_groups[driven].index]
        return gather_positions(values, relation, driven, folded=folded)

    def __add__(self, other: 'LearningSignal') -> 'LearningSignal':
        values = tuple(a + b for a, b in zip(self.values, other.values, strict=True))
        return LearningSignal(self.graph, values)


class LearningRule(abc.ABC):
    """How an eligibility trace begins, goes on, and gives credit.

    Write a frozen dataclass with these three methods; everything else follows.

    Example:
        A rule that forgets: it keeps the drive of the last step alone.

        >>> from dataclasses import dataclass
        >>> from etrace_algorithms.algebra import contract, outer
        >>> @dataclass(frozen=True)
        ... class LastStep(LearningRule):
        ...     def init(self, graph):
        ...         return zero_traces(graph)
        ...     def update(self, trace, lin):
        ...         return {r.key: tuple(outer(f, lin.x[r.key], r.substeps)
        ...                              for f in lin.f[r.key]) for r in lin.relations}
        ...     def credit(self, trace, signal):
        ...         return credit_traces(trace, signal)
    """

    @property
    def exactness(self) -> Exactness:
        """What the rule promises."""
        return Exactness.APPROXIMATE

    @abc.abstractmethod
    def init(self, graph: ETraceGraph) -> Trace:
        """Return the trace before the first step."""

    @abc.abstractmethod
    def update(self, trace: Trace, lin: Linearisation) -> Trace:
        """Advance the trace by one step; structure, shapes and dtypes stay the same."""

    @abc.abstractmethod
    def credit(self, trace: Trace, signal: LearningSignal) -> Gradients:
        r"""Return $\langle s, \varepsilon \rangle$ for every relation."""

    def history(
        self,
        before: Trace,
        after: Trace,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        r"""Return the part of one step's gradient that comes from earlier steps.

        By default $\langle L_t, \varepsilon_t\rangle - \langle L_t, f_t\otimes x_t\rangle$,
        plus the credit of what passes the new states by.

        Args:
            before: The trace before the step.
            after: The trace after the step.
            lin: The step.
            signal: $L_t$, at the new states.
            bypass: The part of $\partial\ell_t/\partial h_{t-1}$ that does not pass through the
                group's own new states; `None` where there is none.
        """
        total = self.credit(after, signal)
        now = one_step_gradients(lin, signal)
        past = {key: total[key] - now[key] for key in total}
        if bypass is None:
            return past
        beside = self.credit(before, bypass)
        return {key: past[key] + beside[key] for key in past}


def one_step_gradients(lin: Linearisation, signal: LearningSignal) -> dict[str, Any]:
    r"""Return $\langle L, f \otimes x \rangle$ for every relation."""
    return {
        r.key: sum(
            outer_gradient(signal.at(r, i), f, lin.x[r.key]) for i, f in enumerate(lin.f[r.key])
        )
        for r in lin.relations
    }
