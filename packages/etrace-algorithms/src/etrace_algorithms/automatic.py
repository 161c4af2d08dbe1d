"""A learner that chooses the rule of every weight by memory."""

from collections.abc import Iterable
from typing import Any

import brainstate

from etrace_algorithms._make import names_of
from etrace_algorithms.hybrid import HybridLearner, make_rules, with_options
from etrace_algorithms.memory import (
    LearnerCost,
    RuleChoice,
    choose_costs,
    measure_model,
    measure_trace,
    parse_bytes,
    step_linearisation,
)
from etrace_algorithms.rules import HybridRule, RulePart
from etrace_compiler import ControlFlowPolicy

__all__ = ['AutoLearner']

_BUDGET = 2**30


class AutoLearner(HybridLearner):
    """A learner that gives each weight the best rule that a memory budget allows.

    Every weight begins with the first candidate. While parameters, states and traces together
    are more than the budget, the largest trace gives way to that of the next candidate that
    makes it smaller; what is left of the budget then raises weights again, those with the least
    accurate rule and the smallest traces first. The same model and budget give the same choice
    on every machine.

    Args:
        model: A module that does one time step.
        memory_budget: Bytes that may be used between two steps, a number or text such as
            `'512 MB'`; 1 GiB by default. Gradients, an optimiser's moments and the
            intermediate values of a step come on top, as in `memory_plan`.
        candidates: Learners from the most accurate to the smallest, as the values of
            `HybridLearner`. `pp_prop` has a decay of 0.9 unless `decay_or_rank` is given.
        name: Name of the learner.
        vjp_method: `'single-step'` or `'multi-step'`.
        control_flow: What to do with loops and branches inside the step.
        **options: Given to each of the candidates that takes it, such as `trace_dtype`.

    Raises:
        TypeError: As `HybridLearner`.
        ValueError: If the budget cannot be read; when the graph is compiled, if it is too small
            for the smallest traces.

    Example:
        >>> import etrace_algorithms, etrace_nn, jax.numpy as jnp
        >>> learner = etrace_algorithms.compile(
        ...     etrace_nn.GRUCell(3, 64), 'auto', jnp.zeros((8, 3)), batch_size=8,
        ...     memory_budget='100 kB')
        >>> learner.choice.rules['Wrz.weight.bias'], learner.choice.rules['Wh.weight.weight']
        ('d_rtrl', 'pp_prop')
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        memory_budget: int | str | None = None,
        candidates: Iterable[Any] = ('d_rtrl', 'pp_prop', 'immediate'),
        name: str | None = None,
        vjp_method: str = 'single-step',
        control_flow: ControlFlowPolicy | None = None,
        **options: Any,
    ):
        self.memory_budget = _BUDGET if memory_budget is None else parse_bytes(memory_budget)
        pairs = [with_options(value) for value in candidates]
        named = dict(zip(names_of(algorithm for algorithm, _ in pairs), pairs, strict=True))
        defaults = {'decay_or_rank': 0.9}
        self._candidates = make_rules(model, named, vjp_method, options, defaults)
        self._costs: tuple[LearnerCost, ...] = ()
        self._chosen_for: Any = None
        first = dict(zip('*', self._candidates.values(), strict=False))
        super().__init__(model, first, name, vjp_method, control_flow)

    @property
    def choice(self) -> RuleChoice:
        """Which weight has which rule, and what else it could have had; a table by `print`.

        Raises:
            ValueError: If `compile_graph` has not been called.
        """
        rules = super().choice.rules
        return RuleChoice(rules, self.memory_plan(self.memory_budget), self._costs)

    def init_etrace_state(self, *args: Any, **kwargs: Any) -> None:
        """Choose the rules for a graph that is new, and set the trace to its beginning."""
        wanted = self.graph, self.batch_axis_size
        if self._chosen_for is None or any(
            a is not b for a, b in zip(wanted, self._chosen_for, strict=True)
        ):
            self.rule = self._choose()
            self._chosen_for = wanted
        super().init_etrace_state(*args, **kwargs)

    def _choose(self) -> HybridRule:
        """Choose a candidate for every weight of the compiled graph."""
        copies, lin = self.batch_axis_size, step_linearisation(self.graph)
        self._costs = tuple(
            measure_trace(
                name,
                str(rule.exactness),
                brainstate.transform.eval_shape(lambda r=rule: r.init(self.graph)),
                rule.update,
                lin,
                copies,
            )
            for name, rule in self._candidates.items()
        )
        fixed = sum(measure_model(self.graph, copies))
        chosen = choose_costs(self._costs, fixed, self.memory_budget)
        parts = []
        for name, rule in self._candidates.items():
            if keys := frozenset(key for key, n in chosen.items() if n == name):
                parts.append(RulePart(name, rule, keys=keys))
        return HybridRule(tuple(parts) or self.rule.parts)
