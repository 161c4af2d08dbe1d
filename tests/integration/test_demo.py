"""The demo runs as a program, and what it writes is complete and consistent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / 'examples' / 'digits.py'
LEARNERS = ['D_RTRL', 'pp_prop', 'immediate', 'BPTT']
SMOKE_UPDATES = 6


def run_demo(*args: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(DEMO), *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding='utf-8')


def test_smoke(tmp_path):
    # One test: with fixtures, each process of a parallel run would train all networks again.
    run = run_demo('--smoke', '--out', 'out', cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    learners = json.loads((tmp_path / 'out' / 'digits.json').read_text())['learners']
    assert list(learners) == LEARNERS
    check_says_where_the_files_are(run.stdout, tmp_path / 'out')
    check_prints_progress_and_one_table(run.stdout, learners)
    check_json_has_all_the_numbers(learners)
    check_all_start_from_one_network_and_one_batch(learners)
    check_memory_is_flat_online_and_grows_in_bptt(learners)
    check_trace_bytes_are_those_of_the_traces(learners)


def check_says_where_the_files_are(printed, out):
    assert sorted(path.name for path in out.iterdir()) == ['digits.json', 'digits.png']
    for path in out.iterdir():
        assert str(path.resolve()) in printed
    assert (out / 'digits.png').read_bytes().startswith(b'\x89PNG')


def check_prints_progress_and_one_table(printed, learners):
    lines = printed.splitlines()
    for name, result in learners.items():
        (bar,) = [line for line in lines if line.startswith(name)]
        assert f'{SMOKE_UPDATES}/{SMOKE_UPDATES}' in bar
        assert f'loss {result["curve"]["loss"][-1]:.3f}' in bar
        assert f'test accuracy {result["test_accuracy"]:.3f}' in bar
        (row,) = [line for line in lines if line.startswith(f'│ {name}')]
        cells = [cell.strip() for cell in row.strip('│').split('│')]
        assert cells[1] == f'{result["test_accuracy"]:.3f}'
        assert cells[-1] == f'{result["gradient_cosine_to_bptt"]:.3f}'


def check_json_has_all_the_numbers(learners):
    for result in learners.values():
        assert result['ms_per_step'] > 0
        assert 0 <= result['test_accuracy'] <= 1
        curve = result['curve']
        assert curve['updates'] == [3, SMOKE_UPDATES]
        assert len(curve['loss']) == len(curve['test_accuracy']) == 2
        assert curve['test_accuracy'][-1] == result['test_accuracy']


def check_all_start_from_one_network_and_one_batch(learners):
    # Other weights or another batch would leave hardly any of these cosines.
    cosines = {name: result['gradient_cosine_to_bptt'] for name, result in learners.items()}
    assert cosines['BPTT'] == pytest.approx(1)
    assert 0.9 < cosines['immediate'] < cosines['pp_prop'] < cosines['D_RTRL'] < 0.999


def check_memory_is_flat_online_and_grows_in_bptt(learners):
    def growth(name: str) -> float:
        memory = learners[name]['memory_bytes']
        assert list(memory) == ['8', '64']
        return memory['64'] / memory['8']

    assert all(growth(name) < 1.1 for name in LEARNERS if name != 'BPTT')
    assert growth('BPTT') > 5  # the control: the measurement does see what is stored


def check_trace_bytes_are_those_of_the_traces(learners):
    # 30 samples, 24 inputs and a bias to 16 candidates and to the 16 update gates, float32
    assert learners['D_RTRL']['trace_bytes'] == 4 * 30 * (24 + 1) * (16 + 16)
    assert learners['immediate']['trace_bytes'] == learners['BPTT']['trace_bytes'] == 0
    assert 0 < learners['pp_prop']['trace_bytes'] < learners['D_RTRL']['trace_bytes'] / 4


def test_an_unknown_option_is_refused(tmp_path):
    run = run_demo('--smokey', cwd=tmp_path)
    assert run.returncode == 2
    assert 'unrecognized arguments' in run.stderr
    assert not list(tmp_path.iterdir())
