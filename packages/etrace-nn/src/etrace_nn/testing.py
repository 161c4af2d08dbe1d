"""Every layer in a network small enough to hold its gradient against backpropagation.

For our own tests and documentation, and for those of whoever writes layers: a row says how to
build a network around a layer and what to feed it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brainstate
import brainunit as u
import numpy as np
from brainstate.nn import init
from jax.experimental import sparse

import etrace_nn as nn
from etrace_nn import surrogate
from etrace_nn._layer import Layer

__all__ = ['LAYERS', 'LayerRow', 'SynapseAndNeuron', 'trained']

IN, OUT = 3, 4
MS = 1.0 * u.ms


@dataclass(frozen=True)
class LayerRow:
    """A layer in a network whose input and output are arrays without units.

    Attributes:
        layer: The class that the row is about.
        build: Makes a network around it, with trainable parameters.
        features: Shape of the input of the network; `None` for an index.
        spikes_in: Whether the network is fed with spikes.
        spikes_out: Whether its output is spikes.
        is_complex: Whether it has complex states.
    """

    layer: type
    build: Callable[[], brainstate.nn.Module]
    features: tuple[int, ...] | None = (IN,)
    spikes_in: bool = False
    spikes_out: bool = False
    is_complex: bool = False

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.layer.__name__

    def inputs(self, *shape: int, seed: int = 0) -> Any:
        """Draw an input of shape `(*shape, *features)`, the same in every process."""
        random = np.random.default_rng(seed)
        if self.features is None:
            return random.integers(0, IN, size=shape)
        size = (*shape, *self.features)
        drawn = random.random(size) < 0.4 if self.spikes_in else random.normal(size=size)
        return np.asarray(drawn, brainstate.environ.dftype())


class SynapseAndNeuron(Layer):
    """Exponential synapses, a coupling, and integrate-and-fire neurons in a row.

    Args:
        coupling: From the state of the synapses and the potential of the neurons to a current.
        unit: Unit of the weights.
        **neuron: Arguments of `LIF`.
    """

    def __init__(self, coupling: Layer, unit: Any, **neuron: Any):
        super().__init__()
        self.W = nn.Linear(IN, OUT, w_init=init.KaimingNormal(unit=unit), b_init=None)
        self.synapse = nn.Expon(OUT, g_init=init.ZeroInit(unit=unit), dt=MS)
        self.coupling = coupling
        self.neuron = nn.LIF(OUT, dt=MS, **neuron)

    def update(self, x: Any) -> Any:
        """Do one step and return the spikes."""
        g = self.synapse(self.W(x))
        return self.neuron(self.coupling(g, self.neuron.V.value))


def trained(value: Any, size: int = OUT) -> brainstate.ParamState:
    """Make a property of a population that is trained for each position by itself."""
    scale = np.linspace(0.8, 1.2, size)
    return brainstate.ParamState(u.math.asarray(scale, brainstate.environ.dftype()) * value)


def _values_of(pattern: np.ndarray) -> Any:
    """Fill a pattern with numbers."""
    return np.asarray(
        pattern * np.linspace(0.5, 1.5, pattern.size).reshape(pattern.shape),
        brainstate.environ.dftype(),
    )


def _row(layer: type, *args: Any, **options: Any) -> LayerRow:
    """A row of a cell that needs nothing around it."""
    return LayerRow(layer, lambda: layer(IN, OUT, *args), **options)


def _in_front(
    layer: type, *args: Any, features: tuple[int, ...] | None = (IN,), **options: Any
) -> LayerRow:
    """A row of a layer without states, in front of leaky integrators."""

    def build() -> brainstate.nn.Module:
        projection = layer(*args, **options)
        leak = nn.Expon(projection.out_size, g_init=init.ZeroInit(), dt=MS)
        return brainstate.nn.Sequential(projection, leak)

    return LayerRow(layer, build, features)


def _behind(
    layer: type, unit: Any, make: Callable[[], dict[str, Any]], spikes: bool = True
) -> LayerRow:
    """A row of neurons or synapses behind a projection."""

    def build() -> brainstate.nn.Module:
        weights = nn.Linear(IN, OUT, w_init=init.KaimingNormal(scale=8.0, unit=unit), b_init=None)
        options = {'spk_fun': surrogate.sigmoid_grad} if spikes else {}
        return brainstate.nn.Sequential(weights, layer(OUT, dt=MS, **options, **make()))

    return LayerRow(layer, build, spikes_out=spikes)


def _cortical() -> dict[str, Any]:
    """Properties of neurons that conductances of some nS drive."""
    return {
        'R': 100.0 * u.Mohm,
        'tau': trained(20.0 * u.ms),
        'V_th': -60.0 * u.mV,
        'V_reset': -65.0 * u.mV,
        'V_rest': -65.0 * u.mV,
        'V_init': -63.0 * u.mV,
        'spk_fun': surrogate.sigmoid_grad,
    }


#: A row for each layer.
LAYERS: tuple[LayerRow, ...] = (
    _in_front(nn.Linear, IN, OUT, w_mask=np.tri(IN, OUT)),
    _in_front(nn.SignedWLinear, IN, OUT, w_sign=np.array([[1], [-1], [1]])),
    _in_front(nn.ScaledWSLinear, IN, OUT),
    _in_front(nn.GroupedLinear, 4, 6, groups=2, features=(4,)),
    LayerRow(
        nn.SparseLinear,
        lambda: brainstate.nn.Sequential(
            nn.SparseLinear(sparse.BCOO.fromdense(_values_of(np.tri(IN, OUT)))),
            nn.Expon(OUT, g_init=init.ZeroInit(), dt=MS),
        ),
    ),
    _in_front(nn.LoRA, IN, 2, OUT),
    _in_front(nn.Embedding, IN, OUT, features=None),
    _in_front(nn.Conv1d, (4, 2), 3, 3, stride=2, features=(4, 2)),
    _in_front(nn.Conv2d, (3, 4, 2), 2, 2, groups=2, b_init=init.Normal(), features=(3, 4, 2)),
    _in_front(nn.Conv3d, (2, 2, 3, 1), 2, 2, padding='VALID', features=(2, 2, 3, 1)),
    LayerRow(nn.ConvGRUCell, lambda: nn.ConvGRUCell((4, 2), 2, 3), (4, 2)),
    LayerRow(nn.ValinaRNNCell, lambda: nn.ValinaRNNCell(IN, OUT, activation='tanh')),
    _row(nn.GRUCell),
    _row(nn.MGUCell),
    _row(nn.LSTMCell),
    _row(nn.URLSTMCell),
    _row(nn.MinimalRNNCell),
    _row(nn.CFNCell),
    _row(nn.LayerNormGRUCell),
    _row(nn.MiniGRU),
    _row(nn.MiniLSTM),
    _row(nn.RTUCell),
    _row(nn.SelectiveCell, 2),
    _row(nn.LRUCell, is_complex=True),
    _row(nn.S5Cell, is_complex=True),
    _behind(nn.IF, u.mA, lambda: {'tau': trained(5.0 * u.ms)}),
    _behind(nn.LIF, u.mA, lambda: {'tau': trained(5.0 * u.ms)}),
    _behind(
        nn.ALIF,
        u.mA,
        lambda: {
            'tau': trained(5.0 * u.ms),
            'tau_a': trained(20.0 * u.ms),
            'beta': trained(0.3 * u.mV),
        },
    ),
    _behind(
        nn.GIF,
        u.mA,
        lambda: {'tau': trained(5.0 * u.ms), 'tau_I2': trained(20.0 * u.ms), 'a': 0.1},
    ),
    _behind(nn.Expon, u.mA, lambda: {'tau': trained(8.0 * u.ms)}, spikes=False),
    _behind(nn.Alpha, u.mA, lambda: {'tau': trained(8.0 * u.ms)}, spikes=False),
    _behind(
        nn.DualExpon,
        u.mA,
        lambda: {'tau_decay': trained(8.0 * u.ms), 'tau_rise': trained(2.0 * u.ms)},
        spikes=False,
    ),
    LayerRow(
        nn.STP,
        lambda: nn.STP(
            IN,
            U=trained(0.2, IN),
            tau_f=trained(50.0 * u.ms, IN),
            tau_d=trained(20.0 * u.ms, IN),
            dt=MS,
        ),
        spikes_in=True,
    ),
    LayerRow(
        nn.STD,
        lambda: nn.STD(IN, tau=trained(20.0 * u.ms, IN), U=trained(0.2, IN), dt=MS),
        spikes_in=True,
    ),
    LayerRow(
        nn.CUBA,
        lambda: SynapseAndNeuron(
            nn.CUBA(3.0), u.mA, tau=trained(5.0 * u.ms), spk_fun=surrogate.sigmoid_grad
        ),
        spikes_out=True,
    ),
    LayerRow(
        nn.COBA,
        lambda: SynapseAndNeuron(nn.COBA(trained(0.0 * u.mV)), u.nS, **_cortical()),
        spikes_out=True,
    ),
    LayerRow(
        nn.ALIFExponCell,
        lambda: nn.ALIFExponCell(IN, OUT, dt=MS, spk_fun=surrogate.sigmoid_grad),
        spikes_in=True,
        spikes_out=True,
    ),
    LayerRow(
        nn.EICell,
        lambda: nn.EICell(IN, 2, 2, V_th=-60.0 * u.mV, dt=MS, spk_fun=surrogate.sigmoid_grad),
        spikes_in=True,
        spikes_out=True,
    ),
    LayerRow(nn.LeakyRateReadout, lambda: nn.LeakyRateReadout(IN, OUT, trained(5.0 * u.ms), dt=MS)),
    LayerRow(
        nn.LeakySpikeReadout,
        lambda: nn.LeakySpikeReadout(
            IN,
            OUT,
            trained(5.0 * u.ms),
            w_init=init.KaimingNormal(scale=8.0, unit=u.mV),
            spk_fun=surrogate.sigmoid_grad,
            dt=MS,
        ),
        spikes_out=True,
    ),
)
