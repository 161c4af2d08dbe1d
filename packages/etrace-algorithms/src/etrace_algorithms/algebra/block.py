"""The four operations on one relation's trace, and the transposed diagonal."""

from typing import Any

import jax.numpy as jnp

__all__ = ['apply_diagonal', 'carry', 'contract', 'outer', 'outer_gradient']


def outer(f: Any, x: Any) -> Any:
    r"""Form one step's contribution to a trace, $f \otimes x$.

    Args:
        f: Drive `(G, H, O, S)`.
        x: Input `(G, H, I)`.

    Returns:
        `(G, H, I, O, S)`.
    """
    return f[:, :, None, :, :] * x[:, :, :, None, None]


def carry(diagonal: Any, trace: Any) -> Any:
    r"""Carry a trace over one step: $D\,\varepsilon$ at every position.

    Args:
        diagonal: `(G, H, O, S, S)`.
        trace: `(G, H, I, O, S)`, or `(G, H, O, S)` for a trace without an input axis.

    Returns:
        The same shape as `trace`.
    """
    if trace.ndim == 5:
        diagonal = diagonal[:, :, None]
    # S is small: products and sums over it fuse with what follows, a batched matmul would not
    columns = [diagonal[..., r] * trace[..., r, None] for r in range(trace.shape[-1])]
    return sum(columns[1:], columns[0])


def contract(signal: Any, trace: Any) -> Any:
    r"""Contract a signal with a trace into a weight gradient, $\langle s, \varepsilon\rangle$.

    Args:
        signal: `(G, H, O, S)`.
        trace: `(G, H, I, O, S)`.

    Returns:
        `(H, I, O)`.
    """
    return jnp.sum(signal[:, :, None] * trace, axis=(0, 4))


def outer_gradient(signal: Any, f: Any, x: Any) -> Any:
    r"""Contract a signal with an outer product that is never formed, $\langle s, f\otimes x\rangle$.

    Args:
        signal: `(G, H, O, S)`.
        f: `(G, H, O, S)`.
        x: `(G, H, I)`.

    Returns:
        `(H, I, O)`.
    """
    return jnp.einsum('gho,ghi->hio', jnp.sum(signal * f, axis=-1), x)


def apply_diagonal(diagonal: Any, signal: Any) -> Any:
    r"""Pull a signal back over one step: $D^\top L$ at every position.

    Args:
        diagonal: `(..., S, S)`.
        signal: `(..., S)`.

    Returns:
        `(..., S)`.
    """
    return jnp.sum(diagonal * signal[..., :, None], axis=-2)
