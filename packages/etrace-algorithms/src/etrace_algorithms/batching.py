"""Running an unbatched step by vmap: which values have a batch axis, and random keys."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from etrace_compiler import ETraceGraph, Linearisation, ModuleInfo

__all__ = [
    'inside_axes',
    'linearisation_axes',
    'map_batch',
    'replicate',
    'split_keys',
    'state_axes',
]


def state_axes(info: ModuleInfo) -> dict[str, int | None]:
    """Return the batch axis of every live state: parameters and random keys have none."""
    return {s.key: None if s.role == 'param' or s.holds_keys else 0 for s in info.states}


def inside_axes(info: ModuleInfo) -> dict[str, int | None]:
    """Return the batch axis of every state within a call, where every element has its own key."""
    return {s.key: None if s.role == 'param' else 0 for s in info.states}


def linearisation_axes(graph: ETraceGraph, axis: int = 0) -> Linearisation:
    """Return where a stack of linearisations has its axis: parameters are not stacked."""
    states = {s.key: None if s.role == 'param' else axis for s in graph.module_info.states}
    return Linearisation(graph, axis, axis, axis, axis, axis, states)  # type: ignore[arg-type]


def map_batch(size: int | None, function: Callable, in_axes: Any, out_axes: Any = 0) -> Callable:
    """`jax.vmap` over a batch, or the function itself where there is none."""
    return function if size is None else jax.vmap(function, in_axes, out_axes, axis_size=size)


def replicate(size: int, x: Any) -> Any:
    """Give an array a leading batch axis: copies of it, or as many random keys."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        split = jax.vmap(lambda key: jax.random.split(key, size), out_axes=1)
        return split(x.reshape(-1)).reshape((size, *x.shape))
    return jnp.broadcast_to(x, (size, *x.shape))


def split_keys(
    info: ModuleInfo, states: Mapping[str, Any], size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give every batch element a random key of its own.

    Returns:
        The states with one key per element, and the keys to go on with, by state key.
    """
    batched, kept = dict(states), {}
    for spec in info.states:
        if spec.holds_keys:
            keys = jax.random.split(states[spec.key], size + 1)
            batched[spec.key], kept[spec.key] = keys[1:], keys[0]
    return batched, kept
