"""What a factory says about itself: its parameters and its formula."""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from etrace_algorithms.learners import RuleLearner
from etrace_algorithms.rule import LearningRule

__all__ = ['Parameter', 'formula_of', 'parameters_of', 'takes_more']

_FORMULA = re.compile(r'\$\$(.+?)\$\$', re.DOTALL)
_SECTION = re.compile(r'^(?:Args|Arguments):\n((?:[ \t]+.*\n|\n)+)', re.MULTILINE)
_ITEM = re.compile(r'^(\w+)(?: \([^)]*\))?: ')


@dataclass(frozen=True)
class Parameter:
    """One parameter of a learner, as keyword argument of `compile`.

    Args:
        name: Its name.
        type: Its annotation, or nothing.
        default: What it is if nothing is passed, as Python writes it; None if it has to be passed.
        meaning: What the docstring says about it.
    """

    name: str
    type: str
    default: str | None
    meaning: str


def parameters_of(factory: Any) -> tuple[Parameter, ...]:
    """List what `compile(model, name, ...)` passes on to a learner.

    For a rule these are the fields of the rule, then what every learner of a rule takes.

    Args:
        factory: A learning rule, a class of rules, a class of learners, or a callable that takes
            the model first.
    """
    if isinstance(factory, LearningRule):
        return _signature(RuleLearner, skip=2)
    if isinstance(factory, type) and issubclass(factory, LearningRule):
        return (*_signature(factory), *_signature(RuleLearner, skip=2))
    return _signature(factory, skip=1)


def takes_more(factory: Any) -> bool:
    """Whether a factory takes options that its signature does not name."""
    every = _parameters(factory)
    return every is None or any(p.kind is p.VAR_KEYWORD for p in every)


def formula_of(factory: Any) -> str:
    """Return the first displayed formula of a factory's docstring, or of its module's, as LaTeX."""
    for text in _docstrings(factory):
        if found := _FORMULA.search(text):
            return _printable(textwrap.dedent(found[1]).strip())
    return ''


def _signature(factory: Any, skip: int = 0) -> tuple[Parameter, ...]:
    meanings = _meanings(factory)
    every = _parameters(factory) or []
    named = [p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return tuple(
        Parameter(
            p.name,
            '' if p.annotation is p.empty else _type(p.annotation),
            None if p.default is p.empty else _printable(repr(p.default)),
            _printable(meanings.get(p.name, '')),
        )
        for p in named[skip:]
    )


def _parameters(factory: Any) -> list[inspect.Parameter] | None:
    """List the parameters of a callable; None for a function of C that does not tell them."""
    is_class = isinstance(factory, type)
    try:
        # a metaclass may stand before the constructor of a class
        found = inspect.signature(factory.__init__ if is_class else factory)
    except (TypeError, ValueError):
        return None
    return list(found.parameters.values())[is_class:]


def _type(annotation: Any) -> str:
    """Write an annotation without the modules of its types."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _printable(re.sub(r'\b(?:\w+\.)+(?=\w)', '', text))


def _meanings(factory: Any) -> dict[str, str]:
    """Read the section `Args` of the first docstring that has one."""
    for text in _docstrings(factory):
        if section := _SECTION.search(f'{text}\n'):
            lines = textwrap.dedent(section[1])
            items = re.split(r'\n(?=\w)', lines.strip())
            pairs = [(_ITEM.match(item), item) for item in items]
            return {m[1]: ' '.join(item[m.end() :].split()) for m, item in pairs if m}
    return {}


def _docstrings(factory: Any) -> Iterator[str]:
    """Yield the docstrings of a factory, of the classes that it inherits from, of its module."""
    holder = factory if inspect.isroutine(factory) or isinstance(factory, type) else type(factory)
    for found in inspect.getmro(holder) if isinstance(holder, type) else (holder,):
        if text := found.__dict__.get('__doc__') if isinstance(found, type) else found.__doc__:
            yield inspect.cleandoc(text)
    module = sys.modules.get(getattr(holder, '__module__', None) or '')
    yield inspect.cleandoc(getattr(module, '__doc__', None) or '')


def _printable(text: str) -> str:
    """Return foreign text without control characters, fit for a terminal."""
    return ''.join(c if c.isprintable() or c == '\n' else '?' for c in text)
