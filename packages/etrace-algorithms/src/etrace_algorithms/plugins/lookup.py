"""Looking learners up: discovery at the first question, remembered for the process.

`ETRACE_DISABLE_PLUGINS=a,b` leaves plugins out: names of entry points or distributions, or
`distribution:plugin`. `*` stands for every plugin that is not built in; a built-in one is left
out only when it is named. `ETRACE_STRICT_PLUGINS=1` turns problems into one exception.
"""

import importlib
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from etrace_algorithms.plugins._entry_points import installed_entry_points
from etrace_algorithms.plugins.discovery import Discovery, discover
from etrace_algorithms.plugins.errors import PluginDiscoveryError, PluginWarning
from etrace_algorithms.plugins.records import PluginProblem
from etrace_algorithms.plugins.spec import LearnerSpec
from etrace_compiler.errors import explain_error

__all__ = ['Settings', 'discovered', 'get_learner', 'learners', 'problems', 'refresh']

_OFF = frozenset({'', '0', 'false', 'no', 'off'})


@dataclass(frozen=True)
class Settings:
    """What the environment says about plugins.

    Args:
        strict: Whether a problem is an exception instead of a warning.
        disabled: The plugins to leave out.
    """

    strict: bool = False
    disabled: tuple[str, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> 'Settings':
        """Read `ETRACE_STRICT_PLUGINS` and `ETRACE_DISABLE_PLUGINS`.

        Example:
            >>> Settings.of({'ETRACE_DISABLE_PLUGINS': 'eprop, uoro'})
            Settings(strict=False, disabled=('eprop', 'uoro'))
        """
        strict = environ.get('ETRACE_STRICT_PLUGINS', '').strip().lower() not in _OFF
        listed = environ.get('ETRACE_DISABLE_PLUGINS', '').split(',')
        return cls(strict, tuple(name.strip() for name in listed if name.strip()))


class _Memory:
    """What this process remembers: the last discovery, and which problems were told."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.discovery: Discovery | None = None
        self.is_busy = False
        self.told: set[PluginProblem] = set()


_memory = _Memory()


def learners() -> tuple[LearnerSpec, ...]:
    """Return every learner that is installed, our own first.

    Raises:
        PluginDiscoveryError: With `ETRACE_STRICT_PLUGINS=1`, if a plugin can't be used.

    Example:
        >>> 'd_rtrl' in [spec.name for spec in learners()]
        True
    """
    return _checked().registry.specs


def get_learner(name: str) -> LearnerSpec:
    """Return the learner of that name.

    Args:
        name: A name or alias; case does not matter and `-` equals `_`. `distribution:name`
            chooses among several claimants.

    Raises:
        TypeError: If the name is not a string.
        UnknownLearnerError: If no plugin offers it.
        AmbiguousLearnerError: If several distributions claim it.
        PluginDiscoveryError: With `ETRACE_STRICT_PLUGINS=1`, if a plugin can't be used.

    Example:
        >>> get_learner('D-RTRL').exactness
        'exact-diagonal'
    """
    found = _checked()
    return found.registry.get(name, found.problems, found.disabled)


def problems() -> tuple[PluginProblem, ...]:
    """Return what kept plugins, or single learners, from being used."""
    return discovered().problems


def refresh() -> None:
    """Forget what was found, so that the next look-up sees what is installed then.

    Modules that are already imported stay as they are.
    """
    with _memory.lock:
        importlib.invalidate_caches()
        _memory.discovery = None


def discovered() -> Discovery:
    """Return the outcome of discovery, made now if this is the first question.

    Raises:
        PluginDiscoveryError: If a plugin asks for learners while it is being loaded.
    """
    with _memory.lock:
        if _memory.discovery is None:
            _memory.discovery = _discover_installed()
        return _memory.discovery


def _discover_installed() -> Discovery:
    if _memory.is_busy:
        raise PluginDiscoveryError(
            explain_error(
                'learners',
                'are not known yet',
                got='a look-up while plugins are being loaded',
                expected='a plugin that only announces its own learners',
                fix='Move the look-up into the factory.',
                code='ETA808',
            )
        )
    _memory.is_busy = True
    try:
        entry_points, unreadable = installed_entry_points()
        found = discover(entry_points, Settings.of(os.environ).disabled)
    finally:
        _memory.is_busy = False
    return Discovery(found.registry, (*unreadable, *found.problems), found.disabled)


def _checked() -> Discovery:
    """Return the outcome of discovery after telling of its problems."""
    found = discovered()
    if found.problems and Settings.of(os.environ).strict:
        listed = ''.join(f'\n  {problem}' for problem in found.problems)
        message = explain_error(
            'ETRACE_STRICT_PLUGINS',
            'forbids plugins that cannot be used',
            got=f'{len(found.problems)} problem(s)',
            expected='none',
            fix='Repair, uninstall or disable what is listed here.',
            code='ETA807',
        )
        raise PluginDiscoveryError(message + listed, found.problems)
    for problem in found.problems:
        with _memory.lock:
            is_new = problem not in _memory.told
            _memory.told.add(problem)
        if is_new:
            warnings.warn(str(problem), PluginWarning, stacklevel=3)
    return found
