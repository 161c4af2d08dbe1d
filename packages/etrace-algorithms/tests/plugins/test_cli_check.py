"""`etrace check`: the report card, its exit codes, and calls that are wrong."""

import json

import pytest

from etrace_algorithms.cli import main
from etrace_algorithms.testing import conformance
from etrace_algorithms.testing.conformance import Answer, LearnerReport, check_learner

PLUGIN = """
    from etrace_algorithms.plugins import LearnerSpec, hookimpl
    from etrace_algorithms import Immediate
    from etrace_algorithms.rules import ImmediateDerivatives

    print('read')

    def function(model, **options):
        return Immediate(model, **options)

    @hookimpl
    def etrace_register_learners():
        yield LearnerSpec(
            'honest', 'Says what it is.', function, 'immediate', 'O(1)', 'none')
        yield LearnerSpec(
            'boastful', 'Says more.', ImmediateDerivatives, 'exact', 'O(1)', 'none')
        yield LearnerSpec(
            'absent', 'Is not here.', 'no_such_module:rule', 'exact', 'O(1)', 'none')
"""


def run(capsys, *arguments):
    code = main(['check', *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def calls(monkeypatch):
    """Take the place of the kit, which has tests of its own; what it was asked."""
    seen = []

    def answer(name, level, **options):
        seen.append((name, level, options))
        return LearnerReport(name, 'approximate', level, (Answer('windows', 'kept', 'all'),))

    monkeypatch.setattr(conformance, 'check_learner', answer)
    return seen


def test_the_kit_itself_is_asked(site, capsys, monkeypatch):
    site.add('etrace-a', PLUGIN)

    def two_questions(name, level, **options):
        return check_learner(name, level, only=['declaration', 'stable trace'], **options)

    monkeypatch.setattr(conformance, 'check_learner', two_questions)
    code, out, err = run(capsys, 'honest')
    assert code == 0
    assert out.startswith('honest (immediate), level quick: 2 of 2 kept\n')
    assert 'read' in err
    code, out, _ = run(capsys, 'boastful', '--json')
    found = json.loads(out)
    assert (code, found['ok'], found['learner']) == (1, False, 'boastful')
    assert [a['status'] for a in found['answers']] == ['broken', 'kept']


def test_options_and_level_are_passed_on(site, capsys, calls):
    command = ['pp_prop', '--level', 'full', '--option', 'decay_or_rank=(0.9, 3)']
    code, out, _ = run(capsys, *command, '--option', 'vjp_method=multi-step')
    assert code == 0
    assert out == 'pp_prop (approximate), level full: 1 of 1 kept\n  windows  kept       all\n'
    options = {'decay_or_rank': (0.9, 3), 'vjp_method': 'multi-step'}
    assert calls == [('pp_prop', 'full', options)]


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['pp_prop'], '`pp_prop` takes other options: got no decay_or_rank; expected options'),
        (['immediate', '--option', 'decay=1'], '`immediate` takes other options: got an unknown'),
        (['no_such'], '`no_such` is not a known learner'),
    ],
)
def test_a_wrong_call(site, capsys, calls, arguments, said):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, '')
    assert err.startswith(f'etrace check: {said}')
    assert calls == []


@pytest.mark.parametrize('arguments', [['immediate', '--option', 'x'], ['d_rtrl', '--level', 'x']])
def test_a_call_that_cannot_be_read(site, capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(['check', *arguments])
    assert left.value.code == 2


def test_a_learner_that_is_not_there_fails(site, capsys, calls):
    site.add('etrace-a', PLUGIN)
    code, out, err = run(capsys, 'absent')
    assert (code, out) == (1, '')
    assert 'ModuleNotFoundError' in err
    assert calls == []


def test_strict_mode_forbids_other_plugins_that_fail(site, capsys, monkeypatch):
    monkeypatch.setenv('ETRACE_STRICT_PLUGINS', '1')
    site.add('etrace-broken', 'raise RuntimeError')
    code, out, err = run(capsys, 'immediate')
    assert (code, out) == (1, '')
    assert 'forbids plugins that cannot be used' in err
