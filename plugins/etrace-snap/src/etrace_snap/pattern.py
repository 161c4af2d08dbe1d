"""Which entries of the influence matrix are kept, and where they lie in memory."""

import math
from dataclasses import dataclass

import numpy as np

from etrace_algorithms import ETraceGraph
from etrace_compiler import NotSupportedError, position_neighbours
from etrace_snap.states import numbers_per_position

__all__ = ['Kept', 'kept_entries']


@dataclass(frozen=True, eq=False)
class Kept:
    """The entries of one array of parameters, `P` in number; `n` numbers are all hidden states.

    Columns hold at most `k` entries and rows at most `r`; what is shorter is filled up.

    Attributes:
        states: The states that each parameter is kept for, `(P, k)`.
        inside: Which of them are not filling, `(P, k)`.
        params: The parameters that are kept for each state, `(n, r)`.
        place: Where in `params`, flat, each entry of `states` lies, `(P, k)`.
    """

    states: np.ndarray
    inside: np.ndarray
    params: np.ndarray
    place: np.ndarray


#: A pattern with more places than this is not made: an entry for each parameter and position.
_PLACES = 2**28


def kept_entries(graph: ETraceGraph, steps: int) -> dict[str, tuple[Kept, ...]]:
    """Find the entries that are not zero after so many steps: by parameter, one per leaf.

    Raises:
        NotSupportedError: If the pattern is too large to be looked through.
    """
    name = f'etrace_snap {steps}'
    if name not in graph.memo:
        _check_size(graph)
        counts = [np.full(g.positions, numbers_per_position(g)) for g in graph.hidden_groups]
        times = np.concatenate(counts) if counts else np.zeros(0, int)
        graph.memo[name] = {
            key: tuple(_lay_out(np.repeat(m.reshape((-1, m.shape[-1])), times, 1)) for m in leaves)
            for key, leaves in position_neighbours(graph).influence(steps).items()
        }
    return graph.memo[name]


def _check_size(graph: ETraceGraph) -> None:
    leaves = [x for s in graph.module_info.by_role('param') for x in s.leaves]
    params = sum(math.prod(x.shape) for x in leaves)
    positions = sum(g.positions for g in graph.hidden_groups)
    if params * positions > _PLACES:
        raise NotSupportedError(
            f'`snap` cannot look through the pattern: got {params} parameters and {positions} '
            f'positions; expected at most {_PLACES} pairs of them. Compile with vmap=True, so that '
            'a batch counts once, or use a smaller model, or `uoro`. [SNAP102]'
        )


def _lay_out(pattern: np.ndarray) -> Kept:
    """Lay the entries of a pattern `(P, n)` out."""
    param, state = np.nonzero(pattern)
    column, width = _slots(param, pattern.shape[0])
    row, length = _slots(state, pattern.shape[1])
    states = np.zeros((pattern.shape[0], width), np.int32)
    params = np.zeros((pattern.shape[1], length), np.int32)
    place, inside = np.zeros_like(states), np.zeros(states.shape, bool)
    states[param, column], params[state, row] = state, param
    place[param, column], inside[param, column] = state * length + row, True
    return Kept(states, inside, params, place)


def _slots(numbers: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Count equal numbers: how many were before each of them, and how many there are at most."""
    counts = np.bincount(numbers, minlength=size)
    order = np.argsort(numbers, kind='stable')
    slots = np.empty(len(numbers), np.int64)
    slots[order] = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    return slots, int(counts.max(initial=0))
