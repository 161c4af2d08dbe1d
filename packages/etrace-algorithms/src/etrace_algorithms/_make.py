"""From the name of an algorithm to a learner, and to the rule that it would run."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import brainstate

from etrace_algorithms.learner import ETraceAlgorithm
from etrace_algorithms.learners import RuleLearner
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.rule import LearningRule
from etrace_algorithms.traced import TracedAlgorithm
from etrace_algorithms.vjp import ETraceVjpAlgorithm
from etrace_compiler.errors import explain_error

__all__ = ['OwnTrace', 'accepted_options', 'make_learner', 'make_rule', 'names_of']

_TRACE = {'init_etrace_state', '_update_etrace_data', '_get_etrace_data'}
_LEARNER_OPTIONS = ('name', 'vjp_method', 'control_flow')


class OwnTrace(TypeError):
    """A learner that is more than a rule, so that only the learner can be asked."""


def make_learner(model: brainstate.nn.Module, algorithm: Any, options: Mapping[str, Any]) -> Any:
    """Make a learner of a name, a class or a rule.

    Args:
        model: A module that does one time step.
        algorithm: Name of a learner, a learner class, a learning rule, or a class of rules.
        options: Arguments of the learner.

    Raises:
        UnknownLearnerError: If no learner has this name.
        TypeError: If `algorithm` is none of the above.
    """
    options = dict(options)
    found = get_learner(algorithm).load() if isinstance(algorithm, str) else algorithm
    if isinstance(found, type) and issubclass(found, LearningRule):
        learner_options = {k: options.pop(k) for k in list(options) if k in _LEARNER_OPTIONS}
        return RuleLearner(model, found(**options), **learner_options)
    if isinstance(found, LearningRule):
        return RuleLearner(model, found, **options)
    if callable(found) and (isinstance(algorithm, str) or _is_learner_class(found)):
        return found(model, **options)
    raise TypeError(
        explain_error(
            'algorithm',
            'is not a learning algorithm',
            got=repr(algorithm),
            expected='the name of a learner, a learner class, a learning rule, a class of rules, '
            'or a mapping from patterns of weights to these',
            fix='Run `etrace list` for the names, or pass etrace_algorithms.D_RTRL.',
            code='ETA110',
        )
    )


def _is_learner_class(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, ETraceAlgorithm)


def accepted_options(algorithm: Any) -> set[str]:
    """Return the names of the options of an algorithm."""
    factory = get_learner(algorithm).load() if isinstance(algorithm, str) else algorithm
    if isinstance(factory, LearningRule):
        return set()
    # not the class itself: the metaclass of modules hides the arguments of `__init__`
    made_by = factory.__init__ if isinstance(factory, type) else factory
    return set(inspect.signature(made_by).parameters) if callable(made_by) else set()


def make_rule(
    model: brainstate.nn.Module, algorithm: Any, options: Mapping[str, Any], *, all_of_it: bool
) -> LearningRule:
    """Return the rule that a learner would run.

    Args:
        model: A module that does one time step.
        algorithm: As in `make_learner`.
        options: Arguments of the learner.
        all_of_it: Whether the rule has to be all that makes the learner; otherwise its trace has
            to be that of its rule.

    Raises:
        OwnTrace: If it is not.
    """
    learner = make_learner(model, algorithm, options)
    base = ETraceVjpAlgorithm
    members = {**vars(TracedAlgorithm), **vars(base)}
    shared = [name for name, member in members.items()
              if callable(member) and not name.startswith('__')]  # fmt: skip
    own = [n for n in shared if getattr(type(learner), n, None) is not getattr(base, n)]
    if not _TRACE.isdisjoint(own):
        raise OwnTrace('it makes its own trace; compile it and ask learner.memory_plan()')
    if own and all_of_it:
        raise OwnTrace(f'a learner that has its own {", ".join(own)}')
    return learner.rule


def names_of(algorithms: Iterable[Any]) -> Iterator[str]:
    """Yield names that differ: a second rule of one kind is the kind with a number."""
    seen: dict[str, int] = {}
    for item in algorithms:
        name = item if isinstance(item, str) else getattr(item, '__name__', type(item).__name__)
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f'{name} {seen[name]}'
