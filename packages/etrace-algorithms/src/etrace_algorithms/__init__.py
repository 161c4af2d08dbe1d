"""Online learning rules for recurrent and spiking networks."""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from etrace_algorithms._compile import compile
from etrace_algorithms.automatic import AutoLearner
from etrace_algorithms.check import check_gradients
from etrace_algorithms.check_report import GradientCheck, WeightCheck
from etrace_algorithms.drive import etrace_evolve, etrace_grad, peak_memory
from etrace_algorithms.hybrid import HybridLearner
from etrace_algorithms.learner import EligibilityTrace, ETraceAlgorithm
from etrace_algorithms.learners import (
    D_RTRL,
    ES_D_RTRL,
    Immediate,
    IODimVjpAlgorithm,
    ParamDimVjpAlgorithm,
    RuleLearner,
    pp_prop,
)
from etrace_algorithms.memory import PeakMemory, RuleChoice
from etrace_algorithms.plan import LearnerCost, MemoryPlan, memory_plan
from etrace_algorithms.rule import Exactness, Gradients, LearningRule, LearningSignal
from etrace_algorithms.rules import HybridRule, RulePart
from etrace_algorithms.vjp import ETraceVjpAlgorithm
from etrace_compiler import (
    CompilationError,
    ETraceGraph,
    ETraceVjpGraphExecutor,
    Linearisation,
    MultiStepData,
    NotSupportedError,
    SingleStepData,
)

try:
    __version__ = _version('etrace-algorithms')
except _NotInstalled:  # a source tree that was put on the path
    __version__ = '0.0.0'

__all__ = [
    'D_RTRL',
    'ES_D_RTRL',
    'AutoLearner',
    'CompilationError',
    'ETraceAlgorithm',
    'ETraceGraph',
    'ETraceVjpAlgorithm',
    'ETraceVjpGraphExecutor',
    'EligibilityTrace',
    'Exactness',
    'GradientCheck',
    'Gradients',
    'HybridLearner',
    'HybridRule',
    'IODimVjpAlgorithm',
    'Immediate',
    'LearnerCost',
    'LearningRule',
    'LearningSignal',
    'Linearisation',
    'MemoryPlan',
    'MultiStepData',
    'NotSupportedError',
    'ParamDimVjpAlgorithm',
    'PeakMemory',
    'RuleChoice',
    'RuleLearner',
    'RulePart',
    'SingleStepData',
    'WeightCheck',
    'check_gradients',
    'compile',
    'etrace_evolve',
    'etrace_grad',
    'memory_plan',
    'peak_memory',
    'pp_prop',
]
