"""`--one-case-in`: a second stack runs every test, and fewer cases of each."""

import re
from collections import Counter
from pathlib import Path

import pytest

pytest_plugins = ['pytester']

ROOT = Path(__file__).parents[2]

CASES = """
import pytest

@pytest.mark.parametrize('number', range(40))
def test_many(number): ...

@pytest.mark.parametrize('number', range(2))
def test_few(number): ...

def test_one(): ...
"""


def collected(pytester, *options):
    pytester.makeconftest((ROOT / 'conftest.py').read_text())
    pytester.makepyfile(CASES)
    found = pytester.runpytest_inprocess('--collect-only', '-q', *options)
    return [line for line in found.outlines if '::' in line]


@pytest.mark.parametrize('every', [1, 8])
def test_every_test_runs_and_one_case_in_so_many(pytester, every):
    found = collected(pytester, f'--one-case-in={every}')
    count = Counter(re.search(r'::(\w+)', line)[1] for line in found)
    if every == 1:
        assert count == {'test_many': 40, 'test_few': 2, 'test_one': 1}
    else:
        assert count.keys() == {'test_many', 'test_few', 'test_one'}
        assert 1 <= count['test_many'] <= 12
        assert count['test_few'] == count['test_one'] == 1


def test_the_same_cases_every_time(pytester):
    assert collected(pytester, '--one-case-in=8') == collected(pytester, '--one-case-in=8')
