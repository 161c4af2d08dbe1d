"""Spiking layers, ready to be stacked."""

from collections.abc import Callable
from typing import Any

import brainunit as u
from brainstate.nn import init

from etrace_nn import surrogate
from etrace_nn._layer import Layer
from etrace_nn._values import BatchSize, check_input
from etrace_nn.linear import Linear
from etrace_nn.neurons import ALIF
from etrace_nn.synapses import Expon

__all__ = ['ALIFExponCell']


class ALIFExponCell(Layer):
    r"""Drive adaptive leaky integrate-and-fire neurons through exponential synapses.

    $$g_t = e^{-\Delta t/\tau_g}\, g_{t-1} + x_t W_{in} + s_{t-1} W_{rec}, \qquad
    s_t = \mathrm{ALIF}(g_t)$$

    Hidden states: `synapse.g`, `neuron.V`, `neuron.a`. They act on each other position by
    position within the step, so without the recurrent weights the whole layer does.
    Parameters: `W_in.weight` and `W_rec.weight`.

    **Shapes**: `x (..., in) -> s (..., out)`.

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
        self.synapse = Expon(out_size, tau=tau_g, dt=dt)
        self.neuron = ALIF(out_size, spk_fun=spk_fun, dt=dt, **neuron)
        self.in_size, self.out_size = self.W_in.in_size, self.W_in.out_size

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden states."""
        self.synapse.init_state(batch_size)
        self.neuron.init_state(batch_size)

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden states to their initial values."""
        self.synapse.reset_state(batch_size)
        self.neuron.reset_state(batch_size)

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
