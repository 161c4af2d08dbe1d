"""What the look-up says when a name leads nowhere, or to several places."""

import difflib
from collections.abc import Mapping, Sequence

from etrace_algorithms.plugins.records import PluginProblem, one_line
from etrace_compiler.errors import explain_error

__all__ = ['explain_ambiguous', 'explain_not_a_name', 'explain_unknown']


def explain_not_a_name(name: object) -> str:
    """Say that a name has to be a string."""
    return explain_error(
        'name',
        'is not the name of a learner',
        got=f'{one_line(repr(name))} of type {type(name).__name__}',
        expected='a string',
        fix="Pass a name such as 'd_rtrl'.",
        code='ETA804',
    )


def explain_ambiguous(name: str, choices: Sequence[str]) -> str:
    """Say that several distributions offer a name, and how to ask for each of them."""
    return explain_error(
        one_line(name),
        'is ambiguous',
        got=f'a name that {len(choices)} distributions offer',
        expected=f'one of {", ".join(choices)}',
        fix='Ask for one of these, or uninstall the other.',
        code='ETA806',
    )


def explain_unknown(
    name: str,
    wanted: str,
    spelt: Mapping[str, str],
    offered: Sequence[str],
    problems: Sequence[PluginProblem],
    disabled: Sequence[str],
) -> str:
    """Say that nobody offers a name: the nearest one, what is there, and what is not usable.

    Args:
        name: What was asked for.
        wanted: The key it was looked up by.
        spelt: Every key that would have led to one learner, and how it is spelt.
        offered: The names to list.
        problems: What discovery could not use.
        disabled: The plugins that were left out on request.
    """
    close = difflib.get_close_matches(wanted, spelt, n=1)
    fix = f'Did you mean {spelt[close[0]]!r}?' if close else 'Install the package that offers it.'
    if not offered:
        fix = "Install 'etrace-algorithms' itself: a bare source folder has no entry points."
    if problems:
        failed = '; '.join(f'{p.distribution}:{p.plugin} ({p.stage})' for p in problems)
        fix += f' Not usable: {failed}; `etrace list` says why.'
    if disabled:
        fix += f' Disabled: {", ".join(disabled)}.'
    return explain_error(
        one_line(name),
        'is not a known learner',
        got=one_line(repr(name)),
        expected=f'one of {", ".join(offered) or "(none found)"}',
        fix=fix,
        code='ETA805',
    )
