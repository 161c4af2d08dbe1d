"""Spiking neurons.

A neuron spikes where its membrane potential has reached the threshold. The spike is a function
of the states, not a state: the reset at the beginning of the next step, an adaptation and a
recurrent projection all compute it from there, position by position.

Every property of a population (`tau`, `R`, `V_th`, ...) is a scalar, or one value for each
neuron, or a `ParamState` of them, which is then trained, each neuron for itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import brainunit as u
from brainstate.nn import init

from etrace_nn import surrogate
from etrace_nn._population import Neuron
from etrace_nn._time import steps_of
from etrace_nn._values import check_input, marked

__all__ = ['ALIF', 'IF', 'LIF']


class IF(Neuron):
    r"""Integrate a current without a leak, spike at a threshold and reset.

    With $s_t = \Theta\big((V_t - V_{th})/(V_{th} - V_r)\big)$,

    $$V_t = V_{t-1} - (V_{th} - V_r)\, s_{t-1} + \frac{\Delta t}{\tau} R\, x_t.$$

    A hard reset has $V_{t-1} - V_r$ in the place of $V_{th} - V_r$. The hidden state is `V`;
    the output is $s_t$, with the surrogate derivative of `spk_fun`.

    **Shapes**: `x (..., *in_size) -> s (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        R: Membrane resistance.
        tau: Time constant of the integration.
        V_th: Threshold.
        V_reset: Potential after a spike, $V_r$.
        V_init: Initial potential.
        spk_fun: Spike function, see [`surrogate`][etrace_nn.surrogate].
        spk_reset: `'soft'` or `'hard'`.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Abbott (1999). Lapicque's introduction of the integrate-and-fire model neuron (1907).
        Brain Research Bulletin 50.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> neuron = IF(1, tau=5 * u.ms, dt=1 * u.ms)
        >>> neuron.init_state()
        >>> [int(neuron(jnp.full(1, 2.0) * u.mA)[0]) for _ in range(6)]
        [0, 0, 1, 0, 1, 0]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        R: Any = 1.0 * u.ohm,
        tau: Any = 5.0 * u.ms,
        V_th: Any = 1.0 * u.mV,
        V_reset: Any = 0.0 * u.mV,
        V_init: Callable | Any = init.ZeroInit(unit=u.mV),  # noqa: B008
        spk_fun: Callable[[Any], Any] = surrogate.relu_grad,
        spk_reset: str = 'soft',
        dt: Any = None,
        name: str | None = None,
    ):
        states, potentials = {'V': V_init}, {'V_th': V_th, 'V_reset': V_reset}
        super().__init__(in_size, states, potentials, spk_fun, spk_reset, dt, name, R=R, tau=tau)

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        check_input(x, self.in_size, self, self.V.value)
        rise = steps_of(self.tau, self.dt, 'tau') * self._drive(x)
        self.V.value = self._after_reset(self.get_spike()) + rise
        return self.get_spike()


class LIF(Neuron):
    r"""Integrate a current with a leak, spike at a threshold and reset.

    With $\alpha = e^{-\Delta t/\tau}$ and $s_t = \Theta\big((V_t - V_{th})/(V_{th} - V_r)\big)$,

    $$\tilde V_t = V_{t-1} - (V_{th} - V_r)\, s_{t-1}, \qquad
    V_t = \alpha \tilde V_t + (1 - \alpha)(V_{rest} + R\, x_t).$$

    A hard reset has $V_{t-1} - V_r$ in the place of $V_{th} - V_r$. The hidden state is `V`;
    the output is $s_t$, with the surrogate derivative of `spk_fun`.

    **Shapes**: `x (..., *in_size) -> s (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        R: Membrane resistance.
        tau: Membrane time constant.
        V_th: Threshold.
        V_reset: Potential after a spike, $V_r$.
        V_rest: Potential without input.
        V_init: Initial potential.
        spk_fun: Spike function, see [`surrogate`][etrace_nn.surrogate].
        spk_reset: `'soft'` or `'hard'`.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Gerstner, Kistler, Naud, Paninski (2014). Neuronal Dynamics, ch. 1.3.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> neuron = LIF(1, tau=5 * u.ms, dt=1 * u.ms)
        >>> neuron.init_state()
        >>> [int(neuron(jnp.full(1, 2.0) * u.mA)[0]) for _ in range(6)]
        [0, 0, 0, 1, 0, 0]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        R: Any = 1.0 * u.ohm,
        tau: Any = 5.0 * u.ms,
        V_th: Any = 1.0 * u.mV,
        V_reset: Any = 0.0 * u.mV,
        V_rest: Any = 0.0 * u.mV,
        V_init: Callable | Any = init.ZeroInit(unit=u.mV),  # noqa: B008
        spk_fun: Callable[[Any], Any] = surrogate.relu_grad,
        spk_reset: str = 'soft',
        dt: Any = None,
        name: str | None = None,
    ):
        states, potentials = {'V': V_init}, {'V_th': V_th, 'V_reset': V_reset, 'V_rest': V_rest}
        super().__init__(in_size, states, potentials, spk_fun, spk_reset, dt, name, R=R, tau=tau)

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        check_input(x, self.in_size, self, self.V.value)
        goal = self._drive(x) + marked(self.V_rest)
        self.V.value = self._relax(self._after_reset(self.get_spike()), goal)
        return self.get_spike()


