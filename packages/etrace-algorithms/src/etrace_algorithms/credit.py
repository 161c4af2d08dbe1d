"""Where a step is tapped for credit, and what the taps say to a learning rule."""

from collections.abc import Mapping
from dataclasses import replace
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
        outputs: Added to what the model returns: one per leaf, `None` where it is no number that
            has a derivative; `None` for a rule that does not read it.
    """

    new: list[list[Any]]
    old: list[list[Any] | None]
    results: Mapping[str, Any]
    outputs: list[Any] | None = None

    def on_outputs(self, out: Any) -> Any:
        """Add the taps of the outputs to what a step returned."""
        if self.outputs is None:
            return out
        leaves, tree = jax.tree.flatten(out)
        pairs = zip(leaves, self.outputs, strict=True)
        return tree.unflatten([x if tap is None else x + tap for x, tap in pairs])


def make_taps(
    graph: ETraceGraph,
    bypassed: frozenset[int],
    *,
    axes: tuple[int, ...] = (),
    anchor: Any = None,
    window: bool = False,
    outputs: bool = False,
) -> Taps:
    """Return zeros for every tap.

    Args:
        graph: The compiled graph.
        bypassed: Groups whose old states act beside their new ones.
        axes: Leading axes, of steps and of a batch.
        anchor: A zero to add: it makes the taps depend on what it depends on.
        window: Whether to tap the entry of a window alone: `new` are the states that enter.
        outputs: Whether to tap what the model returns.
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
        [zeros(v.shape, v.dtype) if jnp.issubdtype(v.dtype, jnp.inexact) else None
         for v in graph.module_info.out_atoms] if outputs and not window else None,
    )  # fmt: skip


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
    signal = _signal(graph, taps.new)
    if taps.outputs is not None:
        signal = replace(signal, output=graph.module_info.out_tree.unflatten(taps.outputs))
    return signal, bypass, direct


def _signal(graph: ETraceGraph, parts: list) -> LearningSignal:
    values = [
        jnp.zeros((*g.varshape, g.num_state), g.dtype) if part is None else g.concat_hidden(part)
        for g, part in zip(graph.hidden_groups, parts, strict=True)
    ]
    return LearningSignal(graph, tuple(values))


def pull_back(
    graph: ETraceGraph, params: Mapping[str, Any], gradients: Gradients, credits: str = 'weights'
) -> dict:
    """Turn what a rule returns into gradients of parameters.

    Args:
        graph: The compiled graph.
        params: Values of the parameters, by key.
        gradients: Those of effective weights by relation key, `(H, I, O)`, or of parameters.
        credits: Which of them; see `LearningRule.credits`.
    """
    if credits == 'parameters':
        return {key: jax.tree.map(lambda g, w: _cast(g, jnp.result_type(w)), gradients[key], value)
                for key, value in params.items()}  # fmt: skip
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
