"""Running an unbatched step by vmap: which states have a batch axis, and random keys."""

from collections.abc import Mapping
from typing import Any

import jax

from etrace_compiler import ModuleInfo

__all__ = ['split_keys', 'state_axes']


def state_axes(info: ModuleInfo) -> dict[str, int | None]:
    """Return the batch axis of every live state: parameters and random keys have none."""
    return {s.key: None if s.role == 'param' or s.holds_keys else 0 for s in info.states}


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
