"""Which positions act on which within one step, and which of them a parameter reaches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from etrace_compiler.analysis.targets import pull_targets
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.program import Var

__all__ = ['PositionNeighbours', 'driving_parameters', 'position_neighbours']


@dataclass(frozen=True, eq=False)
class PositionNeighbours:
    """The pattern of one step's derivatives: every entry outside it is zero, always.

    Positions are counted through all groups, one group after the other, `P` in total.

    Attributes:
        starts: The number of each group's first position.
        hidden: Whether the old states at position `j` act on the new states at position `i`,
            boolean `(P, P)` with entry `[i, j]`.
        params: Per parameter key and leaf, whether an element acts on the new states at each
            position, boolean `(*leaf.shape, P)`.
    """

    starts: tuple[int, ...]
    hidden: np.ndarray
    params: Mapping[str, tuple[np.ndarray, ...]]

    def influence(self, steps: int) -> dict[str, tuple[np.ndarray, ...]]:
        """Return the positions that parameters act on within so many steps.

        Args:
            steps: At least 1; 1 gives `params`.

        Returns:
            Boolean arrays as in `params`.
        """
        onward = self.hidden.T.astype(np.float32)

        def spread(reached: np.ndarray) -> np.ndarray:
            for _ in range(steps - 1):
                wider = reached | (reached.astype(np.float32) @ onward > 0)
                if (wider == reached).all():
                    break
                reached = wider
            return reached

        return {key: tuple(map(spread, leaves)) for key, leaves in self.params.items()}


def position_neighbours(
    graph: ETraceGraph, *, around_relations: bool = False
) -> PositionNeighbours:
    """Return which positions act on which within one step, through all groups.

    A pattern has an entry for each element of a parameter and each position; it is not kept.
    It follows the equations of the step, not values: an entry that is missing is zero for all
    parameters, inputs and states. Elements that a constant mask sets to zero have no way on. An
    operation whose movements are not known joins everything that it touches.

    Args:
        graph: A compiled graph.
        around_relations: Leave out what passes the weight of a relation: what is left acts on
            states beside the operations that a trace of relations knows.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> from etrace_compiler import compile_etrace_graph
        >>> cell = etrace_nn.GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> position_neighbours(compile_etrace_graph(cell, jnp.ones(3))).hidden.sum()
        np.int64(16)
    """
    info, groups = graph.module_info, graph.hidden_groups
    starts = np.cumsum([0, *(g.positions for g in groups)])
    count = int(starts[-1])
    targets: dict[Any, np.ndarray] = {}
    for g, start in zip(groups, starts, strict=False):
        for spec, v in zip(g.hidden_states, g.hidden_outvars, strict=True):
            if isinstance(v, Var):
                number = start + np.arange(g.positions).reshape(g.varshape)
                sets = _alone(_over_slots(number, spec), count)
                targets[v] = targets[v] | sets if v in targets else sets
    found = pull_targets(info.program, targets, _blocked(graph, around_relations))
    hidden = np.zeros((count, count), bool)
    for g, start in zip(groups, starts, strict=False):
        for spec, v in zip(g.hidden_states, g.hidden_invars, strict=True):
            reached = _members(found.get(v), v.shape, count)
            if spec.axis is not None:
                reached = reached.any(axis=spec.axis)
            hidden[:, start : start + g.positions] |= reached.reshape((-1, count)).T
    params = {
        spec.key: tuple(_members(found.get(v), v.shape, count) for v in info.old_vars(spec))
        for spec in info.by_role('param')
    }
    return PositionNeighbours(tuple(map(int, starts[:-1])), hidden, params)


def driving_parameters(graph: ETraceGraph, *, around_relations: bool = False) -> tuple[str, ...]:
    """Return the keys of the parameters that act on any hidden state within one step.

    Args:
        graph: A compiled graph.
        around_relations: See `position_neighbours`.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> from etrace_compiler import compile_etrace_graph
        >>> cell = etrace_nn.GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> driving_parameters(compile_etrace_graph(cell, jnp.ones(3)))
        ('Wrz.weight', 'Wh.weight')
    """
    name = f'driving parameters {around_relations}'
    if name not in graph.memo:
        info = graph.module_info
        new = [v for g in graph.hidden_groups for v in g.hidden_outvars if isinstance(v, Var)]
        targets = {v: np.ones((*v.shape, 1), np.uint64) for v in new}
        found = pull_targets(info.program, targets, _blocked(graph, around_relations))
        graph.memo[name] = tuple(
            spec.key
            for spec in info.by_role('param')
            if any(v in found and found[v].any() for v in info.old_vars(spec))
        )
    return graph.memo[name]


def _blocked(graph: ETraceGraph, around_relations: bool) -> frozenset[tuple[int, int]]:
    """The operands not to pass: the weights of relations, or none."""
    made = graph.module_info.program.made
    relations = graph.hidden_param_op_relations if around_relations else ()
    return frozenset((made[r.y_var], r.operator.weight_index) for r in relations)


def _over_slots(numbers: np.ndarray, spec: Any) -> np.ndarray:
    """Repeat the numbers of positions along the axis on which states of a position lie."""
    shape = spec.leaves[0].shape
    if spec.axis is None:
        return numbers.reshape(shape)
    return np.broadcast_to(np.expand_dims(numbers, spec.axis), shape)


def _alone(numbers: np.ndarray, count: int) -> np.ndarray:
    """Sets of one number each: `(*shape, W)`."""
    words = np.zeros((*numbers.shape, -(-count // 64)), np.uint64)
    bits = np.left_shift(np.uint64(1), (numbers % 64).astype(np.uint64))
    np.put_along_axis(words, (numbers // 64)[..., None], bits[..., None], axis=-1)
    return words


def _members(sets: np.ndarray | None, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Write sets out as booleans: `(*shape, count)`."""
    if sets is None:
        return np.zeros((*shape, count), bool)
    whole = np.ascontiguousarray(np.broadcast_to(sets, (*shape, sets.shape[-1])))
    return np.unpackbits(
        whole.astype('<u8').view(np.uint8), axis=-1, count=count, bitorder='little'
    ).astype(bool)
