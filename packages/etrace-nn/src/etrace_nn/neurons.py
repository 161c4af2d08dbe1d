"""Spiking neurons.

A neuron spikes where its membrane potential has reached the threshold. The spike is a function
of the states, not a state: the reset at the beginning of the next step, an adaptation and a
recurrent projection all compute it from there, position by position.
"""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
from brainstate.nn import init

from etrace_compiler.errors import explain_error
from etrace_nn import surrogate
from etrace_nn._layer import Layer
from etrace_nn._time import decay_of, time_constant
from etrace_nn._values import BatchSize, as_size, check_input, in_unit_of, initial_value

__all__ = ['ALIF', 'LIF']


class LIF(Layer):
    r"""Integrate a current with a leak, spike at a threshold and reset.

    With $\alpha = e^{-\Delta t/\tau}$ and $s_t = \Theta\big((V_t - V_{th})/(V_{th} - V_r)\big)$,

    $$\tilde V_t = V_{t-1} - (V_{th} - V_r)\, s_{t-1}, \qquad
    V_t = \alpha \tilde V_t + (1 - \alpha)(V_{rest} + R\, x_t).$$

    A hard reset has $V_{t-1} - V_r$ in the place of $V_{th} - V_r$. The hidden state is `V`;
    the output is $s_t$, with the surrogate derivative of `spk_fun`.

    **Shapes**: `x (..., *in_size) -> s (..., *in_size)`.

    Args:
        in_size: Shape of the population.
        R: Membrane resistance.
        tau: Membrane time constant, a scalar or one for each neuron; a `ParamState` is trained.
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
        super().__init__(name=name)
        check_reset(spk_reset)
        self.in_size = self.out_size = as_size(in_size)
        self.R, self.V_th, self.V_reset, self.V_rest = R, V_th, V_reset, V_rest
        self.tau = time_constant(tau, self.out_size, 'tau')
        self.spk_fun, self.spk_reset = spk_fun, spk_reset
        self.dt = dt
        self._V_init = V_init

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden state."""
        self.V = brainstate.HiddenState(self._initial_V(batch_size))

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden state to its initial value."""
        self.V.value = self._initial_V(batch_size)

    def _initial_V(self, batch_size: BatchSize) -> Any:
        return initial_value(self._V_init, self.out_size, 'V_init', batch_size)

    def get_spike(self) -> Any:
        """Return the spikes of the present state, a number for each neuron."""
        return self.spk_fun((self.V.value - self.V_th) / (self.V_th - self.V_reset))

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        check_input(x, self.in_size, self, self.V.value)
        self.V.value = _next_potential(self, x, self.get_spike())
        return self.get_spike()


class ALIF(Layer):
    r"""Integrate and spike as `LIF` does, at a threshold that rises with each spike.

    $$a_t = e^{-\Delta t/\tau_a}\,(a_{t-1} + s_{t-1}), \qquad
    s_t = \Theta\!\left(\frac{V_t - V_{th} - \beta a_t}{V_{th} - V_r}\right)$$

    The potential follows the equation of [`LIF`][etrace_nn.LIF]. The hidden states are `V` and
    the dimensionless `a`; they act on each other position by position.

    **Shapes**: `x (..., *in_size) -> s (..., *in_size)`.

    Args:
        in_size: Shape of the population.
        R: Membrane resistance.
        tau: Membrane time constant, a scalar or one for each neuron; a `ParamState` is trained.
        tau_a: Time constant of the adaptation, likewise.
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
        super().__init__(name=name)
        check_reset(spk_reset)
        self.in_size = self.out_size = as_size(in_size)
        self.R, self.V_th, self.V_reset, self.V_rest = R, V_th, V_reset, V_rest
        self.tau = time_constant(tau, self.out_size, 'tau')
        self.tau_a = time_constant(tau_a, self.out_size, 'tau_a')
        self.beta = beta
        self.spk_fun, self.spk_reset = spk_fun, spk_reset
        self.dt = dt
        self._V_init, self._a_init = V_init, a_init

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden states."""
        V, a = self._initial(batch_size)
        self.V, self.a = brainstate.HiddenState(V), brainstate.HiddenState(a)

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden states to their initial values."""
        self.V.value, self.a.value = self._initial(batch_size)

    def _initial(self, batch_size: BatchSize) -> tuple[Any, Any]:
        return (
            initial_value(self._V_init, self.out_size, 'V_init', batch_size),
            initial_value(self._a_init, self.out_size, 'a_init', batch_size),
        )

    def get_spike(self) -> Any:
        """Return the spikes of the present states, a number for each neuron."""
        distance = self.V.value - self.V_th - self.beta * self.a.value
        return self.spk_fun(distance / (self.V_th - self.V_reset))

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        check_input(x, self.in_size, self, self.V.value)
        spike = self.get_spike()
        V = _next_potential(self, x, spike)
        self.a.value = decay_of(self.tau_a, self.dt, 'tau_a') * (self.a.value + spike)
        self.V.value = V
        return self.get_spike()


def check_reset(spk_reset: str) -> None:
    """Check the name of a reset.

    Raises:
        ValueError: If it is neither `'soft'` nor `'hard'`.
    """
    if spk_reset not in ('soft', 'hard'):
        raise ValueError(
            explain_error(
                'spk_reset',
                'is unknown',
                got=repr(spk_reset),
                expected="'soft' or 'hard'",
                fix="Use 'soft' to subtract the threshold, 'hard' to start from `V_reset`.",
                code='ETC609',
            )
        )


def _next_potential(neuron: LIF | ALIF, current: Any, spike: Any) -> Any:
    """Reset where there was a spike, then relax towards the potential that the input holds."""
    V = neuron.V.value
    drive = in_unit_of(
        neuron.R * current,
        V,
        f'{type(neuron).__name__} input times R',
        'Give the input a current and R a resistance, such as mA and ohm.',
    )
    top = V if neuron.spk_reset == 'hard' else neuron.V_th
    V = V - (top - neuron.V_reset) * spike
    goal = drive + neuron.V_rest
    return goal + (V - goal) * decay_of(neuron.tau, neuron.dt, 'tau')
