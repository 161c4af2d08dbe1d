"""Layers whose trainable operations online learners understand."""

from etrace_nn import surrogate
from etrace_nn.linear import Linear
from etrace_nn.neurons import ALIF, LIF
from etrace_nn.readout import LeakyRateReadout
from etrace_nn.recurrent import GRUCell, LSTMCell, ValinaRNNCell, VanillaRNNCell
from etrace_nn.spiking import ALIFExponCell
from etrace_nn.synapses import Expon

__all__ = [
    'ALIF',
    'LIF',
    'ALIFExponCell',
    'Expon',
    'GRUCell',
    'LSTMCell',
    'LeakyRateReadout',
    'Linear',
    'ValinaRNNCell',
    'VanillaRNNCell',
    'surrogate',
]
