"""Spiking layers, ready to be stacked."""

from collections.abc import Callable, Sequence
from typing import Any

import brainunit as u
from brainstate.nn import init

from etrace_compiler.errors import explain_error
from etrace_nn import surrogate
from etrace_nn._layer import Layer
from etrace_nn._values import BatchSize, check_input, check_unit
from etrace_nn.coupling import COBA, CUBA
from etrace_nn.linear import Linear, SignedWLinear
from etrace_nn.neurons import ALIF, LIF
from etrace_nn.synapses import Expon

__all__ = ['ALIFExponCell', 'EICell']


class _Population(Layer):
    """Neurons with synapses and projections, which hold all states."""

    neuron: Any

    def _parts(self) -> Sequence[Any]:
        raise NotImplementedError

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden states."""
        for part in self._parts():
            part.init_state(batch_size)

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden states to their initial values."""
        for part in self._parts():
            part.reset_state(batch_size)


class ALIFExponCell(_Population):
    r"""Drive adaptive leaky integrate-and-fire neurons through exponential synapses.

    $$g_t = e^{-\Delta t/\tau_g}\, g_{t-1} + x_t W_{in} + s_{t-1} W_{rec}, \qquad
    s_t = \mathrm{ALIF}(g_t)$$

    Hidden states: `synapse.g`, `neuron.V`, `neuron.a`. They act on each other position by
    position within the step, so without the recurrent weights the whole layer does.
    Parameters: `W_in.weight` and `W_rec.weight`.

    **Shapes**: `x (..., in) -> s (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions. Exact at every length with
    `recurrent=False`.

    Args:
        in_size: Number of inputs.
        out_size: Number of neurons.
        recurrent: Whether the spikes of the last step come back through `W_rec`.
        w_init: Initial input weight, a current for each spike.
        rec_init: Initial recurrent weight, likewise.
        b_init: Initial bias, a current; `None` for no bias.
        tau_g: Time constant of the synapses.
        spk_fun: Spike function, see [`surrogate`][etrace_nn.surrogate].
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.
        **neuron: Further arguments of [`ALIF`][etrace_nn.ALIF]: `tau`, `tau_a`, `beta`, ...

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> layer = ALIFExponCell(4, 3, tau=20 * u.ms, dt=1 * u.ms)
        >>> layer.init_state(batch_size=2)
        >>> layer(jnp.ones((2, 4))).shape
        (2, 3)
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        recurrent: bool = True,
        w_init: Callable | Any = init.KaimingNormal(unit=u.mA),  # noqa: B008
        rec_init: Callable | Any = init.KaimingNormal(unit=u.mA),  # noqa: B008
        b_init: Callable | Any | None = None,
        tau_g: Any = 8.0 * u.ms,
        spk_fun: Callable[[Any], Any] = surrogate.relu_grad,
        dt: Any = None,
        name: str | None = None,
        **neuron: Any,
    ):
        super().__init__(name=name)
        self.W_in = Linear(in_size, out_size, w_init=w_init, b_init=b_init)
        self.W_rec = Linear(out_size, out_size, w_init=rec_init, b_init=None) if recurrent else None
        if self.W_rec is not None:
            first, second = (W.weight.value['weight'] for W in (self.W_in, self.W_rec))
            check_unit(second, first, 'rec_init', 'w_init')
        self.synapse = Expon(out_size, tau=tau_g, dt=dt)
        self.neuron = ALIF(out_size, spk_fun=spk_fun, dt=dt, **neuron)
        self.in_size, self.out_size = self.W_in.in_size, self.W_in.out_size

    def _parts(self) -> Sequence[Any]:
        return self.synapse, self.neuron

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        check_input(x, self.in_size, self, self.neuron.V.value)
        current = self.W_in(x)
        if self.W_rec is not None:
            current = current + self.W_rec(self.neuron.get_spike())
        return self.neuron(self.synapse(current))


class EICell(_Population):
    r"""Connect excitatory and inhibitory neurons so that they obey Dale's law.

    All weights keep their sign: an excitatory neuron excites all its targets, an inhibitory one
    inhibits them. With $|W|$ for the moduli of the entries,

    $$\begin{aligned}
    g^E_t &= e^{-\Delta t/\tau_E}\, g^E_{t-1} + x_t |W_{in}| + s^E_{t-1} |W_E|, \qquad
    g^I_t = e^{-\Delta t/\tau_I}\, g^I_{t-1} + s^I_{t-1} |W_I| \\
    s_t &= \mathrm{LIF}\big(g^E_t (E_E - V_{t-1}) + g^I_t (E_I - V_{t-1})\big)
    \end{aligned}$$

    With `coupling='current'` the neurons receive $g^E_t - g^I_t$. The hidden states are
    `exc.g`, `inh.g` and `neuron.V`; the parameters are `W_in.weight`, `W_exc.weight` and
    `W_inh.weight`. Of the neurons the excitatory ones come first.

    **Shapes**: `x (..., in) -> s (..., num_exc + num_inh)`.

    **Exactness**: approximate; the recurrent weights mix positions.

    Args:
        in_size: Number of inputs, all of them excitatory.
        num_exc: Number of excitatory neurons.
        num_inh: Number of inhibitory neurons.
        coupling: `'conductance'` or `'current'`.
        w_init: Initial input weight, a conductance or a current for each spike.
        exc_init: Initial weight of the excitatory neurons, likewise.
        inh_init: Initial weight of the inhibitory neurons, likewise.
        tau_exc: Time constant of the excitatory synapses.
        tau_inh: Time constant of the inhibitory synapses.
        E_exc: Reversal potential of excitation.
        E_inh: Reversal potential of inhibition.
        spk_fun: Spike function, see [`surrogate`][etrace_nn.surrogate].
        dt: Time step; `None` takes that of `brainstate.environ`.
        name: Name of the module.
        **neuron: Further arguments of [`LIF`][etrace_nn.LIF]; by default a resistance of
            100 megaohm, a time constant of 20 ms, a resting and reset potential of -65 mV and a
            threshold of -50 mV.

    Raises:
        ValueError: If the coupling is unknown, or weights do not have its unit.

    References:
        Song, Yang, Wang (2016). Training excitatory-inhibitory recurrent neural networks for
        cognitive tasks. PLOS Computational Biology 12(2).

    Example:
        >>> import brainunit as u, jax.numpy as jnp
        >>> cell = EICell(4, num_exc=8, num_inh=2, dt=1 * u.ms)
        >>> cell.init_state(batch_size=3)
        >>> cell(jnp.ones((3, 4))).shape
        (3, 10)
    """

    def __init__(
        self,
        in_size: int,
        num_exc: int,
        num_inh: int,
        coupling: str = 'conductance',
        w_init: Callable | Any | None = None,
        exc_init: Callable | Any | None = None,
        inh_init: Callable | Any | None = None,
        tau_exc: Any = 5.0 * u.ms,
        tau_inh: Any = 10.0 * u.ms,
        E_exc: Any = 0.0 * u.mV,
        E_inh: Any = -80.0 * u.mV,
        spk_fun: Callable[[Any], Any] = surrogate.relu_grad,
        dt: Any = None,
        name: str | None = None,
        **neuron: Any,
    ):
        super().__init__(name=name)
        _check_coupling(coupling)
        conducts = coupling == 'conductance'
        unit = u.nS if conducts else u.pA
        default = init.KaimingNormal(scale=1.0 if conducts else 60.0**2, unit=unit)
        size = num_exc + num_inh

        def projection(count: int, w_init: Any, subject: str) -> SignedWLinear:
            weights = SignedWLinear(count, size, default if w_init is None else w_init)
            check_unit(weights.weight, 1.0 * unit, subject, f'a {coupling}')
            return weights

        def synapse(tau: Any) -> Expon:
            return Expon(size, tau, g_init=init.ZeroInit(unit=unit), dt=dt)

        self.num_exc = num_exc
        self.W_in = projection(in_size, w_init, 'w_init')
        self.W_exc = projection(num_exc, exc_init, 'exc_init')
        self.W_inh = projection(num_inh, inh_init, 'inh_init')
        self.exc, self.inh = synapse(tau_exc), synapse(tau_inh)
        self.excite = COBA(E_exc) if conducts else CUBA()
        self.inhibit = COBA(E_inh) if conducts else CUBA(-1.0)
        self.neuron = LIF(size, spk_fun=spk_fun, dt=dt, **{**_cortical(), **neuron})
        self.in_size, self.out_size = (in_size,), (size,)

    def _parts(self) -> Sequence[Any]:
        return self.exc, self.inh, self.neuron

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes.

        Raises:
            ValueError: If the input has the wrong shape or unit, or the time step is not set.
        """
        V = self.neuron.V.value
        check_input(x, self.in_size, self, V)
        spike = self.neuron.get_spike()
        of_exc, of_inh = spike[..., : self.num_exc], spike[..., self.num_exc :]
        exc = self.exc(self.W_in(x) + self.W_exc(of_exc))
        inh = self.inh(self.W_inh(of_inh))
        return self.neuron(self.excite(exc, V) + self.inhibit(inh, V))


def _cortical() -> dict[str, Any]:
    """Properties of neurons whose conductances are some nS."""
    return {
        'R': 100.0 * u.Mohm,
        'tau': 20.0 * u.ms,
        'V_th': -50.0 * u.mV,
        'V_reset': -65.0 * u.mV,
        'V_rest': -65.0 * u.mV,
        'V_init': -65.0 * u.mV,
    }


def _check_coupling(coupling: str) -> None:
    if coupling not in ('conductance', 'current'):
        raise ValueError(
            explain_error(
                'coupling',
                'is unknown',
                got=repr(coupling),
                expected="'conductance' or 'current'",
                fix="Use 'current' if the weights are currents.",
                code='ETC610',
            )
        )