class ALIF(Neuron):
    r"""Integrate and spike as `LIF` does, at a threshold that rises with each spike.

    $$a_t = e^{-\Delta t/\tau_a}\,(a_{t-1} + s_{t-1}), \qquad
    s_t = \Theta\!\left(\frac{V_t - V_{th} - \beta a_t}{V_{th} - V_r}\right)$$

    The potential follows the equation of [`LIF`][etrace_nn.LIF]. The hidden states are `V` and
    the dimensionless `a`; they act on each other position by position.

    **Shapes**: `x (..., *in_size) -> s (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        R: Membrane resistance.
        tau: Membrane time constant.
        tau_a: Time constant of the adaptation.
        V_th: Threshold without adaptation.
        V_reset: Potential after a spike.
        V_rest: Potential without input.
        beta: Strength of the adaptation, a potential.
        V_init: Initial potential.
        a_init: Initial adaptation.
        spk_fun: Spike function.
        spk_reset: `'soft'` or `'hard'`.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Bellec et al. (2018). Long short-term memory and learning-to-learn in networks of
        spiking neurons. NeurIPS 31.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> neuron = ALIF(1, tau=5 * u.ms, beta=1 * u.mV, dt=1 * u.ms)
        >>> neuron.init_state()
        >>> [int(neuron(jnp.full(1, 2.0) * u.mA)[0]) for _ in range(6)]
        [0, 0, 0, 1, 0, 0]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        R: Any = 1.0 * u.ohm,
        tau: Any = 5.0 * u.ms,
        tau_a: Any = 100.0 * u.ms,
        V_th: Any = 1.0 * u.mV,
        V_reset: Any = 0.0 * u.mV,
        V_rest: Any = 0.0 * u.mV,
        beta: Any = 0.1 * u.mV,
        V_init: Callable | Any = init.ZeroInit(unit=u.mV),  # noqa: B008
        a_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        spk_fun: Callable[[Any], Any] = surrogate.relu_grad,
        spk_reset: str = 'soft',
        dt: Any = None,
        name: str | None = None,
    ):
        states = {'V': V_init, 'a': a_init}
        potentials = {'V_th': V_th, 'V_reset': V_reset, 'V_rest': V_rest, 'beta': beta}
        super().__init__(
            in_size, states, potentials, spk_fun, spk_reset, dt, name, R=R, tau=tau, tau_a=tau_a
        )

    def _threshold(self) -> Any:
        return marked(self.V_th) + marked(self.beta) * self.a.value

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        check_input(x, self.in_size, self, self.V.value)
        spike = self.get_spike()
        goal = self._drive(x) + marked(self.V_rest)
        self.V.value = self._relax(self._after_reset(spike), goal)
        self.a.value = self._decay('tau_a') * (self.a.value + spike)
        return self.get_spike()
