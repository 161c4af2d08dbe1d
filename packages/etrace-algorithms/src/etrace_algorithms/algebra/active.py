"""Traces of look-ups with room for the inputs in use alone.

A table says which input each of its `R` slots is for, by shared element and block. A look-up of
an input that has no slot takes the one that was used longest ago.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from etrace_compiler import SparseInput

__all__ = ['ActiveInputs', 'scatter_inputs', 'use_inputs', 'use_inputs_in_turn']

#: As old as a slot gets; one that was never used is.
_OLD = 2**30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ActiveInputs:
    """Which inputs have a slot in a trace.

    Attributes:
        index: The input of each slot, `(G, H, R)`; -1 for none.
        age: Steps since it was last used, `(G, H, R)`.
        dropped: How many inputs had to make room for others, `(G, H)`.
    """

    index: Any
    age: Any
    dropped: Any

    @classmethod
    def empty(cls, shared: int, heads: int, slots: int) -> 'ActiveInputs':
        """Return a table without any input."""
        shape = shared, heads, slots
        return cls(
            jnp.full(shape, -1, jnp.int32),
            jnp.full(shape, _OLD, jnp.int32),
            jnp.zeros(shape[:2], jnp.int32),
        )


def use_inputs(table: ActiveInputs, x: SparseInput) -> tuple[ActiveInputs, Any, Any]:
    """Give the inputs of one step their slots.

    Args:
        table: The table before the step.
        x: Input, `(G, H, N)`; no more at a time than there are slots.

    Returns:
        The table after the step; the input by slots, `(G, H, R)`; and which slots keep their
        content, `(G, H, R)`.
    """
    table, slots, fresh = _use(table, x.index)
    return table, _by_slot(slots, x.value, table), ~fresh


def use_inputs_in_turn(table: ActiveInputs, x: SparseInput) -> tuple[ActiveInputs, Any, Any]:
    """Give the inputs of several steps their slots.

    Args:
        table: The table before the steps.
        x: Input, stacked over steps, `(K, G, H, N)`.

    Returns:
        The table after the steps; the inputs by slots, `(K, G, H, R)`, without those that made
        room later on; and which slots keep what was there before, `(G, H, R)`.
    """

    def step(carry: tuple, now: tuple) -> tuple[tuple, Any]:
        table, since = carry
        t, index = now
        table, slots, fresh = _use(table, index)
        return (table, jnp.where(fresh, t, since)), slots

    never = jnp.full_like(table.index, -1)
    steps = jnp.arange(len(x.index), dtype=never.dtype)
    (table, since), slots = jax.lax.scan(step, (table, never), (steps, x.index))
    found = jax.vmap(lambda s, v: _by_slot(s, v, table))(slots, x.value)
    stays = since <= steps[:, None, None, None]
    return table, jnp.where(stays, found, 0), since < 0


def _use(table: ActiveInputs, index: Any) -> tuple[ActiveInputs, Any, Any]:
    """Give inputs `(G, H, N)` their slots `(G, H, N)`; also say which slots changed hands."""
    held, dropped, slots = table.index, table.dropped, []
    age = jnp.minimum(table.age + 1, _OLD)
    changed = jnp.zeros(held.shape, bool)
    for n in range(index.shape[-1]):
        wanted = index[..., n : n + 1].astype(held.dtype)
        hit = held == wanted
        found = hit.any(-1)
        slot = jnp.where(found, jnp.argmax(hit, -1), jnp.argmax(age, -1))
        chosen = jnp.arange(held.shape[-1]) == slot[..., None]
        fresh = chosen & ~found[..., None]
        dropped += (fresh & (held >= 0)).any(-1)
        held, age = jnp.where(chosen, wanted, held), jnp.where(chosen, 0, age)
        changed |= fresh
        slots.append(slot)
    return ActiveInputs(held, age, dropped), jnp.stack(slots, -1), changed


def _by_slot(slots: Any, value: Any, table: ActiveInputs) -> Any:
    """The values `(G, H, N)` at their slots, `(G, H, R)`."""
    at = jax.nn.one_hot(slots, table.index.shape[-1], dtype=value.dtype)
    return jnp.sum(at * value[..., None], axis=-2)


def scatter_inputs(index: Any, values: Any, size: int) -> Any:
    """Add up values for each input.

    Args:
        index: Which inputs they are for, `(G, H, N)`; what is outside counts for nothing.
        values: `(G, H, N, O)`.
        size: Number of inputs, `I`.

    Returns:
        `(H, I, O)`.
    """
    _, heads, _, width = values.shape
    index = jnp.where(index < 0, size, index)
    zeros = jnp.zeros((heads, size, width), values.dtype)
    return zeros.at[jnp.arange(heads)[None, :, None], index].add(values, mode='drop')
