"""Results on labels that are computed once: models repeat themselves, and are compiled again."""

from collections.abc import Callable, Hashable, Sequence
from itertools import count
from typing import Any

import numpy as np

from etrace_compiler.ops import operator_of
from etrace_compiler.primitives import is_elementwise
from etrace_compiler.program import Equation, Program, Var

__all__ = ['kinds_of', 'remembered']

#: Larger arrays of labels are not kept for a second use.
_KEPT = 1 << 18

#: What later programs may need as well: results that are small, of equations that are plain.
_SHARED: dict[Any, Any] = {}
_SMALL = 1 << 12
_MOST = 2048

#: Operations whose parameters are numbers.
_PLAIN = frozenset(
    """
    broadcast_in_dim concatenate cumsum dot_general expand_dims reduce_max reduce_min reduce_sum
    reshape rev slice split squeeze transpose
    """.split()
)

#: The number of each kind of plain equation. No number is given out twice.
_KINDS: dict[Hashable, int] = {}
_numbers = count()


def kinds_of(program: Program) -> list[int]:
    """Return one number per equation, the same for equations that labels pass in the same way.

    It is negative where only this program's equations can be compared.
    """
    if kinds_of in program.memo:
        return program.memo[kinds_of]
    own: dict[Hashable, int] = {}
    found = program.memo[kinds_of] = []
    for eqn in program.equations:
        kind = _plain_kind(eqn)
        if kind is None:
            found.append(own.setdefault(eqn.signature, -1 - len(own)))
        elif kind in _KINDS:
            found.append(_KINDS[kind])
        else:
            if len(_KINDS) >= _MOST:
                _KINDS.clear()
            found.append(_KINDS.setdefault(kind, next(_numbers)))
    return found


def _plain_kind(eqn: Equation) -> Hashable | None:
    """What tells all about an equation without constants and functions; `None` for others."""
    atoms = tuple(
        [(v.shape, v.dtype) if isinstance(v, Var) else None for v in (*eqn.inputs, *eqn.outputs)]
    )
    if is_elementwise(eqn):
        return eqn.name, atoms
    params = tuple(eqn.params.items())
    if None in atoms or (eqn.name not in _PLAIN and not _is_plain_operator(eqn)):
        return None
    try:
        hash(params)
    except TypeError:
        return None
    return eqn.primitive, params, atoms


def _is_plain_operator(eqn: Equation) -> bool:
    known = operator_of(eqn.primitive) is not None
    return known and not any([callable(p) for p in eqn.params.values()])


def remembered(
    memo: dict[Any, Any],
    rule: Callable,
    kind: int,
    head: Any,
    labels: Sequence[np.ndarray | None],
) -> Any:
    """Return `rule(head, labels)`, computed once for heads of one kind and the same labels.

    Models repeat themselves: the same layers, the same gates, and labels handed on as they are.

    Args:
        memo: What is known already of a program.
        rule: A function of a head and labels.
        kind: The same for heads that are as good as equal, see `kinds_of`.
        head: What the rule is about, an equation as a rule.
        labels: Arrays of labels, compared by identity.
    """
    key = (rule, kind, *map(id, labels))
    found = _SHARED.get(key) or memo.get(key)
    if found is None:
        found = labels, rule(head, labels)
        # the labels live as long as their ids
        if kind >= 0 and _are_within(_SMALL, labels) and _are_within(_SMALL, found[1]):
            if len(_SHARED) >= _MOST:
                _SHARED.clear()
            _SHARED[key] = found
        elif _are_within(_KEPT, labels):
            memo[key] = found
    return found[1]


def _are_within(most: int, labels: Sequence[np.ndarray | None]) -> bool:
    return all([a is None or a.size <= most for a in labels])
