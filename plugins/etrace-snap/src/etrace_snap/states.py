"""All hidden states of a graph as one vector of real numbers.

A complex number is two of them. A *dual* vector, of derivatives with respect to states, takes
the imaginary part with the other sign, as JAX does.
"""

from typing import Any

import jax.numpy as jnp

from etrace_algorithms import ETraceGraph
from etrace_compiler import HiddenGroup

__all__ = ['from_vector', 'numbers_per_position', 'real_dtype', 'to_vector', 'vector_size']


def numbers_per_position(group: HiddenGroup) -> int:
    """How many real numbers the states of one position are."""
    return group.num_state * (1 + jnp.issubdtype(group.dtype, jnp.complexfloating))


def vector_size(graph: ETraceGraph) -> int:
    """How many real numbers the hidden states are."""
    return sum(g.positions * numbers_per_position(g) for g in graph.hidden_groups)


def real_dtype(graph: ETraceGraph) -> Any:
    """The common real dtype of the hidden states."""
    return jnp.zeros((), jnp.result_type(*(g.dtype for g in graph.hidden_groups))).real.dtype


def to_vector(values: tuple[Any, ...], *, dual: bool = False) -> Any:
    """Lay values out, per group `(*varshape, S)`, as one vector."""
    parts = []
    for value in values:
        if jnp.iscomplexobj(value):
            value = jnp.stack([value.real, -value.imag if dual else value.imag], axis=-1)
        parts.append(value.reshape(-1))
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


def from_vector(graph: ETraceGraph, vector: Any, *, dual: bool = False) -> tuple[Any, ...]:
    """The inverse of `to_vector`."""
    values, start = [], 0
    for g in graph.hidden_groups:
        stop = start + g.positions * numbers_per_position(g)
        part = vector[start:stop]
        if jnp.issubdtype(g.dtype, jnp.complexfloating):
            real, imaginary = part.reshape((-1, 2)).T
            part = real + (-1j if dual else 1j) * imaginary
        values.append(part.reshape((*g.varshape, g.num_state)).astype(g.dtype))
        start = stop
    return tuple(values)
