"""The generalised integrate-and-fire neuron."""

from collections.abc import Callable, Sequence
from typing import Any

import brainunit as u
from brainstate.nn import init

from etrace_nn import surrogate
from etrace_nn._population import Neuron
from etrace_nn._values import check_input, check_unit, in_unit_of, marked

__all__ = ['GIF']


class GIF(Neuron):
    r"""Integrate and fire with a moving threshold and two currents that spikes set off.

    A spike $s_{t-1}$ resets the potential as in [`LIF`][etrace_nn.LIF], lifts the threshold
    to at least $\theta_r$ and lets the currents jump, $I_j \to I_j + s\,((R_j - 1) I_j + A_j)$.
    Then, with $e_x = e^{-\Delta t/\tau_x}$,

    $$\begin{aligned}
    V_t &= V^* + e\,(\tilde V_{t-1} - V^*), \qquad
    V^* = V_{rest} + R\,(x_t + I^1_t + I^2_t), \qquad I^j_t = e_{I_j} \tilde I^j_{t-1} \\
    \theta_t &= \theta^* + e_{th}\,(\tilde\theta_{t-1} - \theta^*), \qquad
    \theta^* = \theta_\infty + a\,(\tilde V_{t-1} - V_{rest}) \\
    s_t &= \Theta\big((V_t - \theta_t)/(\theta_\infty - V_r)\big)
    \end{aligned}$$

    The hidden states are `V`, `V_th`, which is $\theta$, `I1` and `I2`; they act on each other
    position by position.

    **Shapes**: `x (..., *in_size) -> s (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        R: Membrane resistance.
        tau: Membrane time constant.
        tau_th: Time constant of the threshold.
        tau_I1: Time constant of the first current.
        tau_I2: Time constant of the second current.
        V_rest: Potential without input.
        V_reset: Potential after a spike, $V_r$.
        V_th_inf: Threshold at rest, $\theta_\infty$.
        V_th_reset: Threshold after a spike is at least this, $\theta_r$.
        a: How far the threshold follows the potential.
        R1: What is left of the first current after a spike.
        R2: What is left of the second current.
        A1: Jump of the first current.
        A2: Jump of the second current.
        V_init: Initial potential.
        V_th_init: Initial threshold; `None` for `V_th_inf`.
        I1_init: Initial first current.
        I2_init: Initial second current.
        spk_fun: Spike function, see [`surrogate`][etrace_nn.surrogate].
        spk_reset: `'soft'` or `'hard'`.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Mihalas, Niebur (2009). A generalized linear integrate-and-fire neural model produces
        diverse spiking behaviors. Neural Computation 21(3).

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> neuron = GIF(1, tau=5 * u.ms, A2=-1 * u.mA, dt=1 * u.ms)
        >>> neuron.init_state()
        >>> [int(neuron(jnp.full(1, 2.5) * u.mA)[0]) for _ in range(9)]
        [0, 0, 1, 0, 0, 0, 0, 1, 0]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        R: Any = 1.0 * u.ohm,
        tau: Any = 20.0 * u.ms,
        tau_th: Any = 100.0 * u.ms,
        tau_I1: Any = 5.0 * u.ms,
        tau_I2: Any = 50.0 * u.ms,
        V_rest: Any = 0.0 * u.mV,
        V_reset: Any = 0.0 * u.mV,
        V_th_inf: Any = 1.0 * u.mV,
        V_th_reset: Any = 0.5 * u.mV,
        a: Any = 0.0,
        R1: Any = 0.0,
        R2: Any = 1.0,
        A1: Any = 0.0 * u.mA,
        A2: Any = -0.2 * u.mA,
        V_init: Callable | Any = init.ZeroInit(unit=u.mV),  # noqa: B008
        V_th_init: Callable | Any | None = None,
        I1_init: Callable | Any = init.ZeroInit(unit=u.mA),  # noqa: B008
        I2_init: Callable | Any = init.ZeroInit(unit=u.mA),  # noqa: B008
        spk_fun: Callable[[Any], Any] = surrogate.relu_grad,
        spk_reset: str = 'soft',
        dt: Any = None,
        name: str | None = None,
    ):
        V_th_init = marked(V_th_inf) if V_th_init is None else V_th_init
        states = {'V': V_init, 'V_th': V_th_init, 'I1': I1_init, 'I2': I2_init}
        potentials = {
            'V_th_inf': V_th_inf,
            'V_reset': V_reset,
            'V_rest': V_rest,
            'V_th_reset': V_th_reset,
        }
        super().__init__(in_size, states, potentials, spk_fun, spk_reset, dt, name)
        self._set(tau=tau, tau_th=tau_th, tau_I1=tau_I1, tau_I2=tau_I2)
        self._set(R=R, a=a, R1=R1, R2=R2, A1=A1, A2=A2)
        check_unit(A2, A1, 'A2', 'A1')

    def _threshold(self) -> Any:
        return self.V_th.value

    def _top(self) -> Any:
        return marked(self.V_th_inf)

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        check_input(x, self.in_size, self, self.V.value)
        x = in_unit_of(x, self.I1.value, 'GIF input', 'Give the input a current, as `I1_init`.')
        spike, V, threshold = self.get_spike(), self.V.value, self.V_th.value
        rest = marked(self.V_rest)
        V = self._after_reset(spike)
        lift = u.math.maximum(marked(self.V_th_reset) - threshold, u.math.zeros_like(threshold))
        currents = []
        for state, tau, left, jump in (
            (self.I1, 'tau_I1', self.R1, self.A1),
            (self.I2, 'tau_I2', self.R2, self.A2),
        ):
            current = state.value
            current = current + spike * ((marked(left) - 1) * current + marked(jump))
            state.value = current * self._decay(tau)
            currents.append(state.value)
        goal = rest + self._drive(x + currents[0] + currents[1])
        level = marked(self.V_th_inf) + marked(self.a) * (V - rest)
        self.V.value = self._relax(V, goal)
        self.V_th.value = self._relax(threshold + lift * spike, level, 'tau_th')
        return self.get_spike()
