"""Different rules for different weights, as one rule.

Each rule sees the part of the graph that its weights make up, with all hidden groups. What a
rule says of a weight depends on no other weight, so that every weight has the gradient of its
own rule.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from etrace_algorithms.rule import Direct, Exactness, Gradients, LearningRule, LearningSignal
from etrace_compiler import ETraceGraph, HiddenParamOpRelation, Linearisation, path_key
from etrace_compiler.errors import explain_error

__all__ = ['HybridRule', 'RulePart']


@dataclass(frozen=True)
class RulePart:
    """A rule, and which weights it is for.

    Attributes:
        name: What its part of the trace is called.
        rule: The rule.
        patterns: Names of weights, with the wildcards `*`, `?` and `[...]`; `*` also stands for
            dots.
        keys: Keys of relations that are meant besides, literally.
    """

    name: str
    rule: LearningRule
    patterns: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()

    def __contains__(self, relation: HiddenParamOpRelation) -> bool:
        """Whether a marked operation is meant: by its key, or that of one of its parameters."""
        names = relation.key, *map(path_key, relation.trainable_paths)
        return relation.key in self.keys or any(map(self.matches, names))

    def matches(self, name: str) -> bool:
        """Whether a name is that of a pattern."""
        return any(name == p or fnmatchcase(name, p) for p in self.patterns)


@dataclass(frozen=True)
class HybridRule(LearningRule):
    """Give every weight the rule of the first part that matches it.

    The unit is the marked operation: where several parameters make up one weight (a low-rank
    product, a mask), the first part that matches any of them has the operation.

    Attributes:
        parts: In the order in which they are tried.

    Raises:
        ValueError: For two parts of one name, and for rules that take their signal at different
            states or credit parameters in place of weights. When a graph is compiled: for a part
            that no weight matches, one that comes too late, and a weight without a part.

    Example:
        >>> from etrace_algorithms.rules import DiagonalRTRL, ImmediateDerivatives
        >>> rule = HybridRule((RulePart('slow', DiagonalRTRL(), ('rnn.*',)),
        ...                    RulePart('rest', ImmediateDerivatives(), ('*',))))
        >>> str(rule.exactness)
        'approximate'
    """

    parts: tuple[RulePart, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                explain_error(
                    'parts',
                    'are not told apart by name',
                    got=f'{names}',
                    expected='one or more parts, each with a name of its own',
                    fix='Name every part differently.',
                    code='ETA131',
                )
            )
        rules = [part.rule for part in self.parts]
        wanted = {(rule.signal_at, rule.credits) for rule in rules}
        if len(wanted) > 1 or wanted <= {('old', 'parameters')}:
            raise ValueError(
                explain_error(
                    ', '.join(names),
                    'cannot be parts of one rule',
                    got=' and '.join(f'{c} credited at {s} states' for s, c in sorted(wanted)),
                    expected='weights credited at the same states, by all of them',
                    fix='Use one of them for all weights; a rule says it with `signal_at` and '
                    '`credits`.',
                    code='ETA137',
                )
            )
        found = {
            'signal_at': rules[0].signal_at,
            'reads_output': any(rule.reads_output for rule in rules),
            'exact_at_one_step': all(rule.exact_at_one_step for rule in rules),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def exactness(self) -> Exactness:
        """What is promised of every weight."""
        found = {part.rule.exactness for part in self.parts}
        return found.pop() if len(found) == 1 else Exactness.APPROXIMATE

    def split(self, graph: ETraceGraph) -> dict[str, tuple[LearningRule, frozenset[str]]]:
        """Return by name of a part its rule and the keys of its relations; not those without.

        Raises:
            ValueError: If the parts do not fit the weights of the graph.
        """
        memo = f'hybrid {[(part.patterns, sorted(part.keys)) for part in self.parts]}'
        if memo not in graph.memo:
            graph.memo[memo] = self._assign(graph)
        keys = graph.memo[memo]
        return {p.name: (p.rule, k) for p, k in zip(self.parts, keys, strict=True) if k}

    def _assign(self, graph: ETraceGraph) -> list[frozenset[str]]:
        """Find the keys of the relations of every part."""
        relations = graph.hidden_param_op_relations
        parameters = [path_key(path) for path in graph.module_info.parameter_paths]
        left, found = [r.key for r in relations], []
        for part in self.parts:
            meant = {r.key for r in relations if r in part}
            own = meant.intersection(left)
            if not meant and not any(map(part.matches, parameters)):
                raise _no_match(part.name, [*parameters, *(r.key for r in relations)])
            if meant and not own:
                raise _too_late(part.name)
            left = [key for key in left if key not in own]
            found.append(frozenset(own))
        if left:
            raise _no_rule(left)
        return found

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        """Return the trace of every part, by its name."""
        return {name: rule.init(graph.part(keys))
                for name, (rule, keys) in self.split(graph).items()}  # fmt: skip

    def restart(self, before: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
        """Let every part keep what it keeps."""
        rules = {part.name: part.rule for part in self.parts}
        return {name: rules[name].restart(before[name], new) for name, new in fresh.items()}

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        """Advance every part."""
        return {name: rule.update(trace[name], lin.part(keys))
                for name, (rule, keys) in self.split(lin.graph).items()}  # fmt: skip

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        """Return what every part credits."""
        found = {}
        for name, (rule, keys) in self.split(signal.graph).items():
            found |= rule.credit(trace[name], _signal(signal, keys))
        return found

    def history(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        """Return the history of every part."""
        found = {}
        for name, (rule, keys) in self.split(lin.graph).items():
            taps = _taps(keys, signal, bypass, {})
            found |= rule.history(before[name], after[name], lin.part(keys), *taps[:2])
        return found

    def gradient(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        """Return the gradient of every part, each by its own rule."""
        found = {}
        for name, (rule, keys) in self.split(lin.graph).items():
            taps = _taps(keys, signal, bypass, direct)
            found |= rule.gradient(before[name], after[name], lin.part(keys), *taps)
        return found

    def window(
        self,
        trace: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> tuple[Gradients, dict[str, Any]]:
        """Solve several steps, each part in the window form of its own rule."""
        found, after = {}, {}
        for name, (rule, keys) in self.split(lin.graph).items():
            taps = _taps(keys, signal, bypass, direct)
            gradients, after[name] = rule.window(trace[name], lin.part(keys), *taps)
            found |= gradients
        return found, after

    def window_gradient(
        self,
        trace: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        """Solve a last window."""
        found = {}
        for name, (rule, keys) in self.split(lin.graph).items():
            taps = _taps(keys, signal, bypass, direct)
            found |= rule.window_gradient(trace[name], lin.part(keys), *taps)
        return found


def _signal(signal: LearningSignal, keys: frozenset[str]) -> LearningSignal:
    return replace(signal, graph=signal.graph.part(keys))


def _taps(
    keys: frozenset[str], signal: LearningSignal, bypass: LearningSignal | None, direct: Direct
) -> tuple[LearningSignal, LearningSignal | None, Direct]:
    """What a rule is told of a step, of its own relations alone."""
    beside = None if bypass is None else _signal(bypass, keys)
    return _signal(signal, keys), beside, {key: d for key, d in direct.items() if key in keys}


def _no_match(name: str, weights: Iterable[str]) -> ValueError:
    return ValueError(
        explain_error(
            name,
            'matches no weight',
            got='a model with other names',
            expected=f'one of {_listed(weights)}',
            fix="Correct the pattern; '*' stands for anything.",
            code='ETA132',
        )
    )


def _too_late(name: str) -> ValueError:
    return ValueError(
        explain_error(
            name,
            'comes too late',
            got='weights that earlier patterns have taken, all of them',
            expected='the special before the general',
            fix='The first match counts: put it first, or leave it out.',
            code='ETA133',
        )
    )


def _no_rule(weights: Iterable[str]) -> ValueError:
    return ValueError(
        explain_error(
            _listed(weights),
            'has no rule',
            got='patterns that do not match it',
            expected='a pattern for every weight with a trace',
            fix="Add one, or '*' for all others, last.",
            code='ETA134',
        )
    )


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    return ', '.join(found[:8]) + (f' and {len(found) - 8} others' if len(found) > 8 else '')
