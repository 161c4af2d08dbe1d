"""The pipeline: from a model to a compiled graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import brainstate
import jax

from etrace_compiler.analysis.exactness import find_exactness
from etrace_compiler.analysis.groups import find_hidden_groups
from etrace_compiler.analysis.parameters import diagnose_history, diagnose_parameters
from etrace_compiler.analysis.relations import diagnose_relations, find_relations
from etrace_compiler.canonical import ControlFlowPolicy
from etrace_compiler.contract import Verdict, WeightExactness
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.evaluate import StepEvaluator
from etrace_compiler.graph import ETraceGraph, HiddenPerturbation
from etrace_compiler.labels import is_known
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation
from etrace_compiler.staging import ModuleInfo, extract_module_info, path_key

__all__ = [
    'add_hidden_perturbation_from_minfo',
    'add_hidden_perturbation_in_module',
    'compile_etrace_graph',
    'find_hidden_groups_from_minfo',
    'find_hidden_groups_from_module',
    'find_hidden_param_op_relations_from_minfo',
    'find_hidden_param_op_relations_from_module',
]


def compile_etrace_graph(
    model: brainstate.nn.Module,
    *model_args: Any,
    include_hidden_perturb: bool = True,
    control_flow: ControlFlowPolicy | None = None,
) -> ETraceGraph:
    """Find which hidden states every parameter of a model drives.

    Args:
        model: A module that does one time step, with its states initialised.
        *model_args: Example arguments of one step; only shapes and dtypes matter.
        include_hidden_perturb: Whether to add the perturbed step to the graph.
        control_flow: What to do with loops and branches inside the step.

    Returns:
        The graph, with a record of every decision in `diagnostics`.

    Raises:
        TypeError: If `model` is not a `brainstate.nn.Module`.
        CompilationError: If the step cannot be compiled; the message names the user's line.

    Example:
        >>> import brainstate, jax.numpy as jnp
        >>> from etrace_nn import GRUCell
        >>> cell = GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> graph = compile_etrace_graph(cell, jnp.ones(3))
        >>> len(graph.hidden_groups)
        1
    """
    info = extract_module_info(model, *model_args, control_flow=control_flow)
    groups, group_records = find_hidden_groups(info)
    groups, relations, relation_records = find_relations(info, groups)
    exactness, exactness_records = find_exactness(info, groups, relations)
    relations, worth = diagnose_relations(relations, exactness)
    perturb = add_hidden_perturbation_from_minfo(info, groups) if include_hidden_perturb else None
    records = (
        *info.records,
        *group_records,
        *worth,
        *relation_records,
        *diagnose_history(groups, relations),
        *diagnose_parameters(info, relations),
        *exactness_records,
        *_diagnose_unknown(info, groups),
    )
    records = tuple(_by_the_contract(r, exactness) for r in records)
    info.program.memo.clear()
    by_path = {path: group for group in groups for path in group.hidden_paths}
    return ETraceGraph(info, groups, by_path, relations, perturb, records, exactness)


def _by_the_contract(
    found: CompilationRecord, exactness: Mapping[str, WeightExactness]
) -> CompilationRecord:
    """Promise a complete one-step gradient only where nothing else carries it on."""
    complete = '; its one-step gradient is complete'
    if found.weight_path is None or not found.message.endswith(complete):
        return found
    if exactness[path_key(found.weight_path)].verdict is Verdict.EXACT:
        return found
    return replace(found, message=found.message.replace(complete, ', but others that live on'))


def find_hidden_groups_from_module(
    model: brainstate.nn.Module, *model_args: Any
) -> tuple[tuple[HiddenGroup, ...], dict[tuple[str, ...], HiddenGroup]]:
    """Trace a model and find its hidden groups.

    Returns:
        The groups, and the group of each hidden state by path.
    """
    return find_hidden_groups_from_minfo(extract_module_info(model, *model_args))


def find_hidden_groups_from_minfo(
    minfo: ModuleInfo,
) -> tuple[tuple[HiddenGroup, ...], dict[tuple[str, ...], HiddenGroup]]:
    """Find the hidden groups of a traced step; see `find_hidden_groups_from_module`."""
    groups, _ = find_hidden_groups(minfo)
    return groups, {path: group for group in groups for path in group.hidden_paths}


def find_hidden_param_op_relations_from_module(
    model: brainstate.nn.Module, *model_args: Any
) -> tuple[HiddenParamOpRelation, ...]:
    """Trace a model and find which marked operations drive which hidden groups."""
    return find_hidden_param_op_relations_from_minfo(extract_module_info(model, *model_args))


def find_hidden_param_op_relations_from_minfo(
    minfo: ModuleInfo, groups: Sequence[HiddenGroup] | None = None
) -> tuple[HiddenParamOpRelation, ...]:
    """Find the relations of a traced step, to groups that are known or found here."""
    groups = find_hidden_groups(minfo)[0] if groups is None else groups
    return find_relations(minfo, groups)[1]


def add_hidden_perturbation_in_module(
    model: brainstate.nn.Module, *model_args: Any
) -> HiddenPerturbation:
    """Trace a model and make its step with perturbed hidden states."""
    return add_hidden_perturbation_from_minfo(extract_module_info(model, *model_args))


def add_hidden_perturbation_from_minfo(
    minfo: ModuleInfo, groups: Sequence[HiddenGroup] | None = None
) -> HiddenPerturbation:
    """Make the perturbed step of a traced step; see `HiddenPerturbation`."""
    groups = find_hidden_groups(minfo)[0] if groups is None else groups
    return HiddenPerturbation(
        tuple(v for g in groups for v in g.hidden_outvars),
        tuple(p for g in groups for p in g.hidden_paths),
        tuple(s for g in groups for s in g.hidden_states),
        _PerturbedStep(minfo, tuple(groups)),
    )


class _PerturbedStep:
    """Evaluate a step with one perturbation per hidden state, in the order of the groups."""

    def __init__(self, info: ModuleInfo, groups: tuple[HiddenGroup, ...]):
        self._info = info
        self._groups = groups

    @cached_property
    def _evaluator(self) -> StepEvaluator:
        return StepEvaluator(self._info, self._groups)

    def __reduce__(self) -> tuple:
        return _PerturbedStep, (self._info, self._groups)

    def __call__(self, args: tuple, states: dict[str, Any], perturb: list) -> Any:
        mantissas = iter([jax.tree.leaves(p)[0] for p in perturb])
        per_group = [[next(mantissas) for _ in g.hidden_paths] for g in self._groups]
        return self._evaluator(args, states, per_group)

    def jaxpr(self) -> Any:
        """Trace the perturbed step on the shapes that it was compiled for."""
        info = self._info
        args = info.in_tree.unflatten(info.in_avals)
        states = {s.key: s.treedef.unflatten(s.leaves) for s in info.states}
        perturb = [s.leaves[0] for g in self._groups for s in g.hidden_states]
        return jax.make_jaxpr(self)(args, states, perturb)


def _diagnose_unknown(
    info: ModuleInfo, groups: Sequence[HiddenGroup]
) -> tuple[CompilationRecord, ...]:
    """Name the cut operations that the compiler does not know how to follow."""
    records, seen = [], set()
    for group in groups:
        for cut in (*group.hidden_cuts, *group.drive_cuts):
            eqn = info.program.equations[cut.equation]
            if is_known(eqn) or cut.equation in seen:
                continue
            seen.add(cut.equation)
            names = ', '.join(map(path_key, group.hidden_paths))
            records.append(
                record(
                    DiagnosticKind.UNKNOWN_PRIMITIVE,
                    f'`{eqn.name}` on the way to {names} is taken to mix all positions',
                    primitive=eqn.name,
                    hidden_paths=group.hidden_paths,
                    source=eqn.source,
                )
            )
    return tuple(records)
