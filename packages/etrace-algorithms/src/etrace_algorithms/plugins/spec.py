"""`LearnerSpec`: what a plugin says about one learner, and how the learner is imported late."""

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, final

from etrace_algorithms.plugins.errors import LearnerLoadError, LearnerSpecError
from etrace_algorithms.plugins.records import Origin, describe, name_key
from etrace_compiler.errors import explain_error

__all__ = ['API_VERSION', 'EXACTNESS', 'LearnerSpec']

API_VERSION = 1

EXACTNESS: Mapping[str, str] = MappingProxyType(
    {
        'exact': 'the gradient of backpropagation through time for every model at every length',
        'exact-diagonal': 'the gradient of backpropagation through time wherever the recurrence '
        'is position-diagonal',
        'approximate': 'a biased gradient with known limits',
        'unbiased': 'a random gradient whose mean is that of backpropagation through time',
        'immediate': 'the gradient of each single step, no credit across steps',
    }
)
"""The values of `LearnerSpec.exactness` and what each one promises."""

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*')
_TARGET = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*')


@final
@dataclass(frozen=True)
class LearnerSpec:
    """One learner as its plugin announces it.

    Args:
        name: The name users ask for: letters, digits, `_`, `-`, `.`. Case does not matter and
            `-` equals `_`.
        summary: One sentence.
        factory: What makes the learner, called as `factory(model, **options)`, or a learning
            rule; either the object itself or `'module:attr'`, imported on first use.
        exactness: One of `EXACTNESS`.
        memory: Order of the trace's memory, for example `'O(B·I·O·S)'` with batch B, fan-in I,
            fan-out O, states per position S.
        reference: Where the method is published.
        requires: Top-level modules that the learner imports beyond what its package installs. While
            one is missing the learner is listed, but can't be loaded.
        api_version: The plugin interface it was written for.
        aliases: Further names.
        bibtex: How to cite the method, one or several BibTeX entries. Without it `cite` makes an
            entry of `reference`.
        origin: Where it was found. Filled in by discovery; a plugin leaves it alone.

    Raises:
        LearnerSpecError: If a field can't be what it is.

    Example:
        >>> spec = LearnerSpec(
        ...     name='identity', summary='Returns the model.', factory='operator:pos',
        ...     exactness='immediate', memory='O(1)', reference='none')
        >>> spec.load()
        <built-in function pos>
    """

    name: str
    summary: str
    factory: Callable[..., Any] | str
    exactness: str
    memory: str
    reference: str
    requires: tuple[str, ...] = ()
    api_version: int = 1
    aliases: tuple[str, ...] = ()
    bibtex: str = ''
    origin: Origin | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for listed in ('requires', 'aliases'):
            self._make_tuple(listed)
        self._check_names()
        for text in ('summary', 'memory', 'reference'):
            self._check(text, _is_line(getattr(self, text)), 'one line of text')
        known = isinstance(self.exactness, str) and self.exactness in EXACTNESS
        self._check('exactness', known, f'one of {", ".join(EXACTNESS)}')
        target = self.factory
        self._check(
            'factory',
            bool(_TARGET.fullmatch(target)) if isinstance(target, str) else callable(target),
            "a callable or 'module:attr'",
        )
        self._check('bibtex', _is_bibtex(self.bibtex), 'entries such as @article{...}, or nothing')
        for module in self.requires:
            valid = isinstance(module, str) and module.isidentifier()
            self._check('requires', valid, 'names of top-level modules', module)
        version = self.api_version
        valid = isinstance(version, int) and not isinstance(version, bool) and version >= 1
        self._check('api_version', valid, 'an integer from 1')

    def _make_tuple(self, listed: str) -> None:
        value = getattr(self, listed)
        self._check(listed, isinstance(value, (tuple, list)), 'a tuple of strings')
        object.__setattr__(self, listed, tuple(value))

    def _check_names(self) -> None:
        seen: set[str] = set()
        for subject, name in (('name', self.name), *(('aliases', a) for a in self.aliases)):
            self._check(subject, _matches(_NAME, name), 'letters, digits, _, - and .', name)
            self._check(subject, name_key(name) not in seen, 'names that differ', name)
            seen.add(name_key(name))

    def _check(self, subject: str, valid: bool, expected: str, got: Any = None) -> None:
        if not valid:
            got = getattr(self, subject) if got is None else got
            fix = f'Correct the LearnerSpec of {self.name!r}.'
            raise LearnerSpecError(
                explain_error(
                    f'LearnerSpec.{subject}',
                    'is not valid',
                    got=repr(got),
                    expected=expected,
                    fix=fix,
                    code='ETA801',
                )
            )

    def missing(self) -> tuple[str, ...]:
        """Return the required modules that are not installed."""
        return tuple(module for module in self.requires if not _is_installed(module))

    def load(self) -> Any:
        """Import the factory, once, and return it.

        Returns:
            The object that `factory` is or names.

        Raises:
            LearnerLoadError: If a required module is missing or the import fails.
        """
        return self._factory

    @cached_property
    def _factory(self) -> Any:
        if missing := self.missing():
            message = explain_error(
                self._label,
                'needs modules that are not installed',
                got=f'no {", ".join(missing)}',
                expected=', '.join(self.requires),
                fix=f'Install what is missing, for example `pip install {" ".join(missing)}`.',
                code='ETA803',
            )
            raise LearnerLoadError(message)
        if not isinstance(self.factory, str):
            return self.factory
        module, _, attributes = self.factory.partition(':')
        try:
            found: Any = importlib.import_module(module)
            for attribute in attributes.split('.'):
                found = getattr(found, attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            message = explain_error(
                self._label,
                f'cannot be loaded from {self.factory!r}',
                got=describe(error),
                expected='an importable module with that attribute',
                fix='Repair, upgrade or uninstall the package that offers it.',
                code='ETA802',
            )
            raise LearnerLoadError(message) from error
        return found

    @property
    def _label(self) -> str:
        if self.origin is None:
            return self.name
        return f'{self.origin.distribution}:{self.name}'


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_bibtex(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    printable = all(line.isprintable() for line in value.splitlines())
    entries = not value.strip() or value.lstrip().startswith('@')
    return printable and entries and value.count('{') == value.count('}')


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
