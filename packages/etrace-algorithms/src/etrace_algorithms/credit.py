"""Where a step is tapped for credit, and what the taps say to a learning rule."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etrace_algorithms.rule import Gradients, LearningSignal
from etrace_compiler import ETraceGraph, effective_weights

__all__ = ['Taps', 'make_anchor', 'make_taps', 'pull_back', 'read_taps']


class Taps(NamedTuple):
    """Zeros that are added within a step; the cotangents that reach them are its credit.

    Attributes:
        new: Added to the new hidden states: per group, one array per state.
        old: Added to the old hidden states where they act beside the new ones; `None` for a
            group whose old states do not.
        results: Added to the results of the marked operations, by relation key.
    """

    new: list[list[Any]]
    old: list[list[Any] | None]
    results: Mapping[str, Any]


def make_taps(
    graph: ETraceGraph,
    bypassed: frozenset[int],
    *,
    axes: tuple[int, ...] = (),
    anchor: Any = None,
    window: bool = False,
) -> Taps:
    """Return zeros for every tap.

    Args:
        graph: The compiled graph.
        bypassed: Groups whose old states act beside their new ones.
        axes: Leading axes, of steps and of a batch.
        anchor: A zero to add: it makes the taps depend on what it depends on.
        window: Whether to tap the entry of a window alone: `new` are the states that enter.
    """

    def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
        found = jnp.zeros((*axes, *shape), dtype)
        return found if anchor is None else found + anchor.astype(dtype)

    def states(group: Any) -> list[Any]:
        return [zeros(s.leaves[0].shape, s.leaves[0].dtype) for s in group.hidden_states]

    groups = graph.hidden_groups
    return Taps(
        [states(g) for g in groups],
        [states(g) if g.index in bypassed and not window else None for g in groups],
        {
            r.key: zeros(r.result_shape, r.dtype)
            for r in (() if window else graph.hidden_param_op_relations)
        },
    )


def read_taps(
    graph: ETraceGraph, taps: Taps
) -> tuple[LearningSignal, LearningSignal | None, dict[str, Any]]:
    """Bring cotangents of taps into the form that rules read.

    Args:
        graph: The compiled graph.
        taps: Cotangents, without leading axes.

    Returns:
        The signal at the new states; that at the old states, `None` where there is none; and
        by relation key the derivative with respect to the operation's result, `(G, H, O)`.
    """
    bypass = None if all(part is None for part in taps.old) else _signal(graph, taps.old)
    direct = {key: graph.relation(key).y_block(value) for key, value in taps.results.items()}
    return _signal(graph, taps.new), bypass, direct


def _signal(graph: ETraceGraph, parts: list) -> LearningSignal:
    values = [
        jnp.zeros((*g.varshape, g.num_state), g.dtype) if part is None else g.concat_hidden(part)
        for g, part in zip(graph.hidden_groups, parts, strict=True)
    ]
    return LearningSignal(graph, tuple(values))


def pull_back(graph: ETraceGraph, params: Mapping[str, Any], gradients: Gradients) -> dict:
    """Turn gradients of effective weights into gradients of parameters.

    Args:
        graph: The compiled graph.
        params: Values of the parameters, by key.
        gradients: By relation key, `(H, I, O)`.
    """
    weights, pull = jax.vjp(lambda p: effective_weights(graph, p), dict(params))
    return pull({key: _cast(gradients[key], w.dtype) for key, w in weights.items()})[0]


def _cast(gradient: Any, dtype: Any) -> Any:
    """Bring a gradient into the dtype of its weight; a real weight takes the real part."""
    return (gradient if jnp.issubdtype(dtype, jnp.complexfloating) else gradient.real).astype(dtype)


def make_anchor(args: tuple, states: Mapping[str, Any]) -> Any:
    """Return a zero that depends on every value that enters a step.

    Taps that depend on it have every axis that a `vmap` around the learner gives to any of
    these values. A constant would have none, and its cotangent would be summed over the axis.
    """
    total = jnp.zeros(())
    for value in jax.tree.leaves((args, states)):
        if jnp.size(value) and not jnp.issubdtype(value.dtype, jax.dtypes.extended):
            first = jnp.ravel(jax.lax.stop_gradient(value))[0].real.astype(total.dtype)
            total += jnp.where(False, first, 0)
    return total
