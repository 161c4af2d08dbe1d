"""Results on labels that are computed once: models repeat themselves."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

__all__ = ['remembered']

#: Larger arrays of labels are not kept for a second use.
_KEPT = 1 << 18


def remembered(
    memo: dict[Any, Any],
    rule: Callable,
    kind: Hashable,
    head: Any,
    labels: Sequence[np.ndarray | None],
) -> Any:
    """Return `rule(head, labels)`, computed once for heads of one kind and the same labels.

    Models repeat themselves: the same layers, the same gates, and labels handed on as they are.

    Args:
        memo: What is known already.
        rule: A function of a head and labels.
        kind: The same for heads that are as good as equal.
        head: What the rule is about, an equation as a rule.
        labels: Arrays of labels, compared by identity.
    """
    key = (rule, kind, *map(id, labels))
    found = memo.get(key)
    if found is None:
        found = labels, rule(head, labels)
        if all([a is None or a.size <= _KEPT for a in labels]):
            memo[key] = found  # the labels live as long as their ids
    return found[1]
