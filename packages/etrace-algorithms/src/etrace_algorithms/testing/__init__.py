"""Oracles and models, for our own tests and for those of plugin authors."""

from etrace_algorithms.testing.compare import Comparison, compare_with_bptt
from etrace_algorithms.testing.conformance import (
    QUESTIONS,
    Answer,
    LearnerReport,
    check_learner,
    conformance_tests,
)
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
    'QUESTIONS',
    'RECURRENT_MODELS',
    'Answer',
    'Comparison',
    'DiagonalLSTM',
    'ElementwiseDecay',
    'Facts',
    'LeakyIntegrator',
    'LearnerReport',
    'PlainRNN',
    'Probe',
    'RecurrentLSTM',
    'SpikingChain',
    'assert_gradients_close',
    'bptt_gradients',
    'check_learner',
    'compare_with_bptt',
    'conformance_tests',
    'finite_difference',
    'gradient_alignment',
    'online_gradients',
]
