"""A package with a learning rule, from the template in `template/`: its names, its files.

The template is a complete package, `plugins/etrace-template` of the repository, with `.tmpl` after
the name of each file. The words that name the package and the rule are replaced everywhere.
"""

import importlib.resources
import keyword
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from etrace_algorithms.cli._usage import UsageError
from etrace_algorithms.plugins.records import distribution_key, name_key
from etrace_compiler.errors import explain_error

__all__ = ['Names', 'files_of', 'write']

_SUFFIX = '.tmpl'
_NAME = re.compile(r'[a-z][a-z0-9]*(?:_[a-z0-9]+)*')


@dataclass(frozen=True)
class Names:
    """What a plugin with one rule is called.

    Args:
        learner: The learner, in the form in which names are compared: `kf_rtrl`.
        package: The distribution, in the form in which indexes compare them: `etrace-kf-rtrl`.
    """

    learner: str
    package: str

    @classmethod
    def of(cls, name: str, package: str | None = None) -> 'Names':
        """Read the names that a user gives.

        Args:
            name: Name of the learner; `etrace-` before it is left out.
            package: Name of the distribution, by default `etrace-` and the learner's.

        Raises:
            UsageError: If one of them cannot be the name of a package and of a module, or if the
                class would be called like something that the template imports.

        Example:
            >>> names = Names.of('KF-RTRL')
            >>> names.learner, names.package, names.module, names.rule
            ('kf_rtrl', 'etrace-kf-rtrl', 'etrace_kf_rtrl', 'KfRtrl')
        """
        learner = name_key(name).removeprefix('etrace_')
        dashed = learner.replace('_', '-')
        names = cls(learner, distribution_key(package or f'etrace-{dashed}'))
        words = (learner, names.module, names.rule)
        if (
            not all(_NAME.fullmatch(word) for word in (learner, names.module))
            or any(keyword.iskeyword(word) for word in words)
            or names.rule in _words_of_template() - {_TEMPLATE.rule}
        ):
            raise UsageError(
                explain_error(
                    name if package is None else f'{name} in {package}',
                    'cannot name a plugin',
                    got=f'learner {learner!r}, module {names.module!r}, class {names.rule!r}',
                    expected='a letter, then letters and digits, in words joined by - or _, and a '
                    'class name that is free',
                    fix='Choose another name, for example `kf-rtrl`.',
                    code='ETA521',
                )
            )
        return names

    @property
    def module(self) -> str:
        """The top-level module."""
        return self.package.replace('-', '_')

    @property
    def plugin(self) -> str:
        """The entry point."""
        return self.learner.replace('_', '-')

    @property
    def rule(self) -> str:
        """The class of the rule."""
        return ''.join(word.capitalize() for word in self.learner.split('_'))


_TEMPLATE = Names('decayed_trace', 'etrace-template')


def files_of(names: Names) -> dict[str, bytes]:
    """Return the files of a new plugin by their paths, which are separated by slashes."""
    words: Mapping[str, str] = {
        _TEMPLATE.package: names.package,
        _TEMPLATE.module: names.module,
        _TEMPLATE.learner: names.learner,
        _TEMPLATE.plugin: names.plugin,
        _TEMPLATE.rule: names.rule,
    }
    old = re.compile('|'.join(words))

    def rename(text: str) -> str:
        return old.sub(lambda found: words[found[0]], text)

    return {
        rename(path): rename(file.read_text(encoding='utf-8')).encode()
        for path, file in _template()
    }


def write(names: Names, directory: Path) -> tuple[str, ...]:
    """Write a new plugin into a folder, all of it or nothing.

    Args:
        names: What it is called; also the name of its own folder.
        directory: The folder to write that into.

    Returns:
        The files that were written.

    Raises:
        UsageError: If there is something in that place, or nothing can be written there.
    """
    files = files_of(names)
    target = directory / names.package
    if os.path.lexists(target):
        raise UsageError(_not_written(target, 'something that exists already'))
    try:
        # renamed once it is complete, so that nobody finds a part of it
        with tempfile.TemporaryDirectory(prefix='.etrace-', dir=directory) as holder:
            made = Path(holder) / names.package
            for path, content in files.items():
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).write_bytes(content)
            shutil.move(made, target)
    except OSError as error:
        got = f'{type(error).__name__}: {error.strerror or error}'
        raise UsageError(_not_written(target, got)) from None
    return tuple(sorted(files))


def _not_written(target: Path, got: str) -> str:
    return explain_error(
        str(target),
        'cannot be written',
        got=got,
        expected='a place that is free, in a folder that exists and may be written',
        fix='Choose another place with --directory.',
        code='ETA523',
    )


def _template() -> Iterator[tuple[str, Traversable]]:
    """Yield the files of the template and the paths that they get."""
    folders = [('', importlib.resources.files('etrace_algorithms.cli') / 'template')]
    for prefix, folder in folders:
        for item in folder.iterdir():
            if item.is_dir():
                folders.append((f'{prefix}{item.name}/', item))
            elif item.name.endswith(_SUFFIX):
                yield f'{prefix}{item.name.removesuffix(_SUFFIX)}', item


def _words_of_template() -> set[str]:
    """Return every name in the Python files of the template."""
    texts = [file.read_text(encoding='utf-8') for path, file in _template() if path.endswith('.py')]
    return {word for text in texts for word in re.findall(r'\w+', text)}
