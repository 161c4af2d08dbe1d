"""Synapses: from spikes to the currents or conductances they cause."""

from collections.abc import Callable, Sequence
from typing import Any

import brainunit as u
from brainstate.nn import init

from etrace_nn._population import Population
from etrace_nn._time import steps_of
from etrace_nn._values import check_input, in_unit_of, marked, per_position

__all__ = ['Alpha', 'DualExpon', 'Expon']


class _Synapse(Population):
    """Filters of the input, of which all begin with the same value."""

    def __init__(
        self,
        in_size: int | Sequence[int],
        states: Sequence[str],
        g_init: Callable | Any,
        dt: Any,
        name: str | None,
        **taus: Any,
    ):
        super().__init__(in_size, dict.fromkeys(states, g_init), dt, name, 'g_init', **taus)

    def _jump(self, x: Any, state: Any) -> Any:
        """Return the input in the unit of a state."""
        check_input(x, self.in_size, self, state)
        return in_unit_of(
            x,
            state,
            f'{type(self).__name__} input',
            'Give the weights before the synapse, or `g_init`, the unit of the other.',
        )


class Expon(_Synapse):
    r"""Let each input jump and decay exponentially.

    $$g_t = e^{-\Delta t/\tau}\, g_{t-1} + x_t$$

    The hidden state is `g`, by default a current in mA, the unit of the input.

    **Shapes**: `x (..., *in_size) -> g (..., *in_size)`.

    **Exactness**: exact at every length.

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
        super().__init__(in_size, ('g',), g_init, dt, name, tau=tau)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        g = self.g.value
        self.g.value = self._decay('tau') * g + self._jump(x, g)
        return self.g.value


class Alpha(_Synapse):
    r"""Answer each input with an alpha function, which rises before it decays.

    $$g_t = e^{-\Delta t/\tau}\Big(g_{t-1} + \frac{\Delta t}{\tau} h_{t-1}\Big), \qquad
    h_t = e^{-\Delta t/\tau}\, h_{t-1} + x_t$$

    An input of 1 is answered with $(t/\tau)\, e^{-t/\tau}$. The hidden states are `g` and `h`,
    by default currents in mA, the unit of the input. The output is $g_t$.

    **Shapes**: `x (..., *in_size) -> g (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        tau: Time constant, a scalar or one for each position; a `ParamState` is trained.
        g_init: Initial states, in the unit of the input.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Rall (1967). Distinguishing theoretical synaptic potentials computed for different
        soma-dendritic distributions of synaptic input. Journal of Neurophysiology 30.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> synapse = Alpha(1, tau=2 * u.ms, dt=1 * u.ms)
        >>> synapse.init_state()
        >>> [round(float(synapse(jnp.full(1, x) * u.mA)[0] / u.mA), 3) for x in (1.0, 0.0, 0.0)]
        [0.0, 0.303, 0.368]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        tau: Any = 8.0 * u.ms,
        g_init: Callable | Any = init.ZeroInit(unit=u.mA),  # noqa: B008
        dt: Any = None,
        name: str | None = None,
    ):
        super().__init__(in_size, ('g', 'h'), g_init, dt, name, tau=tau)

    def update(self, x: Any) -> Any:
        """Do one step and return the new `g`.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        g, h = self.g.value, self.h.value
        x, decay = self._jump(x, h), self._decay('tau')
        self.g.value = decay * (g + steps_of(self.tau, self.dt, 'tau') * h)
        self.h.value = decay * h + x
        return self.g.value


class DualExpon(_Synapse):
    r"""Answer each input with the difference of two exponentials.

    $$g_t = A\,(d_t - r_t), \qquad d_t = e^{-\Delta t/\tau_d}\, d_{t-1} + x_t, \qquad
    r_t = e^{-\Delta t/\tau_r}\, r_{t-1} + x_t$$

    The hidden states are `g_decay` and `g_rise`, by default currents in mA, the unit of the
    input. The output is $g_t$. By default $A$ gives the answer to an input of 1 a peak of 1.

    **Shapes**: `x (..., *in_size) -> g (..., *in_size)`.

    **Exactness**: exact at every length.

    Args:
        in_size: Shape of the population.
        tau_decay: Time constant of the decay, a scalar or one for each position; a
            `ParamState` is trained.
        tau_rise: Time constant of the rise, likewise, and less than the other.
        A: Amplitude; `None` for a peak of 1.
        g_init: Initial states, in the unit of the input.
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.

    References:
        Destexhe, Mainen, Sejnowski (1994). Synthesis of models for excitable membranes,
        synaptic transmission and neuromodulation using a common kinetic formalism. Journal of
        Computational Neuroscience 1.

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> synapse = DualExpon(1, tau_decay=4 * u.ms, tau_rise=1 * u.ms, dt=1 * u.ms)
        >>> synapse.init_state()
        >>> [round(float(synapse(jnp.full(1, x) * u.mA)[0] / u.mA), 3) for x in (1.0, 0.0, 0.0)]
        [0.0, 0.87, 0.997]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        tau_decay: Any = 10.0 * u.ms,
        tau_rise: Any = 1.0 * u.ms,
        A: Any | None = None,
        g_init: Callable | Any = init.ZeroInit(unit=u.mA),  # noqa: B008
        dt: Any = None,
        name: str | None = None,
    ):
        states = ('g_decay', 'g_rise')
        super().__init__(in_size, states, g_init, dt, name, tau_decay=tau_decay, tau_rise=tau_rise)
        self.A = None if A is None else per_position(A, self.out_size, 'A')

    def update(self, x: Any) -> Any:
        """Do one step and return the new `g`.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        x = self._jump(x, self.g_rise.value)
        self.g_decay.value = self._decay('tau_decay') * self.g_decay.value + x
        self.g_rise.value = self._decay('tau_rise') * self.g_rise.value + x
        return self._amplitude() * (self.g_decay.value - self.g_rise.value)

    def _amplitude(self) -> Any:
        if self.A is not None:
            return marked(self.A)
        decay, rise = marked(self.tau_decay), marked(self.tau_rise)
        ratio = decay / rise
        return ratio / (ratio - 1) * ratio ** (1 / (ratio - 1))
