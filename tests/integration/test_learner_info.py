"""What `etrace info` and `etrace cite` say of every learner in this repository is complete."""

import json
from pathlib import Path

import pytest

from etrace_algorithms.cli import main
from etrace_algorithms.plugins import learners

ROOT = Path(__file__).resolve().parents[2]
OURS = {path.parent.name for path in ROOT.glob('p*/*/pyproject.toml')}
NAMES = [f'{s.origin.distribution}:{s.name}' for s in learners() if s.origin.distribution in OURS]


def test_the_plugins_are_here():
    assert {name.split(':')[0] for name in NAMES} >= {'etrace-algorithms', 'etrace-template'}


@pytest.mark.parametrize('name', NAMES)
def test_a_learner_is_described(name, capsys):
    assert main(['info', name, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['formula']
    assert [p['name'] for p in found['parameters'] if not p['meaning']] == []
    published = not found['reference'].startswith('Not published')
    fields = ('author', 'year') if published else ('title', 'note')
    assert all(f'{field} ' in found['bibtex'] for field in fields)
    assert found['summary'].endswith('.')
