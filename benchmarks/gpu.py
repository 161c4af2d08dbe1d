"""The engines on a GPU: times of a step, and how much of the memory's bandwidth the traces get.

The step engine of `d_rtrl` reads and writes its trace once per step: its bound is the time of that
at the bandwidth of a large copy, which is measured here too. What a step does to its trace is also
measured alone, by XLA and by a kernel of our own, which has a place in the engine where XLA stays
below 60 % of the bandwidth. Without a GPU this is a smoke test on the CPU, and nothing is written
down.

`python benchmarks/gpu.py --help`, in an environment whose jax has a GPU.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from _bars import Results, short, step_seconds
from _measure import measure_case, processes
from _models import Case
from _peer import ROOT
from _suite import BASE, OTHERS, OURS, Plan, smoke
from _tables import case_table, number, table
from _trace_pass import SIZES, Sizes

#: Below this share of the bandwidth, XLA's pass over the trace is to be replaced.
ENOUGH = 0.6


def plan() -> Plan:
    """Return the base case, larger ones, and every kind of state."""
    sizes = [(16, 256, 64), (16, 256, 512), (64, 256, 64), (64, 512, 64), (256, 512, 64)]
    cases = [Case(batch=b, hidden=n, steps=t) for b, n, t in sizes]
    cases += [dataclasses.replace(BASE, model=model) for model in ('rnn', 'lstm', 'lif-expon')]
    return [(case, [*OURS, *OTHERS]) for case in cases]


def measure(pythons: dict[str, str], rounds: int) -> Results:
    """Measure on whatever device jax finds."""
    # an empty list of platforms lets jax choose
    with processes(pythons, platform='') as workers:
        machine = workers['etrace'].ask('hello')
        has_gpu = machine['platform'] != 'cpu'
        if not has_gpu:
            print('no GPU found: a smoke test on the CPU, which says nothing about a GPU')
        bandwidth = workers['etrace'].ask('bandwidth', megabytes=1024 if has_gpu else 64)
        results: Results = {'machine': machine, 'bandwidth': bandwidth, 'cases': []}
        for case, contenders in plan() if has_gpu else smoke():
            print(case.label, flush=True)
            found = measure_case(workers, case, contenders, rounds)
            results['cases'].append({'case': dataclasses.asdict(case), 'contenders': found})
        results['passes'] = []
        for sizes in SIZES if has_gpu else [Sizes(2, 9, 5, states=2)]:
            print(sizes.label, flush=True)
            asked = dataclasses.asdict(sizes)
            options = {'ways': ['copy', 'xla', 'kernel'], 'steps': 64 if has_gpu else 2}
            found = workers['etrace'].ask('trace_pass', sizes=asked, rounds=rounds, **options)
            results['passes'].append({'sizes': asked, 'found': found})
    return results


def report(results: Results) -> str:
    """Write absolute times, the share of the bandwidth, and the ratios of every case."""
    machine, bandwidth = results['machine'], results['bandwidth']
    what = f'{machine["device"]}, jax {machine["jax"]}; a copy moves {bandwidth / 1e9:.0f} GB/s.'
    parts = [
        '# Engines on a GPU' if machine['platform'] != 'cpu' else '# No GPU: a smoke test',
        what,
    ]
    parts += ['Share of the bandwidth: bytes of the trace, read and written once, over time.']
    for entry in results['cases']:
        case = Case(**entry['case'])
        rows = [
            [short(label), *absolute(step_seconds(results, case, label), figures, bandwidth)]
            for label, figures in entry['contenders'].items()
        ]
        head = ['', 'µs per step', 'peak, MB', 'share of the bandwidth']
        parts += [f'## {case.label}', table(head, rows), case_table(results, case)]
    parts.append(passes(results))
    return '\n\n'.join(parts) + '\n'


def passes(results: Results) -> str:
    """Write what a step does to its trace, alone: times, and shares of the bandwidth."""
    rows, slow = [], []
    for entry in results['passes']:
        label, found = Sizes(**entry['sizes']).label, entry['found']
        cells = []
        for name in ('copy', 'xla', 'kernel'):
            if isinstance(found[name], str):
                cells += [found[name], '']
                continue
            share = 2 * found['bytes'] / min(found[name]) / results['bandwidth']
            cells += [f'{min(found[name]) * 1e6:.1f}', number(share)]
            if name == 'xla' and share < ENOUGH:
                slow.append(label)
        rows.append([label, *cells, f'{found.get("disagreement", float("nan")):.1e}'])
    head = ['trace', 'copy, µs', 'share', 'XLA, µs', 'share', 'kernel, µs', 'share', 'disagreement']
    where = f'in {len(slow)} of {len(rows)}' + (f': {"; ".join(slow)}' if slow else '')
    said = f'XLA stays below {ENOUGH:.0%} of the bandwidth {where}.'
    return '\n\n'.join(['## What a step does to its trace', said, table(head, rows)])


def absolute(seconds: float | None, figures: dict[str, Any], bandwidth: float) -> list[str]:
    """Return the time of a step, its memory, and the share that its trace has of the bandwidth."""
    if seconds is None:
        return ['failed', '', '']
    moved = 2 * figures.get('trace_bytes', 0)
    share = number(moved / seconds / bandwidth) if moved > 1e6 else ''
    return [f'{seconds * 1e6:.1f}', f'{figures["bytes"]["peak"] / 1e6:.1f}', share]


def main() -> None:
    """Measure, print, and write down what a GPU did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--peer', help='a Python that has `braintrace` and a jax with a GPU')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks/results')
    args = parser.parse_args()
    peer = {'braintrace': args.peer} if args.peer else {}
    results = measure({'etrace': sys.executable, **peer}, args.rounds)
    print('', report(results), sep='\n')
    if results['machine']['platform'] != 'cpu':
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / 'gpu.json').write_text(json.dumps(results, indent=1) + '\n')
        (args.out / 'gpu.md').write_text(report(results))


if __name__ == '__main__':
    main()
