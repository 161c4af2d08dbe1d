"""`MemoryPlan`: what learners would cost on one model, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etrace_algorithms.memory.table import format_plan
from etrace_compiler.errors import explain_error

__all__ = ['LearnerCost', 'MemoryPlan']

#: What learners promise, from the most accurate gradient to the least.
_ORDER = ('exact', 'exact-diagonal', 'approximate', 'unbiased', 'immediate')


@dataclass(frozen=True)
class LearnerCost:
    """What one learner costs on one model.

    Attributes:
        name: Name of the learner.
        exactness: What it promises.
        by_relation: Bytes of its trace by relation key.
        shared_bytes: Bytes of its trace that belong to no single relation.
        update_multiply_adds: Multiplications of one update of the trace.
    """

    name: str
    exactness: str
    by_relation: Mapping[str, int]
    shared_bytes: int
    update_multiply_adds: int

    @property
    def trace_bytes(self) -> int:
        """Bytes of the whole trace."""
        return sum(self.by_relation.values()) + self.shared_bytes

    @property
    def moved_bytes(self) -> int:
        """Bytes that one update moves at least: one read and one write of the trace."""
        return 2 * self.trace_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """What learners would cost on one model; `str(plan)` is a table.

    A learner *fits* a budget if parameters, states and its trace do: what has to be there
    between two steps. Gradients, an optimiser's moments and the intermediate values of a step
    come on top.

    Attributes:
        learners: What each learner costs, in the order in which they were asked for.
        weights: Keys of the parameters of each relation, by relation key.
        parameter_bytes: Bytes of all parameters of the model.
        state_bytes: Bytes of all other states of the model.
        step_multiply_adds: Multiply-adds of the marked operators in one step of the model.
        budget: Bytes that may be used, `None` for no limit.
        skipped: Learners that could not be measured, and why.
    """

    learners: tuple[LearnerCost, ...]
    weights: Mapping[str, tuple[str, ...]]
    parameter_bytes: int
    state_bytes: int
    step_multiply_adds: int
    budget: int | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LearnerCost:
        """Return what one learner costs.

        Raises:
            KeyError: If the plan does not have it.
        """
        for learner in self.learners:
            if learner.name == name:
                return learner
        raise KeyError(
            explain_error(
                'plan',
                'does not have this learner',
                got=repr(name),
                expected=f'one of {", ".join(cost.name for cost in self.learners)}',
                fix=self.skipped.get(name, 'Name it in memory_plan(..., learners=...).'),
                code='ETA503',
            )
        )

    def total_bytes(self, name: str) -> int:
        """Return the bytes of parameters, states and a learner's trace together."""
        return self.parameter_bytes + self.state_bytes + self[name].trace_bytes

    def fits(self, name: str) -> bool:
        """Return whether a learner fits the budget; without a budget, each one does.

        Raises:
            KeyError: If the plan does not have it.
        """
        total = self.total_bytes(name)
        return self.budget is None or total <= self.budget

    @property
    def best(self) -> str | None:
        """The most accurate learner that fits, of several the smallest; `None` if none does."""
        fitting = [cost for cost in self.learners if self.fits(cost.name)]
        chosen = min(fitting, key=lambda c: (_rank(c.exactness), c.trace_bytes), default=None)
        return None if chosen is None else chosen.name

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data that `json` can write."""
        return {
            'parameter_bytes': self.parameter_bytes,
            'state_bytes': self.state_bytes,
            'step_multiply_adds': self.step_multiply_adds,
            'budget': self.budget,
            'best': self.best,
            'weights': {key: list(names) for key, names in self.weights.items()},
            'learners': [
                {
                    'name': cost.name,
                    'exactness': cost.exactness,
                    'trace_bytes': cost.trace_bytes,
                    'total_bytes': self.total_bytes(cost.name),
                    'fits': self.fits(cost.name),
                    'by_relation': dict(cost.by_relation),
                    'shared_bytes': cost.shared_bytes,
                    'update_multiply_adds': cost.update_multiply_adds,
                    'moved_bytes': cost.moved_bytes,
                }
                for cost in self.learners
            ],
            'skipped': dict(self.skipped),
        }

    def __str__(self) -> str:
        return format_plan(self)


def _rank(exactness: str) -> int:
    return _ORDER.index(exactness) if exactness in _ORDER else len(_ORDER)
