"""What a learner holds: the trace of one parameter, and what the whole trace costs."""

from collections.abc import Mapping
from typing import Any

import jax

from etrace_algorithms.memory import (
    MemoryPlan,
    assemble_plan,
    measure_trace,
    parse_bytes,
    step_linearisation,
)
from etrace_compiler import ETraceGraph, path_key
from etrace_compiler.errors import explain_error

__all__ = ['plan_of', 'trace_of']


def trace_of(graph: ETraceGraph, trace: Any, path: Any, credits: str = 'weights') -> dict:
    """Return the parts of a trace that belong to a parameter.

    Args:
        graph: The compiled graph.
        trace: The trace.
        path: Path of the parameter.
        credits: What credit is given to; see `LearningRule.credits`.

    Raises:
        ValueError: If the parameter has no trace; the reason is in the message.
    """
    key = path_key(path)
    relations = graph.hidden_param_op_relations
    keys = {r.key for r in relations if key in map(path_key, r.trainable_paths)}
    if credits == 'parameters' and (found := _pick(trace, {key})):
        return found
    if not keys:
        reasons = '; '.join(r.message for r in graph.explain(weight_path=key))
        raise ValueError(
            explain_error(
                key,
                'has no eligibility trace',
                got=reasons or 'a parameter that the model does not have',
                expected='a weight that drives a hidden state',
                fix='See learner.show_graph() for the weights that have one.',
                code='ETA102',
            )
        )
    return _pick(trace, keys)


def _pick(data: Any, keys: set[str]) -> dict:
    """Keep the parts of a trace that stand under relation keys, at any depth.

    The innermost keys count: a rule may call one of its parts what a parameter is called.
    """
    if not isinstance(data, Mapping):
        return {}
    inner = {key: _pick(value, keys) for key, value in data.items()}
    found = {key: value for key, value in inner.items() if value}
    return found or {key: value for key, value in data.items() if key in keys}


def plan_of(learner: Any, name: str, promise: str, budget: int | str | None) -> MemoryPlan:
    """Plan the memory of a compiled learner.

    Args:
        learner: The learner.
        name: How the plan calls it.
        promise: What its rule promises.
        budget: Bytes that may be used.
    """
    limit = None if budget is None else parse_bytes(budget)
    lin, copies = step_linearisation(learner.graph), learner.batch_axis_size
    trace = learner._get_etrace_data()
    if copies is not None:
        trace = jax.eval_shape(lambda data: jax.tree.map(lambda x: x[0], data), trace)
    cost = measure_trace(name, promise, trace, learner._update_etrace_data, lin, copies)
    return assemble_plan(learner.graph, [cost], copies, limit)
