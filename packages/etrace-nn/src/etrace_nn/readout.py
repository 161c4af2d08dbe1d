"""Readouts: from the activity of a network to its output."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
from brainstate.nn import init

from etrace_compiler import matmul
from etrace_nn._layer import Layer
from etrace_nn._time import decay_of, time_constant
from etrace_nn._values import BatchSize, as_size, check_input, in_unit_of, initial_value

__all__ = ['LeakyRateReadout']


class LeakyRateReadout(Layer):
    r"""Integrate weighted input with a leak.

    $$r_t = e^{-\Delta t/\tau}\, r_{t-1} + x_t W$$

    The hidden state is `r`, the parameter `weight`, a `ParamState` of $W$. The output is $r_t$.

    **Shapes**: `x (..., in) -> r (..., out)`.

    Args:
        in_size: Number of inputs.
        out_size: Number of outputs.
        tau: Time constant, a scalar or one for each output; a `ParamState` is trained.
        w_init: Initial weight, with its unit.
        r_init: Initial state, in the unit of input times weight.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> readout = LeakyRateReadout(2, 1, tau=10 * u.ms, w_init=1.0, dt=1 * u.ms)
        >>> readout.init_state()
        >>> [round(float(readout(jnp.ones(2))[0]), 3) for _ in range(3)]
        [2.0, 3.81, 5.447]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        out_size: int | Sequence[int],
        tau: Any = 5.0 * u.ms,
        w_init: Callable | Any = init.KaimingNormal(),  # noqa: B008
        r_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        dt: Any = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.in_size, self.out_size = as_size(in_size), as_size(out_size)
        self.tau = time_constant(tau, self.out_size, 'tau')
        self.dt = dt
        self._r_init = r_init
        shape = (self.in_size[-1], self.out_size[-1])
        self.weight = brainstate.ParamState(initial_value(w_init, shape, 'w_init'))

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden state."""
        self.r = brainstate.HiddenState(self._initial_r(batch_size))

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden state to its initial value."""
        self.r.value = self._initial_r(batch_size)

    def _initial_r(self, batch_size: BatchSize) -> Any:
        return initial_value(self._r_init, self.out_size, 'r_init', batch_size)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        r = self.r.value
        check_input(x, self.in_size, self, r)
        drive = in_unit_of(
            matmul(x, self.weight.value),
            r,
            'LeakyRateReadout input times weight',
            'Give `r_init` the unit of input times weight.',
        )
        self.r.value = decay_of(self.tau, self.dt, 'tau') * r + drive
        return self.r.value
