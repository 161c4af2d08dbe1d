"""What installed plugins cost: importing the package, and the first question for a learner.

Plugins are distributions in a folder on the path, with metadata and a module each. Processes with
and without them start in turn, so that what else the machine does falls on both alike; the least
time of each counts. The import may take 5 % more of the processor with them: it reads none of them.

`python benchmarks/plugins.py --help`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BAR = 1.05

CHILD = """
import json, time
def clock():
    return time.perf_counter(), time.process_time()
before = clock()
import etrace_algorithms
imported = clock()
from etrace_algorithms.plugins import learners
found = len(learners())
asked = clock()
spans = {'import': (before, imported), 'first question': (imported, asked)}
seconds = {name: [b - a for a, b in zip(*span)] for name, span in spans.items()}
print(json.dumps({'learners': found, 'seconds': seconds}))
"""

PLUGIN = """
from etrace_algorithms.plugins import LearnerSpec, hookimpl

@hookimpl
def etrace_register_learners():
    yield LearnerSpec('learner_{n}', 'A learner.', 'operator:pos', 'approximate', 'O(1)', 'none')
"""


def install_plugins(folder: Path, count: int) -> None:
    """Write distributions with one plugin each into a folder."""
    for n in range(count):
        info = folder / f'etrace_many_{n}-0.1.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: etrace-many-{n}\nVersion: 0.1\n'
        )
        (info / 'entry_points.txt').write_text(f'[etrace.learners]\nmany-{n} = etrace_many_{n}\n')
        (folder / f'etrace_many_{n}.py').write_text(PLUGIN.format(n=n))


def run(folder: Path) -> dict:
    """Import the package in a new process that has a folder on its path."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get('PYTHONPATH')]))
    env = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-c', CHILD], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'a process failed:\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


def measure(folders: dict[str, Path], rounds: int) -> dict[str, list[dict]]:
    """Start a process with each folder in every round; who goes first changes."""
    found = {name: [] for name in folders}
    for turn in range(rounds):
        for name in list(folders) if turn % 2 == 0 else list(reversed(folders)):
            found[name].append(run(folders[name]))
    return found


def least(runs: list[dict], what: str) -> list[float]:
    """Return the least seconds on the clock and of the processor."""
    return [min(times) for times in zip(*(run['seconds'][what] for run in runs), strict=True)]


def paired(found: dict[str, list[dict]], what: str) -> float:
    """Return the median ratio of processor times of the two processes of a round."""
    rounds = zip(found['none'], found['plugins'], strict=True)
    return statistics.median(b['seconds'][what][1] / a['seconds'][what][1] for a, b in rounds)


def main() -> int:
    """Measure, print a table, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--plugins', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks/results/plugins.json')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folders = {'none': Path(made) / 'none', 'plugins': Path(made) / 'many'}
        for folder in folders.values():
            folder.mkdir()
        install_plugins(folders['plugins'], args.plugins)
        run(folders['none'])  # the first process compiles bytecode
        found = measure(folders, args.rounds)
    more = found['plugins'][0]['learners'] - found['none'][0]['learners']
    assert more == args.plugins, f'{more} of {args.plugins} plugins were found'
    columns = ('none, ms', f'{args.plugins}, ms', 'ratio', 'of cpu', 'in pairs')
    print(' ' * 16 + ''.join(f'{column:>10}' for column in columns))
    ratios = {}
    for what in ('import', 'first question'):
        none, many = (least(found[name], what) for name in folders)
        ratios[what] = [b / a for a, b in zip(none, many, strict=True)]
        clock, cpu = ratios[what]
        pairs = paired(found, what)
        times = f'{none[0] * 1e3:10.1f}{many[0] * 1e3:10.1f}'
        print(f'{what:16}{times}{clock:10.3f}{cpu:10.3f}{pairs:10.3f}')
    met = ratios['import'][1] <= BAR
    print(f'importing takes at most {BAR} times as long: {"met" if met else "MISSED"}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({'plugins': args.plugins, 'bar': BAR, 'runs': found}) + '\n')
    return 0 if met else 1


if __name__ == '__main__':
    sys.exit(main())
