"""Readouts: from the activity of a network to its output."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
from brainstate.nn import init

from etrace_compiler import matmul
from etrace_nn import surrogate
from etrace_nn._layer import StatefulLayer
from etrace_nn._time import decay_of
from etrace_nn._values import as_size, check_input, in_unit_of, initial_value, per_position
from etrace_nn.neurons import LIF

__all__ = ['LeakyRateReadout', 'LeakySpikeReadout']


def _weight(w_init: Any, in_size: tuple[int, ...], out_size: tuple[int, ...]) -> Any:
    shape = (in_size[-1], out_size[-1])
    return brainstate.ParamState(initial_value(w_init, shape, 'w_init'))


class LeakyRateReadout(StatefulLayer):
    r"""Integrate weighted input with a leak.

    $$r_t = e^{-\Delta t/\tau}\, r_{t-1} + x_t W$$

    The hidden state is `r`, the parameter `weight`, a `ParamState` of $W$. The output is $r_t$.

    **Shapes**: `x (..., in) -> r (..., out)`.

    **Exactness**: exact at every length.

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
        self.tau = per_position(tau, self.out_size, 'tau')
        self.dt = dt
        self._hold(self.out_size, {'r': r_init})
        self.weight = _weight(w_init, self.in_size, self.out_size)

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


class LeakySpikeReadout(LIF):
    r"""Integrate weighted input with a leak and spike, so that spikes are the output.

    The neurons are those of [`LIF`][etrace_nn.LIF], with a resting potential of zero and
    $x_t W$ in the place of $R\, x_t$. The hidden state is `V`, the parameter `weight`, a
    `ParamState` of $W$.

    **Shapes**: `x (..., in) -> s (..., out)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Number of inputs.
        out_size: Number of outputs.
        tau: Membrane time constant, a scalar or one for each output; a `ParamState` is trained.
        V_th: Threshold.
        w_init: Initial weight, a potential for each unit of the input.
        V_init: Initial potential.
        spk_fun: Spike function, see [`surrogate`][etrace_nn.surrogate].
        spk_reset: `'soft'` or `'hard'`.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> readout = LeakySpikeReadout(2, 1, w_init=1.0 * u.mV, dt=1 * u.ms)
        >>> readout.init_state()
        >>> [int(readout(jnp.ones(2))[0]) for _ in range(6)]
        [0, 0, 0, 1, 0, 0]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        out_size: int | Sequence[int],
        tau: Any = 5.0 * u.ms,
        V_th: Any = 1.0 * u.mV,
        w_init: Callable | Any = init.KaimingNormal(unit=u.mV),  # noqa: B008
        V_init: Callable | Any = init.ZeroInit(unit=u.mV),  # noqa: B008
        spk_fun: Callable[[Any], Any] = surrogate.relu_grad,
        spk_reset: str = 'soft',
        dt: Any = None,
        name: str | None = None,
    ):
        super().__init__(
            out_size,
            1.0,
            tau,
            V_th,
            V_reset=0 * V_th,
            V_rest=0 * V_th,
            V_init=V_init,
            spk_fun=spk_fun,
            spk_reset=spk_reset,
            dt=dt,
            name=name,
        )
        self.in_size = as_size(in_size)
        self.weight = _weight(w_init, self.in_size, self.out_size)

    def _drive(self, current: Any) -> Any:
        return in_unit_of(
            matmul(current, self.weight.value),
            self.V.value,
            'LeakySpikeReadout input times weight',
            'Give `w_init` the unit of the potential over that of the input.',
        )
