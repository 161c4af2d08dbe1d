"""The parameters of a step, the marked operations, and where derivatives flow around these."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import jax

from etrace_compiler.analysis.flow import Reach
from etrace_compiler.canonical import parameter_only
from etrace_compiler.ops import Operator, operator_of
from etrace_compiler.program import Var
from etrace_compiler.staging import ModuleInfo, StateSpec

__all__ = ['flows_around_marks', 'marks_of', 'parameter_functions', 'parameter_leaves']

T = TypeVar('T')


def _once(find: Callable[[ModuleInfo], T]) -> Callable[[ModuleInfo], T]:
    """Look once while a step is analysed, however many passes ask."""

    @wraps(find)
    def found(info: ModuleInfo) -> T:
        memo = info.program.memo
        if find not in memo:
            memo[find] = find(info)
        return memo[find]

    return found


@_once
def parameter_leaves(info: ModuleInfo) -> dict[Var, tuple[StateSpec, str]]:
    """Map every parameter variable to its state and to the name of its leaf."""
    out = {}
    for spec in info.by_role('param'):
        skeleton = spec.treedef.unflatten(range(len(spec.leaves)))
        paths = jax.tree_util.tree_flatten_with_path(skeleton)[0]
        for v, (path, _) in zip(info.old_vars(spec), paths, strict=True):
            leaf = jax.tree_util.keystr(path, simple=True, separator='.')
            out[v] = (spec, f'{spec.key}.{leaf}' if leaf else spec.key)
    return out


@_once
def parameter_functions(info: ModuleInfo) -> set[Var]:
    """Return the variables that depend on parameters alone."""
    return parameter_only(info.program, set(parameter_leaves(info)))


@_once
def marks_of(info: ModuleInfo) -> dict[int, Operator]:
    """Return the marked operations by the index of their equations.

    A marked product of parameters alone is no more than a part of another operator's chain.
    """
    fixed, found = parameter_functions(info), {}
    for i, eqn in enumerate(info.program.equations):
        operator = operator_of(eqn.primitive)
        if operator is not None and not (operator.has_input and eqn.outputs[0] in fixed):
            found[i] = operator
    return found


@_once
def flows_around_marks(info: ModuleInfo) -> Reach:
    """Find where the derivatives of parameters flow, in order, past the weights of marks."""
    equations = info.program.equations
    weights = {(i, len(equations[i].inputs) - 1) for i in marks_of(info)}
    return Reach(info.program, [[v] for v in parameter_leaves(info)], blocked=weights)
