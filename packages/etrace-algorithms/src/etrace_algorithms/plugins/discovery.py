"""Discovery: from installed entry points to a registry, one plugin at a time.

Each plugin gets a plugin manager of its own. So a plugin that fails leaves nothing behind, and
none can wrap, block or outvote the hook of another, whatever the version of pluggy.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

import pluggy

from etrace_algorithms.plugins import hookspecs
from etrace_algorithms.plugins._entry_points import origin_of
from etrace_algorithms.plugins._failures import PluginFailure, attempt
from etrace_algorithms.plugins.hookspecs import PROJECT
from etrace_algorithms.plugins.records import Origin, PluginProblem, distribution_key, name_key
from etrace_algorithms.plugins.registry import Registry, build_registry
from etrace_algorithms.plugins.spec import API_VERSION, LearnerSpec

__all__ = ['HOOK', 'Discovery', 'discover', 'is_disabled']

HOOK = 'etrace_register_learners'


@dataclass(frozen=True)
class Discovery:
    """The outcome of one discovery.

    Args:
        registry: The learners that can be asked for.
        problems: What could not be used, and why.
        disabled: The plugins that were left out on request, as `distribution:plugin`.
    """

    registry: Registry
    problems: tuple[PluginProblem, ...] = ()
    disabled: tuple[str, ...] = ()


def discover(entry_points: Iterable[EntryPoint], disabled: Collection[str] = ()) -> Discovery:
    """Load plugins one by one and register their learners.

    Our own plugins come first, then all others by distribution and entry point; the order in
    which they are given does not matter.

    Args:
        entry_points: The entry points of the plugins.
        disabled: Plugins to leave out: names of entry points or distributions,
            `distribution:plugin`, or `'*'` for all that are not built in.

    Returns:
        The registry, the problems and the plugins left out. Nothing a plugin does is raised.
    """
    found: list[tuple[LearnerSpec, Origin]] = []
    problems: list[PluginProblem] = []
    skipped: list[str] = []
    seen: set[tuple[str, str]] = set()
    pairs = [(origin_of(entry_point), entry_point) for entry_point in entry_points]
    for origin, entry_point in sorted(pairs, key=_order):
        if is_disabled(origin, disabled):
            skipped.append(f'{origin.distribution}:{origin.plugin}')
            continue
        key = (distribution_key(origin.distribution), name_key(origin.plugin))
        try:
            if key in seen:
                raise PluginFailure.repeated_entry_point(origin, entry_point.value)
            seen.add(key)
            specs, failures = attempt(
                partial(_read_plugin, entry_point, origin), PluginFailure.hook_raised
            )
        except PluginFailure as failure:
            problems.append(failure.as_problem(origin))
        else:
            found += [(spec, origin) for spec in specs]
            problems += [failure.as_problem(origin) for failure in failures]
    registry, refused = build_registry(found)
    return Discovery(registry, (*problems, *refused), tuple(skipped))


def is_disabled(origin: Origin, disabled: Collection[str]) -> bool:
    """Return whether a plugin is left out.

    `'*'` means every plugin that is not built in; a built-in one has to be named.
    """
    plugin, distribution = name_key(origin.plugin), distribution_key(origin.distribution)
    for entry in disabled:
        before, colon, after = entry.partition(':')
        if entry.strip() == '*':
            if not origin.is_builtin:
                return True
        elif colon:
            if (distribution_key(before), name_key(after)) == (distribution, plugin):
                return True
        elif name_key(entry) == plugin or distribution_key(entry) == distribution:
            return True
    return False


def _order(pair: tuple[Origin, EntryPoint]) -> tuple:
    origin, entry_point = pair
    distribution = distribution_key(origin.distribution)
    return not origin.is_builtin, distribution, origin.plugin, entry_point.value


def _read_plugin(
    entry_point: EntryPoint, origin: Origin
) -> tuple[list[LearnerSpec], list[PluginFailure]]:
    """Return the learners of one plugin that can be used and what is wrong with the others."""
    plugin = attempt(entry_point.load, PluginFailure.not_importable)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    name = f'{origin.distribution}:{origin.plugin}'
    attempt(lambda: manager.register(plugin, name), PluginFailure.malformed_hook)
    attempt(manager.check_pending, PluginFailure.unknown_hook)
    implementations = getattr(manager.hook, HOOK).get_hookimpls()
    if not implementations:
        raise PluginFailure.no_hook(plugin)
    if any(hook.hookwrapper or hook.wrapper for hook in implementations):
        raise PluginFailure.wrapper()
    result = attempt(getattr(manager.hook, HOOK), PluginFailure.hook_raised)
    return _check_result(result[0] if result else None)


def _check_result(result: Any) -> tuple[list[LearnerSpec], list[PluginFailure]]:
    if isinstance(result, (str, bytes)) or not isinstance(result, Iterable):
        raise PluginFailure.not_iterable(result)
    specs: list[LearnerSpec] = []
    failures: list[PluginFailure] = []
    for item in attempt(lambda: list(result), PluginFailure.hook_raised):
        try:
            specs.append(_check_item(item))
        except PluginFailure as failure:
            failures.append(failure)
    return specs, failures


def _check_item(item: Any) -> LearnerSpec:
    if type(item) is not LearnerSpec:
        raise PluginFailure.not_a_spec(item)
    # checked anew, as nothing forces a plugin to use the constructor
    spec = attempt(lambda: replace(item, origin=None), PluginFailure.hook_raised)
    if spec.api_version != API_VERSION:
        raise PluginFailure.other_version(spec)
    return spec
