r"""Regularisation of firing rates: a term for the loss of every step.

$$\ell^{\text{reg}}_t = \tfrac{c}{2} \sum_j (\bar z_{j,t} - r)^2, \qquad
\bar z_t = a\,\bar z_{t-1} + (1 - a)\,\langle z_t\rangle, \qquad
\frac{\partial \ell^{\text{reg}}_t}{\partial z_{j,t}} = \frac{c}{B}\,(\bar z_{j,t} - r)$$

with the mean $\langle z \rangle$ over a batch of `B`. As in the paper the rate is an average that
stands for all steps, so that each step is credited with the whole excess, not with the part
$1 - a$ that it adds to the average.

References:
    Bellec et al. (2020), Nature Communications, doi:10.1038/s41467-020-17236-y, Methods,
    "Firing rate regularization".
"""

from collections.abc import Sequence
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

__all__ = ['RateRegulariser']


class RateRegulariser(brainstate.nn.Module):
    r"""Hold each neuron's rate near a target, online.

    Call it with the spikes of a step, after the learner, and add what it returns to the loss. The
    running rates are a state of its own and begin at the target.

    Args:
        size: Shape of the population, without the batch.
        target: Spikes per step, $r$; one value, or one for each neuron.
        strength: $c$.
        decay: $a$, in `[0, 1)`.

    Raises:
        ValueError: If the decay is out of range.

    Example:
        >>> regulariser = RateRegulariser(2, target=0.25, decay=0.5)
        >>> jax.grad(regulariser.update)(jnp.array([1.0, 0.0]))
        Array([ 0.375, -0.125], dtype=float32)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        target: Any = 0.01,
        strength: float = 1.0,
        decay: float = 0.99,
    ):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(
                f'`decay` is out of range: got {decay}; expected 0 <= decay < 1. '
                'Use exp(-1/n) to average over n steps.'
            )
        self.target = jnp.broadcast_to(jnp.asarray(target, float), size)
        self.strength, self.decay = strength, decay
        self.rate = brainstate.ShortTermState(jnp.copy(self.target))

    def reset_state(self, *args: Any, **kwargs: Any) -> None:
        """Set the running rates to the target."""
        self.rate.value = jnp.copy(self.target)

    def update(self, z: Any) -> Any:
        """Take the spikes `(..., *size)` of a step and return its term of the loss."""
        mean = jnp.mean(z.reshape((-1, *self.target.shape)), axis=0)
        fixed = jax.lax.stop_gradient(mean)
        self.rate.value = self.decay * self.rate.value + (1 - self.decay) * fixed
        excess = self.rate.value - self.target
        # the value is that of the penalty, the derivative that of the excess times the spikes
        return self.strength * jnp.sum(excess**2 / 2 + excess * (mean - fixed))
