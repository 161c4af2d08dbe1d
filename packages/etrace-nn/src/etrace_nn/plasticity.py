"""Short-term plasticity: how much of a spike a synapse passes on depends on those before it."""

from collections.abc import Callable, Sequence
from typing import Any

import brainunit as u
from brainstate.nn import init

from etrace_nn._population import Population
from etrace_nn._values import check_input, in_unit_of, marked

__all__ = ['STD', 'STP']


class _Plasticity(Population):
    """A filter of spikes."""

    def _spike(self, x: Any, state: Any) -> Any:
        """Check that the input is a number for each position."""
        check_input(x, self.in_size, self, state)
        fix = 'Feed spikes, and give units to the weights after this layer.'
        return in_unit_of(x, state, f'{type(self).__name__} input', fix)


class STP(_Plasticity):
    r"""Let resources run down and their use build up with each spike, and recover.

    $$\begin{aligned}
    \tilde u_t &= e^{-\Delta t/\tau_f}\, u_{t-1}, &
    u_t &= \tilde u_t + U\,(1 - \tilde u_t)\, s_t \\
    \tilde x_t &= 1 - e^{-\Delta t/\tau_d}\,(1 - x_{t-1}), &
    x_t &= \tilde x_t - y_t, \qquad y_t = u_t\, \tilde x_t\, s_t
    \end{aligned}$$

    The output $y_t$ is what the spike $s_t$ releases. The hidden states are `u` and `x`, numbers
    between 0 and 1.

    **Shapes**: `s (..., *in_size) -> y (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        U: Fraction that the use grows by with a spike; a scalar, one for each position, or a
            `ParamState` of them, which is trained.
        tau_f: Time constant of the facilitation, likewise.
        tau_d: Time constant of the depression, likewise.
        u_init: Initial use.
        x_init: Initial resources.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Tsodyks, Pawelzik, Markram (1998). Neural networks with dynamic synapses. Neural
        Computation 10(4).

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> synapse = STP(1, U=0.2, tau_f=100 * u.ms, tau_d=10 * u.ms, dt=1 * u.ms)
        >>> synapse.init_state()
        >>> [round(float(synapse(jnp.ones(1))[0]), 3) for _ in range(3)]
        [0.2, 0.294, 0.276]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        U: Any = 0.15,
        tau_f: Any = 1500.0 * u.ms,
        tau_d: Any = 200.0 * u.ms,
        u_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        x_init: Callable | Any = init.Constant(1.0),  # noqa: B008
        dt: Any = None,
        name: str | None = None,
    ):
        states = {'u': u_init, 'x': x_init}
        super().__init__(in_size, states, dt, name, U=U, tau_f=tau_f, tau_d=tau_d)

    def update(self, x: Any) -> Any:
        """Do one step and return what is released.

        Raises:
            ValueError: If the input has the wrong shape or a unit, or the time step is not set.
        """
        spike = self._spike(x, self.u.value)
        use = self._decay('tau_f') * self.u.value
        use = use + marked(self.U) * (1 - use) * spike
        left = 1 - self._decay('tau_d') * (1 - self.x.value)
        released = use * left * spike
        self.u.value, self.x.value = use, left - released
        return released


class STD(_Plasticity):
    r"""Let resources run down with each spike, and recover.

    $$\tilde x_t = 1 - e^{-\Delta t/\tau}\,(1 - x_{t-1}), \qquad
    y_t = \tilde x_t\, s_t, \qquad x_t = \tilde x_t - U\, y_t$$

    The output is $y_t$; the hidden state is `x`, a number between 0 and 1.

    **Shapes**: `s (..., *in_size) -> y (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        tau: Time constant of the recovery; a scalar, one for each position, or a `ParamState`
            of them, which is trained.
        U: Fraction of the resources that a spike takes, likewise.
        x_init: Initial resources.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Abbott, Varela, Sen, Nelson (1997). Synaptic depression and cortical gain control.
        Science 275.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> synapse = STD(1, tau=10 * u.ms, U=0.5, dt=1 * u.ms)
        >>> synapse.init_state()
        >>> [round(float(synapse(jnp.ones(1))[0]), 3) for _ in range(3)]
        [1.0, 0.548, 0.343]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        tau: Any = 200.0 * u.ms,
        U: Any = 0.07,
        x_init: Callable | Any = init.Constant(1.0),  # noqa: B008
        dt: Any = None,
        name: str | None = None,
    ):
        super().__init__(in_size, {'x': x_init}, dt, name, tau=tau, U=U)

    def update(self, x: Any) -> Any:
        """Do one step and return what is passed on.

        Raises:
            ValueError: If the input has the wrong shape or a unit, or the time step is not set.
        """
        spike = self._spike(x, self.x.value)
        left = 1 - self._decay('tau') * (1 - self.x.value)
        passed = left * spike
        self.x.value = left - marked(self.U) * passed
        return passed
