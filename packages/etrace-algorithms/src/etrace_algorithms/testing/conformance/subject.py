"""The learner that is being asked, and its gradients, each computed once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms.plugins import LearnerSpec, get_learner
from etrace_algorithms.rule import LearningRule
from etrace_algorithms.testing.conformance.cases import CASES, STEPS, Case, probe_of
from etrace_compiler import path_key

__all__ = ['Broken', 'Subject', 'distance', 'has_keys']

Gradients = Mapping[Any, Any]

#: Largest relative error that counts as rounding in float64.
ROUNDING = 1e-9


class Broken(Exception):
    """The answer to a question is no; the message says what is wrong."""


@dataclass
class Subject:
    """A learner that is being asked.

    Attributes:
        algorithm: What `compile` takes: a name, a rule, or a class.
        name: Its name in the report.
        exactness: What it promises.
        spec: What its plugin says of it, if there is one.
        options: Options of the learner.
        level: `'quick'` or `'full'`.
    """

    algorithm: Any
    name: str
    exactness: str
    spec: LearnerSpec | None
    options: dict[str, Any]
    level: str
    _learners: dict[Any, Any] = field(default_factory=dict)
    _found: dict[Any, Gradients] = field(default_factory=dict)

    @classmethod
    def of(cls, learner: Any, options: dict[str, Any], level: str) -> 'Subject':
        """Make the subject of a name, a spec, a rule or a class of learners."""
        spec = get_learner(learner) if isinstance(learner, str) else None
        if isinstance(learner, LearnerSpec):
            spec, learner = learner, learner.load()
        if spec is not None:
            return cls(learner, spec.name, spec.exactness, spec, options, level)
        name = getattr(learner, '__name__', type(learner).__name__)
        found = cls(learner, name, '', None, options, level)
        rule = learner if isinstance(learner, LearningRule) else found.rule
        found.exactness = 'approximate' if rule is None else str(rule.exactness)
        return found

    @property
    def rule(self) -> LearningRule | None:
        """The rule inside the learner, if there is one."""
        return getattr(self.learner('leaky integrator'), 'rule', None)

    @property
    def exact_at_one_step(self) -> bool:
        """Whether the learner claims it."""
        return getattr(self.rule, 'exact_at_one_step', True)

    @property
    def by_windows(self) -> bool:
        """Whether automatic differentiation runs within the learner's windows."""
        return self.learner('leaky integrator').vjp_method == 'multi-step'

    def cases(self, diagonal: bool | None = None) -> Iterator[Case]:
        """The models of this level, all or those of one kind."""
        for case in CASES:
            wanted = case.quick or self.level == 'full'
            if wanted and diagonal in (None, case.diagonal):
                yield case

    def learner(self, case: str, dtype: Any = None) -> Any:
        """The learner, compiled for the model of a case."""
        key = case, dtype
        if key not in self._learners:
            probe = probe_of(case, dtype)
            probe.restart(probe.learner)
            self._learners[key] = probe.another(self.algorithm, **self.options)
        return self._learners[key]

    def online(self, case: str, steps: int = STEPS, chunk: int = 1, dtype: Any = None) -> Gradients:
        """The gradient of the learner for the losses of the first steps."""
        key = 'online', case, steps, chunk, dtype
        if key not in self._found:
            learner = self.learner(case, dtype)
            found = probe_of(case, dtype).online(learner, mask_of(steps, dtype), chunk)
            self._found[key] = found
        return self._found[key]

    def exact(self, case: str, steps: int = STEPS) -> Gradients:
        """The gradient of backpropagation for the losses of the first steps."""
        return backpropagated(case, steps)

    def must_equal(
        self, found: Gradients, wanted: Gradients, where: str, slack: float = ROUNDING
    ) -> float:
        """Return the largest relative error of any parameter.

        Raises:
            Broken: If it is more than rounding.
        """
        worst = 0.0
        for path, value in wanted.items():
            if path not in found:
                raise Broken(f'{where}: no gradient for {path_key(path)}')
            error = distance(found[path], value)
            if not error <= slack:
                raise Broken(f'{where}: {path_key(path)} differs by {error:.1e} of its size')
            worst = max(worst, error)
        return worst


_BACKPROPAGATED: dict[Any, Gradients] = {}


def backpropagated(case: str, steps: int) -> Gradients:
    """The gradient of backpropagation, computed once for all learners."""
    if (case, steps) not in _BACKPROPAGATED:
        _BACKPROPAGATED[case, steps] = probe_of(case).backpropagated(mask_of(steps))
    return _BACKPROPAGATED[case, steps]


def mask_of(steps: int, dtype: Any = None) -> Any:
    """Return the mask of the first steps."""
    return jnp.asarray(np.arange(STEPS) < steps, dtype or jnp.float64)


def distance(found: Any, wanted: Any) -> float:
    """Return the largest difference, relative to the largest element."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = float(np.max(np.abs(b), initial=0)) or 1.0
        worst = max(worst, float(np.max(np.abs(a - b), initial=0)) / scale)
        if not np.all(np.isfinite(a)):
            return float('inf')
    return worst


def has_keys(trace: Any) -> bool:
    """Whether a trace holds random keys."""
    return any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(trace))


#: A question: raises `Broken`, or says what was measured.
Ask = Callable[[Subject], str]
