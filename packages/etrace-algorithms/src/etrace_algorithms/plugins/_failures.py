"""What can be wrong with one plugin, in words."""

from collections.abc import Callable
from typing import Any, TypeVar

from etrace_algorithms.plugins.records import (
    Origin,
    PluginProblem,
    Stage,
    describe,
    one_line,
)
from etrace_algorithms.plugins.spec import API_VERSION, LearnerSpec
from etrace_compiler.errors import explain_error

__all__ = ['PluginFailure', 'attempt']

T = TypeVar('T')

_HOOK = 'etrace_register_learners'
_REPAIR = 'Upgrade or uninstall the package.'
_AUTHOR = 'Its author has to correct it.'


class PluginFailure(Exception):
    """Ends the reading of one plugin; becomes a `PluginProblem` at once.

    Args:
        stage: Where it happened.
        error: One sentence, with its code.
    """

    def __init__(self, stage: Stage, error: str):
        super().__init__(error)
        self.stage: Stage = stage
        self.error = one_line(error)

    def as_problem(self, origin: Origin) -> PluginProblem:
        """Return the record of this failure."""
        return PluginProblem(
            origin.plugin, origin.distribution, origin.version, self.stage, self.error
        )

    @classmethod
    def _of(
        cls, stage: Stage, problem: str, got: str, expected: str, fix: str, code: str
    ) -> 'PluginFailure':
        text = explain_error(
            'plugin' if stage == 'import' else _HOOK,
            problem,
            got=got,
            expected=expected,
            fix=fix,
            code=code,
        )
        return cls(stage, text)

    @classmethod
    def not_importable(cls, error: BaseException) -> 'PluginFailure':
        """The entry point could not be imported."""
        expected = 'a module that imports'
        return cls._of('import', 'cannot be imported', describe(error), expected, _REPAIR, 'ETA811')

    @classmethod
    def malformed_hook(cls, error: BaseException) -> 'PluginFailure':
        """The hook takes arguments it cannot be given, or could not be registered."""
        expected = 'a function without arguments, marked with @hookimpl'
        return cls._of('validate', 'is malformed', describe(error), expected, _AUTHOR, 'ETA812')

    @classmethod
    def unknown_hook(cls, error: BaseException) -> 'PluginFailure':
        """A function is marked as a hook that does not exist."""
        return cls._of(
            'validate', 'is misspelt', describe(error), f'a hook named {_HOOK}', _AUTHOR, 'ETA813'
        )

    @classmethod
    def no_hook(cls, plugin: Any) -> 'PluginFailure':
        """Nothing in the plugin is marked as a hook."""
        expected = 'a module with that function, marked with @hookimpl'
        got = f'{type(plugin).__name__} {getattr(plugin, "__name__", "without a name")!r}'
        return cls._of('validate', 'is missing', got, expected, _AUTHOR, 'ETA814')

    @classmethod
    def wrapper(cls) -> 'PluginFailure':
        """The hook wants to wrap those of other plugins."""
        got = 'an implementation with wrapper or hookwrapper'
        return cls._of('validate', 'is a wrapper', got, 'a plain implementation', _AUTHOR, 'ETA815')

    @classmethod
    def hook_raised(cls, error: BaseException) -> 'PluginFailure':
        """The hook, or the iterable it returned, raised."""
        expected = 'an iterable of LearnerSpec'
        return cls._of('call', 'failed when called', describe(error), expected, _REPAIR, 'ETA816')

    @classmethod
    def not_iterable(cls, result: Any) -> 'PluginFailure':
        """The hook returned one thing, not an iterable of them."""
        expected = 'an iterable of LearnerSpec'
        return cls._of(
            'result', 'returned the wrong type', _type_of(result), expected, _AUTHOR, 'ETA817'
        )

    @classmethod
    def not_a_spec(cls, item: Any) -> 'PluginFailure':
        """The iterable holds something that is no specification."""
        got = f'an item of type {_type_of(item)}'
        return cls._of('result', 'returned a wrong item', got, 'LearnerSpec', _AUTHOR, 'ETA817')

    @classmethod
    def other_version(cls, spec: LearnerSpec) -> 'PluginFailure':
        """The learner was written for another plugin interface."""
        older = spec.api_version < API_VERSION
        text = explain_error(
            spec.name,
            'is made for another plugin interface',
            got=f'api_version {spec.api_version}',
            expected=f'api_version {API_VERSION}',
            fix='Upgrade the plugin.' if older else "Upgrade 'etrace-algorithms'.",
            code='ETA818',
        )
        return cls('version', text)

    @classmethod
    def repeated_entry_point(cls, origin: Origin, value: str) -> 'PluginFailure':
        """One distribution names two plugins alike."""
        text = explain_error(
            origin.plugin,
            'is the name of two entry points of one distribution',
            got=f'a second one, {value!r}, from {origin}',
            expected='names that differ',
            fix='Its author has to rename one; the first is kept.',
            code='ETA819',
        )
        return cls('name', text)


def attempt(action: Callable[[], T], failure: Callable[[BaseException], PluginFailure]) -> T:
    """Run foreign code; whatever it raises becomes a failure, but for an interruption by hand."""
    try:
        return action()
    except (PluginFailure, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise failure(error) from error


def _type_of(value: Any) -> str:
    return type(value).__name__
