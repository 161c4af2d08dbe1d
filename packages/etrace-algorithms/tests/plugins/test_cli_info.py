"""`etrace info` and `etrace cite`: one learner, and how to cite it."""

import json
import sys

import pytest

from etrace_algorithms.cli import main
from etrace_algorithms.cli._table import table

RULE = r'''
    from dataclasses import dataclass

    from etrace_algorithms import LearningRule

    @dataclass(frozen=True)
    class Rule(LearningRule):
        r"""A rule.

        $$e_t = \lambda\,e_{t-1}$$

        Args:
            decay: How much is kept,
                step by step.
            size (int): A size.
        """

        decay: float = 0.5
        size: int = 3

        def init(self, graph): ...
        def update(self, trace, lin): ...
        def credit(self, trace, signal): ...

    ready = Rule(0.1)

    def function(model, /, order, *rest, rng: 'jax.Array' = None, **more):
        """Make a learner.\x1b[2J"""
'''
OF_EVERY_RULE = ['name', 'vjp_method', 'control_flow']


@pytest.fixture
def learner(site):
    """Add a learner whose factory is an attribute of the module above."""
    site.add_module('rules_here', RULE)

    def add(attribute, **more):
        code = f"""
            from etrace_algorithms.plugins import LearnerSpec, hookimpl

            @hookimpl
            def etrace_register_learners():
                yield LearnerSpec(
                    'mine', 'A learner.', 'rules_here:{attribute}', 'approximate', 'O(1)',
                    'Doe (2020), Work, arXiv:2001.00001', **{more!r})
        """
        site.add('etrace-mine', code)

    return add


def run(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def info(capsys):
    code, out, _ = run(capsys, 'info', 'mine', '--json')
    assert code == 0
    return json.loads(out)


def test_a_class_of_rules(learner, capsys):
    learner('Rule')
    found = info(capsys)
    assert [p['name'] for p in found['parameters']] == ['decay', 'size', *OF_EVERY_RULE]
    assert found['parameters'][0] == {
        'name': 'decay',
        'type': 'float',
        'required': False,
        'default': '0.5',
        'meaning': 'How much is kept, step by step.',
    }
    assert found['parameters'][1]['meaning'] == 'A size.'
    assert found['formula'] == r'e_t = \lambda\,e_{t-1}'
    assert found['factory'] == 'rules_here:Rule'
    assert found['promise'].startswith('a biased gradient')
    assert (found['distribution'], found['version']) == ('etrace-mine', '0.1')
    assert found['bibtex'].startswith('@misc{mine2020,')


def test_a_rule_takes_what_every_rule_takes(learner, capsys):
    learner('ready')
    found = info(capsys)
    assert [p['name'] for p in found['parameters']] == OF_EVERY_RULE
    assert found['formula'] == r'e_t = \lambda\,e_{t-1}'


def test_a_function_and_its_required_parameters(learner, capsys):
    learner('function')
    order, rng = info(capsys)['parameters']
    assert (order['name'], order['type'], order['required']) == ('order', '', True)
    assert (rng['type'], rng['default'], rng['required']) == ('Array', 'None', False)
    code, out, err = run(capsys, 'info', 'mine')
    assert (code, err) == (0, '')
    assert "etrace_algorithms.compile(model, 'mine', x, batch_size=8, order=...)" in out


def test_a_learner_in_words(site, capsys):
    code, out, _ = run(capsys, 'info', 'ES-D-RTRL')
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == 'pp_prop, from etrace-algorithms 0.1.0'
    assert '    es_d_rtrl, io_dim' in lines
    assert any(line.split() == ['decay_or_rank', 'Any', 'required'] for line in lines)
    assert any(line.split() == ['control_flow', 'ControlFlowPolicy', '|', 'None', 'None']
               for line in lines)  # fmt: skip
    assert r'    \epsilon^x_t = \alpha\,\epsilon^x_{t-1} + x_t, \qquad' in lines
    assert '    approximate: a biased gradient with known limits' in lines
    assert '@article{wang2026modelagnostic,' in lines
    assert max(map(len, lines)) <= 104


def test_what_cannot_be_imported_is_told_apart_from_a_wrong_name(learner, capsys):
    learner('absent', requires=('no_such_module',))
    code, out, err = run(capsys, 'info', 'mine')
    assert code == 1
    assert 'Not installed, but required\n    no_such_module' in out
    assert err.startswith('etrace info: `etrace-mine:mine` needs modules that are not installed')
    code, out, _ = run(capsys, 'info', 'mine', '--json')
    assert code == 1
    assert json.loads(out)['error'].endswith('[ETA803]')
    for command in ('info', 'cite'):
        code, out, err = run(capsys, command, 'mime')
        assert (code, out) == (2, '')
        assert err.startswith(f'etrace {command}: `mime` is not a known learner')


def test_an_ambiguous_name_is_a_wrong_call(site, capsys):
    site.add_good('etrace-a', 'same')
    site.add_good('etrace-b', 'same')
    assert run(capsys, 'info', 'same')[0] == 2
    code, out, _ = run(capsys, 'info', 'etrace-b:same')
    assert code == 0
    assert out.startswith('etrace-b:same, from etrace-b 0.1\n')


def test_citations_of_several_learners_are_written_once(site, capsys):
    code, out, _ = run(capsys, 'cite', 'pp_prop', 'param_dim', 'd_rtrl')
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith('@')] == [
        '@article{wang2026modelagnostic,',
        '@article{williams1989learning,',
    ]


ROWS = [['[bold]a[/bold]', 'ε'], ['b', '']]


def test_a_table_without_rich_is_aligned(monkeypatch):
    plain = 'NAME            MEMORY\n[bold]a[/bold]  ε\nb'
    assert table(['name', 'memory'], ROWS) == plain
    monkeypatch.setitem(sys.modules, 'rich', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert table(['name', 'memory'], ROWS, drawn=True) == plain


def test_a_table_with_rich_is_drawn_and_takes_no_markup():
    pytest.importorskip('rich')
    drawn = table(['name', 'memory'], ROWS, drawn=True)
    assert drawn.startswith('╭')
    assert '\x1b[' in drawn
    assert '[bold]a[/bold]' in drawn


def test_a_terminal_gets_the_drawn_table(site, capsys, monkeypatch):
    pytest.importorskip('rich')
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    assert run(capsys, 'list')[1].startswith('╭')
    monkeypatch.setenv('NO_COLOR', '1')
    assert run(capsys, 'list')[1].startswith('LEARNER ')
