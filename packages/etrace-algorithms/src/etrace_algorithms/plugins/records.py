"""What discovery writes down: where a learner comes from, and what went wrong on the way.

Names of learners are compared without case and with `-` and `_` equal; names of
distributions as package indexes compare them.
"""

import re
from dataclasses import dataclass
from typing import Literal

__all__ = [
    'OWN_DISTRIBUTION',
    'Origin',
    'PluginProblem',
    'Stage',
    'describe',
    'distribution_key',
    'name_key',
    'one_line',
]

OWN_DISTRIBUTION = 'etrace-algorithms'

Stage = Literal['metadata', 'import', 'validate', 'call', 'result', 'version', 'name']


def name_key(name: str) -> str:
    """Return the form under which a learner or an entry point is filed.

    Example:
        >>> name_key('PP-Prop') == name_key('pp_prop')
        True
    """
    return name.strip().lower().replace('-', '_')


def distribution_key(name: str) -> str:
    """Return the normalised name of a distribution.

    Example:
        >>> distribution_key('Etrace_Algorithms')
        'etrace-algorithms'
    """
    return re.sub(r'[-_.]+', '-', name.strip()).lower()


def one_line(text: str) -> str:
    """Return foreign text on one line and without control characters, fit for a terminal."""
    return ''.join(c if c.isprintable() else '?' for c in ' '.join(text.split()))


def describe(error: BaseException) -> str:
    """Return the type and text of an exception, even of one whose text cannot be read."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        text = '(no text)'
    return f'{type(error).__name__}: {text}'


@dataclass(frozen=True)
class Origin:
    """Where a learner comes from.

    Args:
        distribution: Name of the installed distribution.
        version: Its version.
        plugin: Name of the entry point.
    """

    distribution: str
    version: str
    plugin: str

    @property
    def is_builtin(self) -> bool:
        """Whether it comes with this package."""
        return distribution_key(self.distribution) == OWN_DISTRIBUTION

    def __str__(self) -> str:
        return f'{self.distribution} {self.version}'


@dataclass(frozen=True)
class PluginProblem:
    """One thing that kept a plugin, or one learner of it, from being used.

    Args:
        plugin: Name of the entry point.
        distribution: Name of the installed distribution.
        version: Its version.
        stage: Where it happened. 'metadata': the distribution's entry points can't be read;
            'import': importing the plugin failed; 'validate': its hook is missing or
            malformed; 'call': the hook raised; 'result': the hook returned something else
            than learner specifications; 'version': made for another plugin interface;
            'name': a name that is taken.
        error: One sentence, with its code.
    """

    plugin: str
    distribution: str
    version: str
    stage: Stage
    error: str

    def __str__(self) -> str:
        return (
            f'plugin {self.plugin!r} of {self.distribution} {self.version} '
            f'({self.stage}): {self.error}'
        )
