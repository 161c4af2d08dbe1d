"""The entry points of the installed plugins, read so that one broken package hides no other."""

from importlib.metadata import Distribution, EntryPoint, distributions, entry_points

from etrace_algorithms.plugins.records import (
    Origin,
    PluginProblem,
    describe,
    distribution_key,
    one_line,
)
from etrace_compiler.errors import explain_error

__all__ = ['GROUP', 'installed_entry_points', 'origin_of']

GROUP = 'etrace.learners'


def installed_entry_points() -> tuple[tuple[EntryPoint, ...], tuple[PluginProblem, ...]]:
    """Return the entry points of all plugins, and a problem for each unreadable distribution.

    The standard library reads all distributions or, if a single one is malformed, none; only
    then they are read one by one.
    """
    try:
        return tuple(entry_points(group=GROUP)), ()
    except Exception:
        return _read_one_by_one()


def _read_one_by_one() -> tuple[tuple[EntryPoint, ...], tuple[PluginProblem, ...]]:
    found: list[EntryPoint] = []
    problems: list[PluginProblem] = []
    seen: set[str] = set()
    for distribution in distributions():
        name = 'unknown'
        try:
            name = str(distribution.name)
            if distribution_key(name) not in seen:
                found += distribution.entry_points.select(group=GROUP)
        except Exception as error:
            if _is_ours(distribution):
                problems.append(_unreadable(distribution, name, error))
        seen.add(distribution_key(name))
    return tuple(found), tuple(problems)


def _is_ours(distribution: Distribution) -> bool:
    """Return whether a malformed distribution has, or may have, a plugin."""
    try:
        return GROUP in (distribution.read_text('entry_points.txt') or '')
    except Exception:
        return True


def _unreadable(distribution: Distribution, name: str, error: Exception) -> PluginProblem:
    text = explain_error(
        'entry_points.txt',
        'cannot be read',
        got=one_line(describe(error)),
        expected='lines `name = module`',
        fix='Reinstall or uninstall the package.',
        code='ETA822',
    )
    try:
        version = str(distribution.version)
    except Exception:
        version = 'unknown'
    return PluginProblem('*', one_line(name), one_line(version), 'metadata', text)


def origin_of(entry_point: EntryPoint) -> Origin:
    """Return which plugin of which distribution an entry point is."""
    try:
        distribution = entry_point.dist
        assert distribution is not None
        name, version = str(distribution.name), str(distribution.version)
    except Exception:
        name, version = 'unknown', 'unknown'
    return Origin(one_line(name), one_line(version), one_line(entry_point.name))
