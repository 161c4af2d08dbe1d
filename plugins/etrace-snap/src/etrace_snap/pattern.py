"""Which entries of the influence matrix are kept, and where they lie in memory."""

from dataclasses import dataclass

import numpy as np

from etrace_algorithms import ETraceGraph
from etrace_compiler import position_neighbours
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


def kept_entries(graph: ETraceGraph, steps: int) -> dict[str, tuple[Kept, ...]]:
    """Find the entries that are not zero after so many steps: by parameter, one per leaf."""
    name = f'etrace_snap {steps}'
    if name not in graph.memo:
        counts = [np.full(g.positions, numbers_per_position(g)) for g in graph.hidden_groups]
        times = np.concatenate(counts) if counts else np.zeros(0, int)
        graph.memo[name] = {
            key: tuple(_lay_out(np.repeat(m.reshape((-1, m.shape[-1])), times, 1)) for m in leaves)
            for key, leaves in position_neighbours(graph).influence(steps).items()
        }
    return graph.memo[name]


def _lay_out(pattern: np.ndarray) -> Kept:
    """Lay the entries of a pattern `(P, n)` out."""
    states, inside = _packed(pattern)
    params, _ = _packed(pattern.T)
    earlier = np.cumsum(pattern, axis=0) - 1  # how many parameters before it a state is kept for
    slot = np.take_along_axis(earlier, states, axis=1)
    place = np.where(inside, states * params.shape[1] + slot, 0)
    return Kept(states.astype(np.int32), inside, params.astype(np.int32), place.astype(np.int32))


def _packed(pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the entries in each row, side by side, and which of them are there."""
    counts = pattern.sum(axis=1)
    width = int(counts.max(initial=0))
    inside = np.arange(width) < counts[:, None]
    order = np.argsort(~pattern, axis=1, kind='stable')[:, :width]
    return np.where(inside, order, 0), inside
