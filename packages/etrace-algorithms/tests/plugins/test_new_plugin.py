"""`etrace new-plugin`: complete packages under any name, or nothing at all."""

import ast
import tomllib
from pathlib import Path

import pytest

from etrace_algorithms.cli import main
from etrace_algorithms.cli._scaffold import Names, files_of
from etrace_algorithms.cli._usage import UsageError
from etrace_algorithms.plugins import get_learner, refresh


@pytest.fixture
def new_plugin(site, tmp_path, capsys):
    """Run the command in an empty folder; the exit code, the folder and what was said."""
    folder = tmp_path / 'here'
    folder.mkdir()

    def run(*arguments):
        code = main(['new-plugin', *arguments, '--directory', str(folder)])
        out, err = capsys.readouterr()
        return code, folder, out or err

    return run


def test_a_package_is_written_and_found(new_plugin, site, monkeypatch):
    code, folder, said = new_plugin('Half-Life')
    package = folder / 'etrace-half-life'
    assert code == 0
    assert [path.name for path in folder.iterdir()] == ['etrace-half-life']
    written = {p.relative_to(package).as_posix() for p in package.rglob('*') if p.is_file()}
    assert written == {
        '.github/workflows/ci.yml',
        '.gitignore',
        'LICENSE',
        'README.md',
        'pyproject.toml',
        'src/etrace_half_life/__init__.py',
        'src/etrace_half_life/plugin.py',
        'src/etrace_half_life/py.typed',
        'src/etrace_half_life/rule.py',
        'tests/test_half_life.py',
    }
    assert all(path in said for path in written)
    assert '    etrace check half_life\n' in said
    project = tomllib.loads((package / 'pyproject.toml').read_text())['project']
    assert project['name'] == 'etrace-half-life'
    (group,) = project['entry-points'].values()
    assert group == {'half-life': 'etrace_half_life.plugin'}

    monkeypatch.syspath_prepend(str(package / 'src'))
    site.modules += [f'etrace_half_life{part}' for part in ('', '.plugin', '.rule')]
    site.add_metadata(project['name'], group)
    refresh()
    rule = get_learner('etrace-half-life:half-life').load()
    assert (rule.__name__, rule.__module__) == ('HalfLife', 'etrace_half_life.rule')
    assert rule().decay == 0.9


def test_nothing_of_the_template_s_names_is_left():
    files = files_of(Names.of('x2', 'acme-rules'))
    text = '\n'.join([*files, *(content.decode() for content in files.values())]).lower()
    for word in ('decayed', 'etrace-template', 'etrace_template'):
        assert word not in text
    for path, content in files.items():
        if path.endswith('.py'):
            ast.parse(content, path)
    assert 'src/acme_rules/rule.py' in files
    assert b'class X2(LearningRule)' in files['src/acme_rules/rule.py']


@pytest.mark.parametrize(
    ('name', 'names'),
    [
        ('uoro', ('uoro', 'etrace-uoro', 'etrace_uoro', 'uoro', 'Uoro')),
        ('etrace-uoro', ('uoro', 'etrace-uoro', 'etrace_uoro', 'uoro', 'Uoro')),
        ('SnAp_2', ('snap_2', 'etrace-snap-2', 'etrace_snap_2', 'snap-2', 'Snap2')),
    ],
)
def test_names_follow_from_one(name, names):
    found = Names.of(name)
    assert (found.learner, found.package, found.module, found.plugin, found.rule) == names


@pytest.mark.parametrize(
    'arguments',
    [
        ('',), ('a b',), ('2x',), ('a.b',), ('../a',), ('a--b',), ('é',), ('class',), ('true',),
        ('trace',), ('gradients',), ('good', '../a'), ('good', 'a b'), ('good', '1a'),
        ('good', 'class'),
    ],
)  # fmt: skip
def test_names_that_would_not_work_are_refused(arguments):
    with pytest.raises(UsageError, match=r'cannot name a plugin: got learner .*\[ETA521\]$'):
        Names.of(*arguments)


@pytest.mark.parametrize(
    ('arguments', 'owner'),
    [
        (('d-rtrl',), 'a learner of etrace-algorithms'),
        (('ES-D-RTRL',), 'a learner of etrace-algorithms'),
        (('theirs',), 'a learner of etrace-a'),
        (('mine', '--package', 'pluggy'), 'an installed distribution, pluggy'),
        (('mine', '--package', 'json'), 'a module json that Python finds'),
    ],
)
def test_taken_names_are_refused(new_plugin, site, arguments, owner):
    site.add_good('etrace-a', 'theirs')
    code, folder, said = new_plugin(*arguments)
    assert code == 2
    assert said.startswith(f'etrace new-plugin: `{arguments[0]}` is taken: got {owner}')
    assert said.endswith('[ETA522]\n')
    assert list(folder.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_is(new_plugin, tmp_path):
    kept = tmp_path / 'here/etrace-mine/kept'
    kept.parent.mkdir()
    kept.write_text('mine')
    code, folder, said = new_plugin('mine')
    assert code == 2
    assert 'cannot be written: got something that exists already' in said
    assert [p.name for p in folder.rglob('*')] == ['etrace-mine', 'kept']
    assert kept.read_text() == 'mine'


def test_a_folder_that_is_missing_is_not_made(site, tmp_path, capsys):
    assert main(['new-plugin', 'mine', '--directory', str(tmp_path / 'no')]) == 2
    assert 'got FileNotFoundError: No such file' in capsys.readouterr().err
    assert not (tmp_path / 'no').exists()


def test_nothing_is_half_written(new_plugin, monkeypatch):
    left = iter(range(3))
    write = Path.write_bytes

    def fill_the_disk(path, content):
        if next(left, None) is None:
            raise OSError(28, 'No space left on device')
        return write(path, content)

    monkeypatch.setattr(Path, 'write_bytes', fill_the_disk)
    code, folder, said = new_plugin('mine')
    assert code == 2
    assert 'got OSError: No space left on device' in said
    assert list(folder.iterdir()) == []
