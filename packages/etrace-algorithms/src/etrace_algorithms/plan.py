"""`memory_plan`: what learners would cost on a model, before anything runs."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import brainstate

from etrace_algorithms._make import OwnTrace, accepted_options, make_rule, names_of
from etrace_algorithms.abstract import compile_abstract
from etrace_algorithms.learner import ETraceAlgorithm
from etrace_algorithms.memory import (
    LearnerCost,
    MemoryPlan,
    assemble_plan,
    measure_trace,
    parse_bytes,
    step_linearisation,
)
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.plugins import learners as installed_learners
from etrace_algorithms.plugins.lookup import discovered
from etrace_algorithms.rule import LearningRule
from etrace_compiler import ETraceGraph, Linearisation, get_single_step_data
from etrace_compiler.errors import explain_error

__all__ = ['LearnerCost', 'MemoryPlan', 'memory_plan']

#: Options that a learner insists on and that do not change the size of its trace.
_ANY_VALUE = {'decay_or_rank': 0.9, 'leak': 0.9}


def memory_plan(
    subject: brainstate.nn.Module | ETraceGraph,
    *example_inputs: Any,
    learners: Any = ('d_rtrl', 'pp_prop', 'immediate'),
    batch_size: int | None = None,
    trace_dtype: Any = None,
    budget: int | str | None = None,
) -> MemoryPlan:
    """Say what learners would cost on a model, without running it or giving memory to a trace.

    Bytes are those of the arrays that each rule makes for the compiled graph, multiplications
    those of its own update, both from shapes alone. To compile, the model's step and its
    `init_state` are traced; an `init_state` that cannot be traced is run. The model is left as
    it was. The compiler itself needs a few integers per element of states and marked results.

    Args:
        subject: A model; a compiled graph; or a learner, whose graph is taken unless inputs
            are given.
        *example_inputs: Arguments of one step, arrays or `jax.ShapeDtypeStruct`.
        learners: Names, learner classes and rules; or a mapping from names to options; `None`
            for all that are installed.
        batch_size: Compile the model with states of this batch size, which has to be that of
            the inputs. By default states are taken as they are. For a learner that runs by vmap,
            the number of samples.
        trace_dtype: Dtype of the traces, for rules that have this choice.
        budget: Bytes that may be used, a number or text such as `'512 MB'`.

    Returns:
        The plan: data, and a table by `print`.

    Raises:
        ValueError: If a graph, or a learner without inputs, is asked for another batch size, or
            the budget cannot be read.
        TypeError: If `subject` is none of the above.
        UnknownLearnerError: If no learner has a name; the message has the nearest match.
        CompilationError: If the model cannot be compiled.

    Example:
        >>> import etrace_nn, jax, jax.numpy as jnp
        >>> x = jax.ShapeDtypeStruct((64, 100), jnp.float32)
        >>> plan = memory_plan(etrace_nn.GRUCell(100, 256), x, batch_size=64, budget='100 MB')
        >>> plan['d_rtrl'].trace_bytes, plan['pp_prop'].trace_bytes
        (46792704, 444932)
        >>> plan.best
        'd_rtrl'
    """
    limit = None if budget is None else parse_bytes(budget)
    graph, copies = _graph_of(subject, example_inputs, batch_size)
    # a rule is asked for shapes alone, so without a model any other will do to make its learner
    model = subject.model if isinstance(subject, ETraceAlgorithm) else subject
    model = brainstate.nn.Module() if isinstance(model, ETraceGraph) else model
    lin = step_linearisation(graph)
    costs, skipped = [], {}
    for name, algorithm, options in _requests(learners):
        try:
            rule, exactness = _rule_of(model, algorithm, options, trace_dtype)
            costs.append(_measure(name, exactness, rule, lin, copies))
        except OwnTrace as error:
            skipped[name] = str(error)
        except Exception as error:
            if learners is not None:
                raise
            skipped[name] = f'{type(error).__name__}: {error}'
    return assemble_plan(graph, costs, copies, limit, skipped)


def _graph_of(
    subject: Any, inputs: tuple[Any, ...], batch_size: int | None
) -> tuple[ETraceGraph, int | None]:
    """Return the graph to plan for, and the number of samples that vmap adds to it."""
    inputs = get_single_step_data(*inputs)
    is_learner = isinstance(subject, ETraceAlgorithm)
    if is_learner and inputs:
        policy = subject.executor.control_flow
        graph = compile_abstract(subject.model, *inputs, batch_size=batch_size, control_flow=policy)
        return graph, None
    if is_learner and subject.batch_axis_size is not None:
        return subject.graph, batch_size or subject.batch_axis_size
    if is_learner or isinstance(subject, ETraceGraph):
        if inputs or batch_size is not None:
            raise ValueError(
                explain_error(
                    'memory_plan',
                    'cannot change a compiled graph',
                    got=f'batch_size={batch_size!r} and {len(inputs)} inputs',
                    expected='neither, for a graph; both or neither, for a learner',
                    fix='Pass the model and inputs of that batch size.',
                    code='ETA502',
                )
            )
        return (subject.graph if is_learner else subject), None
    return compile_abstract(subject, *inputs, batch_size=batch_size), None


def _requests(learners: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield the name, the algorithm and the options of everything asked for."""
    if learners is None:
        for spec in installed_learners():
            name = discovered().registry.name_of(spec)  # where two claim one name
            yield name, name, {}
    elif isinstance(learners, Mapping):
        for name, options in learners.items():
            yield name, name, dict(options)
    else:
        items = [learners] if isinstance(learners, (str, LearningRule, type)) else list(learners)
        yield from zip(names_of(items), items, ({} for _ in items), strict=True)


def _rule_of(
    model: Any, algorithm: Any, options: dict[str, Any], trace_dtype: Any
) -> tuple[LearningRule, str]:
    """Return the rule that a learner would run, and what it promises."""
    spec = get_learner(algorithm) if isinstance(algorithm, str) else None
    accepted = accepted_options(algorithm)
    options = {**{k: v for k, v in _ANY_VALUE.items() if k in accepted}, **options}
    rule: Any = make_rule(model, algorithm, options, all_of_it=False)
    if trace_dtype is not None and 'trace_dtype' in {f.name for f in dataclasses.fields(rule)}:
        rule = dataclasses.replace(rule, trace_dtype=trace_dtype)
    return rule, spec.exactness if spec else str(rule.exactness)


def _measure(
    name: str, exactness: str, rule: LearningRule, lin: Linearisation, copies: int | None
) -> LearnerCost:
    trace = brainstate.transform.eval_shape(lambda: rule.init(lin.graph))
    return measure_trace(name, exactness, trace, rule.update, lin, copies)
