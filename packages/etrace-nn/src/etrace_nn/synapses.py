"""Synapses: from spikes to the currents they cause."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
from brainstate.nn import init

from etrace_nn._layer import Layer
from etrace_nn._time import decay_of, time_constant
from etrace_nn._values import BatchSize, as_size, check_input, in_unit_of, initial_value

__all__ = ['Expon']


class Expon(Layer):
    r"""Let each input jump and decay exponentially.

    $$g_t = e^{-\Delta t/\tau}\, g_{t-1} + x_t$$

    The hidden state is `g`, by default a current in mA, the unit of the input.

    **Shapes**: `x (..., *in_size) -> g (..., *in_size)`.

    Args:
        in_size: Shape of the population.
        tau: Time constant, a scalar or one for each position; a `ParamState` is trained.
        g_init: Initial state, in the unit of the input.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> synapse = Expon(1, tau=10 * u.ms, dt=1 * u.ms)
        >>> synapse.init_state()
        >>> for spike in (1.0, 0.0, 0.0):
        ...     g = synapse(jnp.full(1, spike) * u.mA)
        >>> round(float((g / u.mA)[0]), 4)
        0.8187
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        tau: Any = 8.0 * u.ms,
        g_init: Callable | Any = init.ZeroInit(unit=u.mA),  # noqa: B008
        dt: Any = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.in_size = self.out_size = as_size(in_size)
        self.tau = time_constant(tau, self.out_size, 'tau')
        self.dt = dt
        self._g_init = g_init

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden state."""
        self.g = brainstate.HiddenState(self._initial_g(batch_size))

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden state to its initial value."""
        self.g.value = self._initial_g(batch_size)

    def _initial_g(self, batch_size: BatchSize) -> Any:
        return initial_value(self._g_init, self.out_size, 'g_init', batch_size)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        g = self.g.value
        check_input(x, self.in_size, self, g)
        x = in_unit_of(
            x,
            g,
            'Expon input',
            'Give the weights before the synapse, or `g_init`, the unit of the other.',
        )
        self.g.value = decay_of(self.tau, self.dt, 'tau') * g + x
        return self.g.value
