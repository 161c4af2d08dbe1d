"""Initial eigenvalues and time scales of diagonal recurrences."""

import math
from typing import Any

import brainstate
import jax.numpy as jnp

__all__ = ['log_uniform', 'ring']


def ring(size: int, r_min: float, r_max: float, max_phase: float) -> tuple[Any, Any]:
    """Draw eigenvalues uniformly from a ring: `(nu_log, theta_log)`, each of shape `(size,)`.

    An eigenvalue is `exp(-exp(nu_log) + 1j exp(theta_log))`.
    """
    area: Any = brainstate.random.uniform(r_min**2, r_max**2, (size,))
    angle: Any = brainstate.random.uniform(0.0, max_phase, (size,))
    tiny = jnp.finfo(area.dtype).tiny
    return jnp.log(-0.5 * jnp.log(jnp.maximum(area, tiny))), jnp.log(jnp.maximum(angle, tiny))


def log_uniform(size: int, low: float, high: float) -> Any:
    """Draw positive numbers of shape `(size,)` whose logarithms are uniform."""
    logarithm: Any = brainstate.random.uniform(math.log(low), math.log(high), (size,))
    return jnp.exp(logarithm)
