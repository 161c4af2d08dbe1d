"""Fake distributions: a module and its metadata in a temporary folder, no installer involved."""

import sys
import textwrap
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import pytest

from etrace_algorithms.plugins import lookup

GROUP = 'etrace.learners'

BUILTIN = {
    'diagonal': 'etrace_algorithms.plugins.builtin.diagonal',
    'immediate': 'etrace_algorithms.plugins.builtin.immediate',
    'io-dim': 'etrace_algorithms.plugins.builtin.io_dim',
    'param-dim': 'etrace_algorithms.plugins.builtin.param_dim',
}

GOOD = """
from etrace_algorithms.plugins import LearnerSpec, hookimpl

@hookimpl
def etrace_register_learners():
    yield LearnerSpec(
        name={name!r}, summary='A learner.', factory='operator:pos', exactness='approximate',
        memory='O(1)', reference='unpublished', **{more!r})
"""


class Site:
    """A folder on `sys.path` to which distributions can be added."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.modules: list[str] = []

    def add_metadata(
        self, name: str, entry_points: dict[str, str] | str, version='0.1', group=GROUP
    ) -> None:
        info = self.folder / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        if isinstance(entry_points, dict):
            entry_points = '\n'.join(f'{key} = {value}' for key, value in entry_points.items())
        (info / 'entry_points.txt').write_text(f'[{group}]\n{entry_points}\n')

    def add_module(self, module: str, code: str) -> None:
        (self.folder / f'{module}.py').write_text(textwrap.dedent(code))
        self.modules.append(module)

    def add(self, name: str, code: str, plugin: str | None = None) -> None:
        """Add a distribution with one plugin, called like the distribution's module."""
        module = name.replace('-', '_')
        self.add_module(module, code)
        self.add_metadata(name, {plugin or module: module})

    def add_good(self, name: str, learner: str, plugin: str | None = None, **more) -> None:
        self.add(name, GOOD.format(name=learner, more=more), plugin)

    def entry_points(self) -> list[EntryPoint]:
        """Return the entry points of this folder alone, latest name first."""
        infos = sorted(self.folder.glob('*.dist-info'), reverse=True)
        return [e for i in infos for e in Distribution.at(i).entry_points.select(group=GROUP)]


@pytest.fixture(autouse=True)
def _fresh_memory(monkeypatch):
    """Let every test start in a process that has found nothing and told nothing."""
    monkeypatch.delenv('ETRACE_STRICT_PLUGINS', raising=False)
    monkeypatch.delenv('ETRACE_DISABLE_PLUGINS', raising=False)
    monkeypatch.setattr(lookup, '_memory', lookup._Memory())
    yield
    monkeypatch.undo()
    lookup.refresh()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site with the built-in plugins, whether or not the package itself is installed."""
    folder = tmp_path / 'site'
    folder.mkdir()
    site = Site(folder)
    site.add_metadata('etrace-algorithms', BUILTIN, version='0.1.0')
    monkeypatch.syspath_prepend(str(folder))
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)
