"""The guide to publishing a rule: its commands, one after the other, on a new plugin.

What needs an installer, an index or minutes is done by the `wheels` session, with the same plugin.
"""

import re
import shlex
import sys
import tomllib
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from etrace_algorithms.cli import main
from etrace_algorithms.plugins import refresh
from etrace_algorithms.testing import conformance

PAGE = Path(__file__).resolve().parents[2] / 'docs/how-to/publish-a-plugin.md'
ELSEWHERE = ('pytest', 'pip install build', 'python -m build', 'pip install twine', 'twine upload')
"""Beginnings of the commands that are not run here."""


def commands():
    """Return what stands after `$` in the blocks of the page."""
    blocks = re.findall(r'^```console\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith('$ ')]


@pytest.fixture
def pip_install(tmp_path, monkeypatch):
    """Stand in for `pip install -e`: metadata in a folder on the path, and the sources."""
    site = tmp_path / 'site'
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(package):
        project = tomllib.loads((package / 'pyproject.toml').read_text())['project']
        name, version = project['name'], project['version']
        info = site / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        lines = [f'[{group}]\n' + '\n'.join(f'{k} = {v}' for k, v in table.items())
                 for group, table in project['entry-points'].items()]  # fmt: skip
        (info / 'entry_points.txt').write_text('\n'.join(lines))
        monkeypatch.syspath_prepend(str(package / 'src'))
        refresh()

    yield install
    monkeypatch.undo()
    refresh()
    for module in [name for name in sys.modules if name.startswith('etrace_half_life')]:
        del sys.modules[module]


def test_every_command_of_the_guide(tmp_path, monkeypatch, capsys, pip_install):
    # whatever else is installed here is not the page's business
    others = {e.dist.name for e in entry_points(group='etrace.learners')} - {'etrace-algorithms'}
    monkeypatch.setenv('ETRACE_DISABLE_PLUGINS', ','.join(others))
    refresh()
    # the plugin's own tests ask the others
    ask = partial(conformance.check_learner, only=['declaration', 'stable trace'])
    monkeypatch.setattr(conformance, 'check_learner', ask)
    monkeypatch.chdir(tmp_path)
    done = []
    for command in commands():
        match shlex.split(command):
            case ['etrace', *arguments]:
                assert main(arguments) == 0, command
                done.append(arguments[0])
            case ['cd', folder]:
                monkeypatch.chdir(Path(folder))
            case ['pip', 'install', '-e', _]:
                pip_install(Path.cwd())
            case ['pip', 'install', name] if name == Path.cwd().name:
                assert 'half_life, from etrace-half-life' in capsys.readouterr().out
            case _:
                assert command.startswith(ELSEWHERE), command
    assert done == ['new-plugin', 'info', 'cite', 'list', 'check']


def test_the_page_shows_the_files_that_are_written(tmp_path):
    assert main(['new-plugin', 'half-life', '--directory', str(tmp_path)]) == 0
    folder = tmp_path / 'etrace-half-life'
    rows = re.findall(r'^\| (`.*?) \|', PAGE.read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r'`([^`]+)`', row)}
    written = {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}
    marks = {path for path in written if path.endswith(('__init__.py', 'py.typed'))}
    assert listed == written - marks
