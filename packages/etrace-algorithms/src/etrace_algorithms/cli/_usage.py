"""What the commands share: wrong calls, learners by name, paragraphs."""

import contextlib
import sys
import textwrap

from etrace_algorithms.plugins.discovery import Discovery
from etrace_algorithms.plugins.errors import PluginError
from etrace_algorithms.plugins.lookup import discovered
from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['UsageError', 'apart', 'find_learner', 'installed', 'paragraph']

_WIDTH = 100


class UsageError(Exception):
    """Raised for a call of the command line that cannot be carried out."""


def apart() -> contextlib.AbstractContextManager[object]:
    """Keep what foreign code prints out of the answer: it goes to the standard error output."""
    return contextlib.redirect_stdout(sys.stderr)


def installed() -> Discovery:
    """Return what discovery finds."""
    with apart():
        return discovered()


def find_learner(name: str) -> tuple[LearnerSpec, str]:
    """Return the learner of a name, and the shortest name that leads to it.

    Raises:
        UsageError: If nobody offers it, or several do.
    """
    found = installed()
    try:
        spec = found.registry.get(name, found.problems, found.disabled)
    except PluginError as error:
        raise UsageError(str(error)) from None
    return spec, found.registry.name_of(spec)


def paragraph(text: str, indent: str = '    ', rest: str | None = None) -> str:
    """Return a text in lines of at most 100 characters.

    Args:
        text: The text.
        indent: What stands before the first line.
        rest: What stands before the others; by default four blanks.
    """
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent='    ' if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
