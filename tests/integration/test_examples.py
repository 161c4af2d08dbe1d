"""Every example runs as a program, and its committed results are those that the page shows."""

import ast
import json
import math
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'examples' / 'results'
PAGE = ROOT / 'docs' / 'explanation' / 'examples.md'
LEARNERS = ['D_RTRL', 'immediate', 'BPTT']
EXAMPLES = sorted(
    path.stem
    for path in ROOT.glob('examples/[!_]*.py')
    if 'from _common import' in path.read_text()
)


@pytest.mark.parametrize('name', EXAMPLES)
def test_smoke(name, tmp_path, monkeypatch, capsys):
    # In this process: a start of Python and jax for each would take most of the time.
    path = ROOT / 'examples' / f'{name}.py'
    monkeypatch.setattr(sys, 'argv', [str(path), '--smoke', '--out', str(tmp_path)])
    monkeypatch.syspath_prepend(path.parent)
    runpy.run_path(str(path), run_name='__main__')
    printed, report = capsys.readouterr().out, read(tmp_path / f'{name}.json')
    assert report['smoke'] is True
    assert (tmp_path / f'{name}.svg').read_text().startswith('<?xml')
    for network, entry in report['experiments'].items():
        check_is_complete(entry)
        check_learns_from_one_beginning(entry['learners'])
        for sentence in entry['findings']:
            assert sentence in printed
        for learner in LEARNERS:
            assert re.search(rf'{re.escape(network)}, {learner} .*loss \d', printed)


def read(path):
    return json.loads(path.read_text())


def check_is_complete(entry):
    """All learners, on every seed, with finite figures."""
    assert list(entry['learners'])[:3] == LEARNERS
    metric = entry['task']['metric']
    for runs in entry['learners'].values():
        for run in runs:
            assert run['curve']['metric'][-1] == run['score'][metric]
            numbers = [*run['score'].values(), *run['curve']['metric'], *run['curve']['loss']]
            assert all(map(math.isfinite, numbers))
            assert run['ms_per_update'] > 0


def check_learns_from_one_beginning(learners):
    """Before the first update all learners are one network, and then the loss goes down.

    So early, and measured on few batches, it may come up again; and the control need not learn.
    """
    assert len({runs[0]['curve']['metric'][0] for runs in learners.values()}) == 1
    for name in ('D_RTRL', 'BPTT'):
        first, *later = learners[name][0]['curve']['loss']
        assert min(later) < first


@pytest.mark.parametrize('name', EXAMPLES)
def test_committed_results_are_of_the_example(name):
    report = read(RESULTS / f'{name}.json')
    source = (ROOT / 'examples' / f'{name}.py').read_text()
    assert report['title'] == ast.get_docstring(ast.parse(source)).splitlines()[0]
    assert report['smoke'] is False
    assert len(report['seeds']) >= 3
    for entry in report['experiments'].values():
        check_is_complete(entry)
        assert any('control without a trace' in sentence for sentence in entry['findings'])
        check_somebody_learned(entry)
    assert (RESULTS / f'{name}.svg').stat().st_size < 100_000
    assert f'<!-- example: {name} -->' in PAGE.read_text()


def check_somebody_learned(entry):
    task = entry['task']
    sign = 1 if task['higher_is_better'] else -1
    best = max(
        sign * min(run['score'][task['metric']] for run in runs)
        for runs in entry['learners'].values()
    )
    assert best > sign * task['chance']


def test_every_result_has_an_example():
    assert sorted(path.stem for path in RESULTS.glob('*.json')) == EXAMPLES
