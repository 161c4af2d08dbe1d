"""The learning rules of this package, one per file."""

from etrace_algorithms.rules._traces import advance_traces, credit_traces, zero_traces
from etrace_algorithms.rules.d_rtrl import DiagonalRTRL
from etrace_algorithms.rules.hybrid import HybridRule, RulePart
from etrace_algorithms.rules.immediate import ImmediateDerivatives
from etrace_algorithms.rules.pp_prop import IODimTrace, as_decay

__all__ = [
    'DiagonalRTRL',
    'HybridRule',
    'IODimTrace',
    'ImmediateDerivatives',
    'RulePart',
    'advance_traces',
    'as_decay',
    'credit_traces',
    'zero_traces',
]
