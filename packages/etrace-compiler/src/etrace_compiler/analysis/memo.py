"""Results on labels that are computed once: models repeat themselves."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from etrace_compiler.program import Equation

__all__ = ['remembered']

#: Larger arrays of labels are not kept for a second use.
_KEPT = 1 << 18


def remembered(
    memo: dict[Any, Any], rule: Callable, head: Any, labels: Sequence[np.ndarray | None]
) -> Any:
    """Return `rule(head, labels)`, computed once for the same labels and heads that are equal.

    Models repeat themselves: the same layers, the same gates, and labels handed on as they are.

    Args:
        memo: What is known already.
        rule: A function of an equation and labels.
        head: An equation, compared by its signature, or a plain value.
        labels: Arrays of labels, compared by identity.
    """
    for a in labels:
        if a is not None and a.size > _KEPT:
            return rule(head, labels)
    name = head.signature if isinstance(head, Equation) else head
    key = (rule, name, *map(id, labels))
    found = memo.get(key)
    if found is None:
        found = memo[key] = labels, rule(head, labels)  # the labels live as long as their ids
    return found[1]
