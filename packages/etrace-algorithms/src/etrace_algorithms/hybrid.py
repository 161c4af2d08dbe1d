"""A learner with different rules for different weights."""

from collections.abc import Mapping
from typing import Any

import brainstate

from etrace_algorithms._make import OwnTrace, accepted_options, make_rule
from etrace_algorithms.learners import RuleLearner
from etrace_algorithms.memory import RuleChoice
from etrace_algorithms.rule import LearningRule
from etrace_algorithms.rules import HybridRule, RulePart
from etrace_compiler import ControlFlowPolicy
from etrace_compiler.errors import explain_error

__all__ = ['HybridLearner', 'make_rules', 'with_options']


class HybridLearner(RuleLearner):
    """A learner with different rules for different weights.

    A pattern is held against the key of each marked operation (`'rnn.Wh.weight.bias'`) and
    those of its parameters (`'rnn.Wh.weight'`); `*` also stands for dots. The first match
    counts, so that the special comes before the general, and `'*'` last is for all others.

    Args:
        model: A module that does one time step.
        rules: By pattern the name of a learner, a learner class, a rule, a class of rules, or a
            pair of one of these and a mapping of its options.
        name: Name of the learner.
        vjp_method: `'single-step'` or `'multi-step'`, for all of them.
        control_flow: What to do with loops and branches inside the step.
        **options: Given to each of the learners that takes it, such as `trace_dtype`.

    Raises:
        TypeError: For an option that none of them takes, and a learner that is more than a rule.
        ValueError: When the graph is compiled, for patterns that do not fit its weights.

    Example:
        >>> import etrace_algorithms, etrace_nn, jax.numpy as jnp
        >>> learner = etrace_algorithms.compile(
        ...     etrace_nn.GRUCell(3, 4), {'Wh.*': 'd_rtrl', '*': ('pp_prop', {'decay_or_rank': 9})},
        ...     jnp.zeros((1, 3)), batch_size=1)
        >>> sorted(set(learner.choice.rules.values()))
        ['*', 'Wh.*']
    """

    rule: HybridRule

    def __init__(
        self,
        model: brainstate.nn.Module,
        rules: Mapping[str, Any],
        name: str | None = None,
        vjp_method: str = 'single-step',
        control_flow: ControlFlowPolicy | None = None,
        **options: Any,
    ):
        named = {pattern: with_options(value) for pattern, value in rules.items()}
        made = make_rules(model, named, vjp_method, options)
        parts = tuple(RulePart(pattern, rule, (pattern,)) for pattern, rule in made.items())
        super().__init__(model, HybridRule(parts), name, vjp_method, control_flow)

    @property
    def choice(self) -> RuleChoice:
        """Which weight has which rule, and what its trace takes; a table by `print`.

        Raises:
            ValueError: If `compile_graph` has not been called.
        """
        split = self.rule.split(self.graph)
        rules = {key: name for name, (_, keys) in split.items() for key in keys}
        order = [r.key for r in self.graph.hidden_param_op_relations]
        return RuleChoice({key: rules[key] for key in order}, self.memory_plan())


def make_rules(
    model: brainstate.nn.Module,
    named: Mapping[str, tuple[Any, Mapping[str, Any]]],
    vjp_method: str,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, LearningRule]:
    """Make rules of algorithms with options of their own and shared ones.

    Args:
        model: The model that the learners are for.
        named: By name an algorithm and its own options.
        vjp_method: That of the learner in which the rules will be.
        options: Given to each algorithm that takes it.
        defaults: Likewise; nobody needs to take them.

    Raises:
        TypeError: For an option that nobody takes, and for a learner that is more than a rule.
    """
    taken, rules = set(), {}
    for name, (algorithm, own) in named.items():
        accepted = accepted_options(algorithm)
        shared = {k: v for k, v in {**(defaults or {}), **options}.items() if k in accepted}
        taken |= shared.keys()
        method = {'vjp_method': vjp_method} if _takes_method(algorithm, accepted) else {}
        try:
            rules[name] = make_rule(model, algorithm, {**method, **shared, **own}, all_of_it=True)
        except OwnTrace as error:
            raise _refusal(
                name, 'cannot be one rule of several', str(error), 'a learner that is its rule',
                'Use it alone, or another one here.', 'ETA135',
            ) from error  # fmt: skip
    if unknown := options.keys() - taken:
        raise _refusal(
            ', '.join(sorted(unknown)), 'is an option that no learner takes',
            f'learners {", ".join(named)}', 'an option of one of them',
            'Give it to its own learner, as a pair (name, options).', 'ETA136',
        )  # fmt: skip
    return rules


def with_options(value: Any) -> tuple[Any, Mapping[str, Any]]:
    """Read an algorithm, or a pair of one and its options."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping):
        return value
    return value, {}


def _takes_method(algorithm: Any, accepted: set[str]) -> bool:
    is_rule = isinstance(algorithm, type) and issubclass(algorithm, LearningRule)
    return is_rule or isinstance(algorithm, LearningRule) or 'vjp_method' in accepted


def _refusal(subject: str, problem: str, got: str, expected: str, fix: str, code: str) -> TypeError:
    return TypeError(
        explain_error(subject, problem, got=got, expected=expected, fix=fix, code=code)
    )
