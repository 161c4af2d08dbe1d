"""Plugins: learners that are found because they are installed.

Everything is lazy: no plugin is imported before the first look-up, and no learner before its
first use.
"""

from etrace_algorithms.plugins.citation import cite
from etrace_algorithms.plugins.errors import (
    AmbiguousLearnerError,
    LearnerLoadError,
    LearnerSpecError,
    PluginDiscoveryError,
    PluginError,
    PluginWarning,
    UnknownLearnerError,
)
from etrace_algorithms.plugins.hookspecs import hookimpl
from etrace_algorithms.plugins.lookup import get_learner, learners, problems, refresh
from etrace_algorithms.plugins.records import Origin, PluginProblem
from etrace_algorithms.plugins.spec import API_VERSION, EXACTNESS, LearnerSpec

__all__ = [
    'API_VERSION',
    'EXACTNESS',
    'AmbiguousLearnerError',
    'LearnerLoadError',
    'LearnerSpec',
    'LearnerSpecError',
    'Origin',
    'PluginDiscoveryError',
    'PluginError',
    'PluginProblem',
    'PluginWarning',
    'UnknownLearnerError',
    'cite',
    'get_learner',
    'hookimpl',
    'learners',
    'problems',
    'refresh',
]
