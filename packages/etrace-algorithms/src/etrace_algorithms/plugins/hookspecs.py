"""The one hook of a plugin, and the marker that says a function implements it."""

from collections.abc import Iterable

import pluggy

from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['PROJECT', 'etrace_register_learners', 'hookimpl', 'hookspec']

PROJECT = 'etrace'

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learners that this plugin offers.

    A plugin is a module named in the entry-point group `etrace.learners`. It implements this
    hook as a plain function without arguments, marked with `@hookimpl`, and should import
    nothing heavy: name the factories as `'module:attr'`.
    """
    raise NotImplementedError
