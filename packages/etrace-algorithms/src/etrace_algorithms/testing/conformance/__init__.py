"""Whether a learner keeps what every learner must, and what it promises."""

from etrace_algorithms.testing.conformance.kit import (
    QUESTIONS,
    check_learner,
    conformance_tests,
)
from etrace_algorithms.testing.conformance.report import Answer, LearnerReport

__all__ = ['QUESTIONS', 'Answer', 'LearnerReport', 'check_learner', 'conformance_tests']
