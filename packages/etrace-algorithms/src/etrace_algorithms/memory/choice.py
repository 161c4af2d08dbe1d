"""Which weight has which rule: chosen by bytes, and shown as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etrace_algorithms.memory.plan import LearnerCost, MemoryPlan
from etrace_algorithms.memory.table import align
from etrace_algorithms.memory.units import size_text
from etrace_compiler.errors import explain_error

__all__ = ['RuleChoice', 'choose_costs']


@dataclass(frozen=True)
class RuleChoice:
    """Which weight of a model has which rule; `str(choice)` is a table.

    Attributes:
        rules: By relation key, the name of its rule.
        plan: What the learner as it is costs.
        candidates: What each learner would cost that there was to choose from.
    """

    rules: Mapping[str, str]
    plan: MemoryPlan
    candidates: Sequence[LearnerCost] = ()

    @property
    def trace_bytes(self) -> int:
        """Bytes of the whole trace."""
        return self.plan.learners[0].trace_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of parameters, states and trace."""
        return self.plan.total_bytes(self.plan.learners[0].name)

    def rules_of(self, parameter: str) -> dict[str, str]:
        """Return the rule of each operation that a parameter is used in, by relation key."""
        return {key: name for key, name in self.rules.items()
                if parameter in (key, *self.plan.weights[key])}  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Return the choice as plain data that `json` can write."""
        return {
            'rules': dict(self.rules),
            'trace_bytes': self.trace_bytes,
            'total_bytes': self.total_bytes,
            'budget': self.plan.budget,
        }

    def __str__(self) -> str:
        own = self.plan.learners[0].by_relation
        rows = [['WEIGHT', 'RULE', 'TRACE', *(f'({cost.name})' for cost in self.candidates)]]
        for key, name in self.rules.items():
            others = (cost.by_relation[key] for cost in self.candidates)
            rows.append([key, name, *map(size_text, (own[key], *others))])
        total = f'trace {size_text(self.trace_bytes)}, with model {size_text(self.total_bytes)}'
        budget = self.plan.budget
        limit = '' if budget is None else f', budget {size_text(budget)}'
        return '\n'.join([*align(rows, left=2), total + limit])


def choose_costs(
    candidates: Sequence[LearnerCost], fixed_bytes: int, budget: int
) -> dict[str, str]:
    """Choose a candidate for every relation so that all traces together fit a budget.

    Args:
        candidates: From the most accurate to the smallest.
        fixed_bytes: What parameters and states take.
        budget: What all may take.

    Returns:
        By relation key, the name of its candidate.

    Raises:
        ValueError: If not even the smallest traces fit.
    """
    ladders = {key: _ladder(candidates, key) for key in candidates[0].by_relation}
    level = dict.fromkeys(ladders, 0)

    def cost(key: str) -> int:
        return candidates[ladders[key][level[key]]].by_relation[key]

    def total() -> int:
        used = {ladders[key][at] for key, at in level.items()}
        return fixed_bytes + sum(map(cost, level)) + sum(candidates[i].shared_bytes for i in used)

    while total() > budget:
        lower = [key for key in level if level[key] + 1 < len(ladders[key])]
        if not lower:
            raise ValueError(_too_small(total(), fixed_bytes, budget))
        level[max(lower, key=cost)] += 1

    def has_room(key: str) -> bool:
        level[key] -= 1
        found = total() <= budget
        level[key] += 1
        return found

    while higher := [key for key in level if level[key] and has_room(key)]:
        worst = max(ladders[key][level[key]] for key in higher)
        key = min((k for k in higher if ladders[k][level[k]] == worst), key=cost)
        level[key] -= 1
    return {key: candidates[ladders[key][at]].name for key, at in level.items()}


def _ladder(candidates: Sequence[LearnerCost], key: str) -> list[int]:
    """The candidates that make a trace smaller than all before them, by number."""
    found = [0]
    for i, candidate in enumerate(candidates):
        if candidate.by_relation[key] < candidates[found[-1]].by_relation[key]:
            found.append(i)
    return found


def _too_small(least: int, fixed_bytes: int, budget: int) -> str:
    return explain_error(
        'memory_budget',
        'is too small',
        got=f'{budget} bytes',
        expected=f'at least {least}: {fixed_bytes} for parameters and states, the rest for traces',
        fix='Raise it, take a smaller batch, or name smaller candidates.',
        code='ETA504',
    )
