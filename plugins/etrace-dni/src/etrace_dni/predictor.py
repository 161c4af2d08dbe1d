"""Small models of what the future will say of a hidden state."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms import ETraceGraph

__all__ = ['Predictor', 'apply_predictor', 'init_predictor']


@dataclass(frozen=True)
class Predictor:
    r"""A model $\hat s(h)$ per hidden group, zero before it is fitted.

    It maps the last axis of the positions of a group, with all of its states, to a derivative of
    the same size, $\hat s = V\,\phi(U h + a) + b$, or $\hat s = V h + b$ without a layer between.
    Axes before the last (a batch, space) share it. Complex states count as their two parts.

    Attributes:
        width: Units of the layer between, with $\phi=\tanh$; `None` for a linear model.
        seed: Seed of its first layer; the last one begins at zero.
        episode: Steps after a reset at which losses end, so that nothing is predicted there;
            `None` for a stream without an end.
    """

    width: int | None = None
    seed: int = 0
    episode: int | None = None


def init_predictor(predictor: Predictor, graph: ETraceGraph) -> list[dict[str, Any]]:
    """Return the weights before fitting: per group arrays by name."""
    found = []
    for i, group in enumerate(graph.hidden_groups):
        zeros = jnp.zeros((*group.varshape[-1:], group.num_state), group.dtype)
        size = _as_vectors(zeros, zeros.ndim).shape[-1]
        real = zeros.real.dtype
        width, weights = predictor.width or size, {}
        if predictor.width is not None:
            key = jax.random.fold_in(jax.random.key(predictor.seed), i)
            weights['U'] = jax.random.normal(key, (size, width), real) / size**0.5
            weights['a'] = jnp.zeros(width, real)
        found.append({**weights, 'V': jnp.zeros((width, size), real), 'b': jnp.zeros(size, real)})
    return found


def apply_predictor(
    graph: ETraceGraph, weights: list[dict[str, Any]], hidden: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Predict the derivative of all later losses with respect to hidden states.

    Args:
        graph: The compiled graph.
        weights: As `init_predictor` returns them.
        hidden: Per group `(..., *varshape, S)`.

    Returns:
        Per group, of the same shapes.
    """
    found = []
    for group, of_group, h in zip(graph.hidden_groups, weights, hidden, strict=True):
        z = _as_vectors(h, min(len(group.varshape), 1) + 1)
        if 'U' in of_group:
            z = jnp.tanh(z @ of_group['U'] + of_group['a'])
        found.append(_as_states(z @ of_group['V'] + of_group['b'], h))
    return tuple(found)


def _as_vectors(h: Any, axes: int) -> Any:
    """Merge the last axes; complex numbers become pairs."""
    if jnp.iscomplexobj(h):
        h, axes = jnp.stack([h.real, h.imag], -1), axes + 1
    return h.reshape((*h.shape[: h.ndim - axes], -1))


def _as_states(vectors: Any, like: Any) -> Any:
    """Undo `_as_vectors`."""
    if not jnp.iscomplexobj(like):
        return vectors.reshape(like.shape)
    pairs = vectors.reshape((*like.shape, 2))
    return jax.lax.complex(pairs[..., 0], pairs[..., 1])
