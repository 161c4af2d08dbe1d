"""Oracles and models, for our own tests and for those of plugin authors."""

from etrace_algorithms.testing.models import (
    DIAGONAL_MODELS,
    RECURRENT_MODELS,
    DiagonalLSTM,
    ElementwiseDecay,
    LeakyIntegrator,
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
)
from etrace_algorithms.testing.oracles import (
    assert_gradients_close,
    bptt_gradients,
    finite_difference,
    gradient_alignment,
    online_gradients,
)
from etrace_algorithms.testing.probe import Facts, Probe

__all__ = [
    'DIAGONAL_MODELS',
    'RECURRENT_MODELS',
    'DiagonalLSTM',
    'ElementwiseDecay',
    'Facts',
    'LeakyIntegrator',
    'PlainRNN',
    'Probe',
    'RecurrentLSTM',
    'SpikingChain',
    'assert_gradients_close',
    'bptt_gradients',
    'finite_difference',
    'gradient_alignment',
    'online_gradients',
]
