"""The command line: what it prints, and its exit codes."""

import io
import json
import subprocess
import sys

import pytest

from etrace_algorithms.cli import main


def run(capsys, *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().out


def test_list_shows_every_learner_and_no_problem(site, capsys, monkeypatch):
    monkeypatch.setenv('ETRACE_DISABLE_PLUGINS', '*')
    code, out = run(capsys, 'list')
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ['LEARNER', 'EXACTNESS', 'MEMORY', 'FROM']
    assert lines[1].split() == [
        'd_rtrl',
        'exact-diagonal',
        'O(B·I·O·S)',
        'etrace-algorithms',
        '0.1.0',
    ]
    assert lines[3].split()[:3] == ['pp_prop', 'approximate', 'O(B·(I+O·S))']
    assert '    Also: es_d_rtrl, io_dim' in lines
    assert 'doi:10.1038/s41467-026-68453-w' in out
    assert 'problem' not in out
    assert max(map(len, lines)) <= 100


def test_list_shows_problems_with_stage_and_cause(site, capsys):
    site.add('etrace-broken', 'raise RuntimeError("no luck")')
    site.add_good('etrace-good', 'good')
    code, out = run(capsys, 'list')
    text = ' '.join(out.split())
    assert code == 0
    assert "! plugin 'etrace_broken' of etrace-broken 0.1 (import): `plugin` cannot be" in text
    assert 'got RuntimeError: no luck;' in text
    assert 'problem' in text
    assert 'good approximate O(1) etrace-good 0.1' in text


def test_list_shows_ambiguous_names_as_they_must_be_asked_for(site, capsys):
    site.add_good('etrace-a', 'same')
    site.add_good('etrace-b', 'same')
    _, out = run(capsys, 'list')
    assert 'etrace-a:same  ' in out
    assert 'etrace-b:same  ' in out


def test_list_shows_what_is_disabled_and_what_is_missing(site, capsys, monkeypatch):
    monkeypatch.setenv('ETRACE_DISABLE_PLUGINS', 'etrace-a')
    site.add_good('etrace-a', 'one')
    site.add_good('etrace-b', 'two', requires=('no_such_module',))
    _, out = run(capsys, 'list')
    assert 'Disabled: etrace-a:etrace_a\n' in out
    assert '    Not installed, but required: no_such_module\n' in out


def test_list_strict_fails_only_with_problems(site, capsys, monkeypatch):
    site.add('etrace-broken', 'raise RuntimeError')
    assert run(capsys, 'list', '--strict')[0] == 1
    assert run(capsys, 'list')[0] == 0
    monkeypatch.setenv('ETRACE_STRICT_PLUGINS', '1')
    code, out = run(capsys, 'list')
    assert code == 1
    assert 'd_rtrl' in out


def test_list_strict_is_content_without_problems(site, capsys, monkeypatch):
    monkeypatch.setenv('ETRACE_DISABLE_PLUGINS', '*')
    assert run(capsys, 'list', '--strict')[0] == 0


def test_list_as_json(site, capsys):
    site.add('etrace-broken', 'raise RuntimeError')
    site.add_good('etrace-good', 'good', requires=('no_such_module',), aliases=('fine',))
    code, out = run(capsys, 'list', '--json')
    found = json.loads(out)
    assert code == 0
    assert set(found) == {'learners', 'problems', 'disabled'}
    (good,) = [learner for learner in found['learners'] if learner['name'] == 'good']
    assert good == {
        'name': 'good',
        'ask_for': 'good',
        'aliases': ['fine'],
        'summary': 'A learner.',
        'exactness': 'approximate',
        'memory': 'O(1)',
        'reference': 'unpublished',
        'distribution': 'etrace-good',
        'version': '0.1',
        'plugin': 'etrace_good',
        'builtin': False,
        'requires': ['no_such_module'],
        'missing': ['no_such_module'],
    }
    (problem,) = [p for p in found['problems'] if p['distribution'] == 'etrace-broken']
    assert problem['stage'] == 'import'


def test_what_a_plugin_prints_is_not_part_of_the_answer(site, capsys):
    site.add('etrace-loud', "print('hello')")
    assert main(['list', '--json']) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)['learners']
    assert 'hello\n' in err


def test_list_when_nothing_is_found(capsys, monkeypatch):
    monkeypatch.setattr('etrace_algorithms.plugins.lookup.installed_entry_points', lambda: ((), ()))
    code, out = run(capsys, 'list')
    assert code == 0
    assert 'none: is etrace-algorithms installed, or is everything disabled?' in out


def test_version(site, capsys):
    with pytest.raises(SystemExit) as left:
        main(['--version'])
    assert left.value.code == 0
    assert capsys.readouterr().out == 'etrace 0.1.0\n'


@pytest.mark.parametrize('arguments', [[], ['lst'], ['list', '--jsn']])
def test_a_wrong_call_explains_itself(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert 'usage: etrace' in capsys.readouterr().err


def test_a_narrow_encoding_does_not_break_the_list(site, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', stream)
    assert main(['list']) == 0
    stream.seek(0)
    assert 'O(B?I?O?S)' in stream.read()


def test_it_runs_as_a_module(site):
    code = (
        f'import sys, runpy; sys.path.insert(0, {str(site.folder)!r})\n'
        'sys.argv = ["etrace", "list", "--json"]\n'
        'runpy.run_module("etrace_algorithms", run_name="__main__")\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'd_rtrl' in {learner['name'] for learner in json.loads(done.stdout)['learners']}


def test_a_reader_that_leaves_early_is_no_error(site):
    code = (
        f'import sys; sys.path.insert(0, {str(site.folder)!r})\n'
        'from etrace_algorithms.cli import main\n'
        'sys.stdin.readline()\n'
        'sys.exit(main(["list"]))\n'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write('go\n')
        process.stdin.flush()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors == ''
