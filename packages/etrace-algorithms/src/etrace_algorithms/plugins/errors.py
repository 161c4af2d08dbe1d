"""The errors and the warning of the plugin layer."""

from etrace_algorithms.plugins.records import PluginProblem

__all__ = [
    'AmbiguousLearnerError',
    'LearnerLoadError',
    'LearnerSpecError',
    'PluginDiscoveryError',
    'PluginError',
    'PluginWarning',
    'UnknownLearnerError',
]


class PluginError(Exception):
    """Whatever this layer raises on purpose."""


class LearnerSpecError(PluginError, ValueError):
    """Raised by a `LearnerSpec` that says something impossible about itself."""


class LearnerLoadError(PluginError, ImportError):
    """Raised when the factory of a known learner can't be imported."""


class UnknownLearnerError(PluginError, ValueError):
    """Raised when no installed plugin offers the name that was asked for."""


class AmbiguousLearnerError(PluginError, ValueError):
    """Raised when several plugins claim the name that was asked for."""


class PluginDiscoveryError(PluginError):
    """Raised for the whole of discovery; `problems` holds what went wrong, one record each.

    Args:
        message: The text shown to the user.
        problems: The problems that discovery met.
    """

    def __init__(self, message: str, problems: tuple[PluginProblem, ...] = ()):
        super().__init__(message)
        self.problems = tuple(problems)


class PluginWarning(UserWarning):
    """Given once per process for each plugin that can't be used."""
