r"""The contract of a learning rule: three functions and one that follows from them.

The gradient of a window is always

$$\nabla_\theta = \sum_t G_t + \text{history},$$

where $G_t$, the gradient of one step, comes from automatic differentiation and is exact for
every parameter. A rule supplies the history: the credit that crosses a step.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra import product_gradient, pull_drive
from etrace_compiler import ETraceGraph, HiddenParamOpRelation, Linearisation, gather_positions
from etrace_compiler.errors import explain_error

__all__ = [
    'Direct',
    'Exactness',
    'Gradients',
    'LearningRule',
    'LearningSignal',
    'one_step_gradients',
    'pull_signal',
    'scan_steps',
    'window_by_steps',
    'zero_gradients',
]

#: Gradients with respect to effective weights, `(H, I, O)` by relation key.
Gradients = Mapping[str, Any]

#: Derivatives with respect to the results of operations, `(G, H, O)` by relation key.
Direct = Mapping[str, Any]

#: What a rule carries from step to step: any pytree of arrays.
Trace = Any


class Exactness(StrEnum):
    """What a rule promises about its gradient."""

    EXACT = 'exact'
    EXACT_DIAGONAL = 'exact-diagonal'
    APPROXIMATE = 'approximate'
    UNBIASED = 'unbiased'
    IMMEDIATE = 'immediate'


@partial(jax.tree_util.register_dataclass, data_fields=['values', 'output'], meta_fields=['graph'])
@dataclass(frozen=True, eq=False)
class LearningSignal:
    r"""The derivative of the loss with respect to hidden states, $\partial\ell/\partial h$.

    Attributes:
        graph: What the arrays belong to.
        values: Per group, `(*varshape, S)`.
        output: The derivative with respect to what the model returned at this step, a pytree like
            it; where that holds integers, `None`. Only for a rule that `reads_output`.
    """

    graph: ETraceGraph
    values: tuple[Any, ...]
    output: Any = None

    def at(self, relation: HiddenParamOpRelation, driven: int, *, folded: bool = False) -> Any:
        """Return the signal where a relation's results go: `(G, H, O', S)`.

        Args:
            relation: A relation.
            driven: Which of the groups that it drives.
            folded: Give one substep of an operation inside a loop: `G` of `folded_shape`.
        """
        values = self.values[relation.hidden_groups[driven].index]
        return gather_positions(values, relation, driven, folded=folded)

    def __add__(self, other: 'LearningSignal') -> 'LearningSignal':
        values = tuple(a + b for a, b in zip(self.values, other.values, strict=True))
        return replace(self, values=values)


#: Methods of a rule, and those that may solve at once what they say, and no longer do then.
_DERIVED = (
    ({'update', 'credit', 'history'}, {'gradient', 'window', 'window_gradient'}),
    ({'gradient', 'window'}, {'window_gradient'}),
)


class LearningRule(abc.ABC):
    r"""How an eligibility trace begins, goes on, and gives credit.

    Write a frozen dataclass with these three methods; everything else follows.

    Attributes:
        signal_at: Where the learning signal of a step is taken. At the `'new'` states, the rule
            says how it goes on from there, along the diagonal. At the `'old'` ones it is
            $\partial\ell_t/\partial h_{t-1}$ along every way within the step, nothing cut, and
            `credit` is all that is asked of the rule: with the trace
            $\mathrm{d}h_{t-1}/\mathrm{d}\theta$ the gradient is that of backpropagation.
        credits: What `credit` returns gradients of: effective `'weights'` of marked operations,
            by relation key; or, with the signal at the old states, all `'parameters'` of the
            step, by state key, of the form of their values.
        reads_output: Whether `LearningSignal.output` is wanted.
        exact_at_one_step: Whether the gradient of a single step is that of backpropagation. It is,
            unless a rule puts another signal in the place of the derivative of the loss.

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

    signal_at: ClassVar[Literal['new', 'old']] = 'new'
    credits: ClassVar[Literal['weights', 'parameters']] = 'weights'
    reads_output: ClassVar[bool] = False
    exact_at_one_step: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any):
        """Drop inherited ways to solve steps at once where the recursion is another one."""
        super().__init_subclass__(**kwargs)
        if cls.credits == 'parameters' and cls.signal_at == 'new':
            raise TypeError(
                explain_error(
                    f'{cls.__name__}.credits',
                    'goes with the signal at the old states',
                    got="credits='parameters' and signal_at='new'",
                    expected="credits='parameters' and signal_at='old'",
                    fix="Set signal_at = 'old', or return gradients of weights.",
                    code='ETA113',
                )
            )
        for changed, derived in _DERIVED:
            if not vars(cls).keys().isdisjoint(changed):
                for name in derived - vars(cls).keys():
                    setattr(cls, name, getattr(LearningRule, name))

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
        r"""Return $\langle s, \varepsilon \rangle$ for every relation, or for every parameter."""

    def restart(self, before: Trace, fresh: Trace) -> Trace:
        """Return the trace to go on with when the learner's states are reset.

        By default the fresh one. A rule that learns itself keeps what it has learned.

        Args:
            before: The trace until then.
            fresh: What `init` returns.
        """
        return fresh

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

    def gradient(
        self,
        before: Trace,
        after: Trace,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        r"""Return the gradient of one step: the history, and what the step itself gives.

        A rule that can do both at once overrides this; the sum must stay the same.

        Args:
            before: The trace before the step.
            after: The trace after the step.
            lin: The step.
            signal: $L_t$, at the new states.
            bypass: See `history`.
            direct: By relation key, $\partial\ell_t/\partial y_t$ along every way within the
                step, `(G, H, O)`.
        """
        past = self.history(before, after, lin, signal, bypass)
        return {r.key: past[r.key] + product_gradient(direct[r.key], lin.inputs[r.key])
                for r in lin.relations}  # fmt: skip

    def window(
        self,
        trace: Trace,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> tuple[Gradients, Trace]:
        """Return the gradient of several steps with fixed parameters, and the trace after them.

        The arguments are those of `gradient`, stacked over steps on a leading axis (in `lin` all
        but parameters). By default step after step; a rule whose recursion can be solved at
        once overrides this, with the same result to rounding.
        """
        return window_by_steps(self.update, self.gradient, trace, lin, signal, bypass, direct)

    def window_gradient(
        self,
        trace: Trace,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        """Return what `window` returns, without the trace: for a last window, which needs none."""
        return self.window(trace, lin, signal, bypass, direct)[0]


def window_by_steps(
    update: Callable[[Trace, Linearisation], Trace],
    gradient: Callable[..., Gradients],
    trace: Trace,
    lin: Linearisation,
    *taps: Any,
    zeros: Gradients | None = None,
) -> tuple[Gradients, Trace]:
    """Solve a window step after step.

    Args:
        update: Advances the trace by one step.
        gradient: `(before, after, lin, *taps) -> gradients` of one step.
        trace: The trace before the window.
        lin: The steps, stacked.
        *taps: Signals and cotangents, stacked.
        zeros: What gradients are added to; those of effective weights by default.
    """

    def body(carry: tuple, now: Linearisation, taps: Any) -> tuple[tuple, None]:
        before, total = carry
        after = update(before, now)
        found = gradient(before, after, now, *taps)
        return (after, jax.tree.map(add, total, {key: found[key] for key in total})), None

    def add(total: Any, new: Any) -> Any:
        return (total + new).astype(total.dtype)  # states may be wider than weights

    zeros = zero_gradients('weights', lin) if zeros is None else zeros
    (trace, total), _ = scan_steps(body, (trace, zeros), lin, taps)
    return total, trace


def zero_gradients(credits: str, lin: Linearisation) -> Gradients:
    """Return zeros of the form of a rule's gradients.

    Args:
        credits: `LearningRule.credits`.
        lin: One step, or several.
    """
    if credits == 'parameters':
        params = {s.key: lin.states[s.key] for s in lin.graph.module_info.by_role('param')}
        return jax.tree.map(jnp.zeros_like, params)
    return {r.key: jnp.zeros(r.block_shape[1:], r.dtype) for r in lin.relations}


def scan_steps(
    body: Callable[..., tuple[Any, Any]], carry: Any, lin: Linearisation, rest: Any = None
) -> tuple[Any, Any]:
    """`jax.lax.scan` over the steps of a window.

    Args:
        body: `(carry, linearisation of one step, slice of the rest) -> (carry, output)`.
        carry: Where it begins.
        lin: The steps, stacked; parameters have no axis of steps.
        rest: Stacked as well.
    """
    fixed = {s.key: lin.states[s.key] for s in lin.graph.module_info.by_role('param')}
    moving = {key: value for key, value in lin.states.items() if key not in fixed}

    def step(carry: Any, stacked: tuple) -> tuple[Any, Any]:
        now, part = stacked
        return body(carry, replace(now, states={**now.states, **fixed}), part)

    return jax.lax.scan(step, carry, (replace(lin, states=moving), rest))


def one_step_gradients(lin: Linearisation, signal: LearningSignal) -> dict[str, Any]:
    r"""Return $\langle L, f \otimes x \rangle$ for every relation."""
    return {
        r.key: product_gradient(pull_signal(signal, r, lin.f[r.key]), lin.inputs[r.key])
        for r in lin.relations
    }


def pull_signal(
    signal: LearningSignal, relation: HiddenParamOpRelation, drives: tuple[Any, ...]
) -> Any:
    r"""Return $\langle L, f\rangle$ at the result of an operation, over groups and states.

    Args:
        signal: At hidden states.
        relation: The operation.
        drives: `f` per driven group, `(G, H, O', S)`.

    Returns:
        `(G, H, O)`.
    """
    return sum(
        relation.place(i, pull_drive(signal.at(relation, i), f)) for i, f in enumerate(drives)
    )
