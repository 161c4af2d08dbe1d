"""Oracles for gradients, for our own tests and for those of plugin authors."""

from etrace_algorithms.testing.oracles import (
    assert_gradients_close,
    bptt_gradients,
    finite_difference,
    gradient_alignment,
    online_gradients,
)

__all__ = [
    'assert_gradients_close',
    'bptt_gradients',
    'finite_difference',
    'gradient_alignment',
    'online_gradients',
]
