"""What a learner costs: bytes of its trace, work of one update, from shapes alone."""

from etrace_algorithms.memory.choice import RuleChoice, choose_costs
from etrace_algorithms.memory.counts import marked_multiply_adds, multiply_adds
from etrace_algorithms.memory.measure import (
    array_bytes,
    assemble_plan,
    measure_model,
    measure_trace,
    step_linearisation,
)
from etrace_algorithms.memory.peak import PeakMemory
from etrace_algorithms.memory.plan import LearnerCost, MemoryPlan
from etrace_algorithms.memory.units import parse_bytes

__all__ = [
    'LearnerCost',
    'MemoryPlan',
    'PeakMemory',
    'RuleChoice',
    'array_bytes',
    'assemble_plan',
    'choose_costs',
    'marked_multiply_adds',
    'measure_model',
    'measure_trace',
    'multiply_adds',
    'parse_bytes',
    'step_linearisation',
]
