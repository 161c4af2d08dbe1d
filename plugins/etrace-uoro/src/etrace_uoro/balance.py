"""What both rules share: random signs, and factors of equal size."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['balanced', 'check_seed', 'norm', 'signs']


def check_seed(seed: Any) -> None:
    """Check that a seed is an integer.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(
            f'`sign_seed` is not valid: got {seed!r}; expected an integer. '
            'Another integer gives other random signs. [UORO101]'
        )


def norm(tree: Any, axes: tuple[int, ...] | None = None) -> Any:
    """Return the Euclidean norm of all leaves together, over some axes or over all."""
    leaves = jax.tree.leaves(tree)
    total = sum(jnp.sum(jnp.abs(x) ** 2, axis=axes or tuple(range(x.ndim))) for x in leaves)
    return jnp.sqrt(total)


def balanced(numerator: Any, denominator: Any) -> tuple[Any, Any]:
    r"""Return $\rho = \sqrt{a/b}$ and $1/\rho$, of the norms of the two factors of a product.

    With $\rho$ the second factor and $1/\rho$ the first have the same norm, which makes the
    variance least. Where one of the norms is zero, so is the product, and both are zero.
    """
    least = jnp.finfo(jnp.result_type(numerator)).tiny
    found = (numerator > least) & (denominator > least)
    rho = jnp.sqrt(jnp.where(found, numerator, 1)) / jnp.sqrt(jnp.where(found, denominator, 1))
    return jnp.where(found, rho, 0), jnp.where(found, 1 / rho, 0)


def signs(key: Any, like: tuple[Any, ...]) -> tuple[Any, ...]:
    """Draw numbers that are 1 or -1; of complex numbers both parts are."""
    found = []
    for part, k in zip(like, jax.random.split(key, max(len(like), 1)), strict=False):
        real = part.real.dtype
        drawn = jax.random.rademacher(k, (2, *part.shape), real)
        found.append(drawn[0] + 1j * drawn[1] if jnp.iscomplexobj(part) else drawn[0])
    return tuple(found)
