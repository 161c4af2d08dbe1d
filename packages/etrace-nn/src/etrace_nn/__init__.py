"""Layers whose trainable operations online learners understand."""

from etrace_nn import surrogate
from etrace_nn.conv import Conv1d, Conv2d, Conv3d, ConvGRUCell
from etrace_nn.coupling import COBA, CUBA
from etrace_nn.diagonal import MiniGRU, MiniLSTM, RTUCell, SelectiveCell
from etrace_nn.gated import CFNCell, LayerNormGRUCell, MinimalRNNCell
from etrace_nn.gif import GIF
from etrace_nn.linear import Linear, ScaledWSLinear, SignedWLinear
from etrace_nn.neurons import ALIF, IF, LIF
from etrace_nn.plasticity import STD, STP
from etrace_nn.readout import LeakyRateReadout, LeakySpikeReadout
from etrace_nn.recurrent import (
    GRUCell,
    LSTMCell,
    MGUCell,
    URLSTMCell,
    ValinaRNNCell,
    VanillaRNNCell,
)
from etrace_nn.spiking import ALIFExponCell, EICell
from etrace_nn.state_space import LRUCell, S5Cell
from etrace_nn.structured import Embedding, GroupedLinear, LoRA, SparseLinear
from etrace_nn.synapses import Alpha, DualExpon, Expon

__all__ = [
    'ALIF',
    'COBA',
    'CUBA',
    'GIF',
    'IF',
    'LIF',
    'STD',
    'STP',
    'ALIFExponCell',
    'Alpha',
    'CFNCell',
    'Conv1d',
    'Conv2d',
    'Conv3d',
    'ConvGRUCell',
    'DualExpon',
    'EICell',
    'Embedding',
    'Expon',
    'GRUCell',
    'GroupedLinear',
    'LRUCell',
    'LSTMCell',
    'LayerNormGRUCell',
    'LeakyRateReadout',
    'LeakySpikeReadout',
    'Linear',
    'LoRA',
    'MGUCell',
    'MiniGRU',
    'MiniLSTM',
    'MinimalRNNCell',
    'RTUCell',
    'S5Cell',
    'ScaledWSLinear',
    'SelectiveCell',
    'SignedWLinear',
    'SparseLinear',
    'URLSTMCell',
    'ValinaRNNCell',
    'VanillaRNNCell',
    'surrogate',
]
