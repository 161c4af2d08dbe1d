"""From a compiled graph to bytes and operations, without running or allocating anything."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.batching import state_axes
from etrace_algorithms.memory.counts import marked_multiply_adds, multiply_adds
from etrace_algorithms.memory.plan import LearnerCost, MemoryPlan
from etrace_compiler import ETraceGraph, Linearisation, Lineariser, path_key

__all__ = [
    'array_bytes',
    'assemble_plan',
    'measure_model',
    'measure_trace',
    'step_linearisation',
]


def array_bytes(tree: Any) -> int:
    """Return the bytes of all arrays in a pytree; shapes and dtypes are enough."""
    return sum(
        math.prod(jnp.shape(x)) * jax.dtypes.result_type(x).itemsize for x in jax.tree.leaves(tree)
    )


def measure_model(graph: ETraceGraph, copies: int | None = None) -> tuple[int, int]:
    """Return the bytes of a model's parameters, and of all its other states.

    Args:
        graph: The compiled graph.
        copies: Number of samples that `vmap` adds, `None` without one.
    """
    info = graph.module_info
    live = info.retrieved_model_states
    parameters = sum(array_bytes(live[path].value) for path in info.parameter_paths)
    axes = state_axes(info)
    states = sum(
        array_bytes(spec.leaves) * (1 if copies is None or axes[spec.key] is None else copies)
        for spec in info.states
        if spec.role != 'param'
    )
    return parameters, states


def step_linearisation(graph: ETraceGraph) -> Linearisation:
    """Return the shapes and dtypes of what one step hands to a learning rule."""
    info = graph.module_info
    args = info.in_tree.unflatten(info.in_avals)
    states = {spec.key: spec.treedef.unflatten(spec.leaves) for spec in info.states}
    return jax.eval_shape(Lineariser(graph), args, states)[2]


def measure_trace(
    name: str,
    exactness: str,
    trace: Any,
    update: Callable[[Any, Linearisation], Any],
    lin: Linearisation,
    copies: int | None = None,
) -> LearnerCost:
    """Measure a trace, and the function that advances it.

    Args:
        name: Name of the learner.
        exactness: What it promises.
        trace: The trace, or its shapes and dtypes, of one sample where `vmap` adds more.
        update: Advances it by one step.
        lin: Shapes of a step, from `step_linearisation`.
        copies: Number of samples that `vmap` adds, `None` without one.

    Returns:
        What the learner costs.
    """
    keys = [r.key for r in lin.relations]
    times = 1 if copies is None else copies
    by_relation, shared = dict.fromkeys(keys, 0), 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(trace):
        # the innermost key counts: a rule may call one of its parts what a parameter is called
        owner = next((k for k in map(_dict_key, reversed(path)) if k in by_relation), None)
        size = times * array_bytes(leaf)
        if owner is None:
            shared += size
        else:
            by_relation[owner] += size
    work = times * multiply_adds(update, trace, lin)
    return LearnerCost(name, str(exactness), by_relation, shared, work)


def assemble_plan(
    graph: ETraceGraph,
    learners: Iterable[LearnerCost],
    copies: int | None = None,
    budget: int | None = None,
    skipped: Mapping[str, str] | None = None,
) -> MemoryPlan:
    """Put learners that were measured on one graph together with what the model costs."""
    parameters, states = measure_model(graph, copies)
    weights = {
        r.key: tuple(map(path_key, r.trainable_paths)) for r in graph.hidden_param_op_relations
    }
    work = marked_multiply_adds(graph.module_info.closed_jaxpr)
    work *= 1 if copies is None else copies
    return MemoryPlan(tuple(learners), weights, parameters, states, work, budget, skipped or {})


def _dict_key(entry: Any) -> Any:
    return entry.key if isinstance(entry, jax.tree_util.DictKey) else None
