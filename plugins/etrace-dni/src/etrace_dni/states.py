"""Hidden states of a learner by group, with or without the axis that `vmap` adds."""

from collections.abc import Callable
from typing import Any

import jax

from etrace_algorithms import ETraceAlgorithm

__all__ = ['add_to_hidden', 'read_hidden']


def read_hidden(learner: ETraceAlgorithm) -> tuple[Any, ...]:
    """Return the present hidden states, per group `(..., *varshape, S)`."""
    live = learner.hidden_states
    return tuple(
        _mapped(learner, group.concat_hidden)(
            [jax.tree.leaves(live[path].value)[0] for path in group.hidden_paths]
        )
        for group in learner.graph.hidden_groups
    )


def add_to_hidden(learner: ETraceAlgorithm, more: tuple[Any, ...]) -> None:
    """Add to the present hidden states, per group `(..., *varshape, S)`."""
    live = learner.hidden_states
    for group, stacked in zip(learner.graph.hidden_groups, more, strict=True):
        parts = _mapped(learner, group.split_hidden)(stacked)
        for path, part in zip(group.hidden_paths, parts, strict=True):
            live[path].value = jax.tree.map(lambda h, p=part: h + p, live[path].value)


def _mapped(learner: ETraceAlgorithm, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return function if learner.batch_axis_size is None else jax.vmap(function)
