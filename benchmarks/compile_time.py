"""Time from a model to its compiled graph, against `braintrace` and against its own depth.

Each implementation compiles stacks of its own layers, in processes of its own and in its own
environment, in turn, round after round, so that what else the machine does falls on both alike.
What carries over to other machines are ratios: of the medians of both, and of one depth to half
of it. All times are those that the processor spends on the process, the same as on the clock
where nobody else uses the machine. `first` is the first compilation of a model in its process,
as a user meets it; `again` finds the tables of jax filled, and our own of labels.

`python benchmarks/compile_time.py --help`.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from _peer import HOME, OTHER, ROOT, other_python, run_json

WORKER = ROOT / 'benchmarks/_compile_worker.py'
COMPARED = [
    *(f'{kind}-{depth}' for kind in ('rnn', 'gru', 'lstm') for depth in (1, 2, 4, 8, 16)),
    *(f'lif-{depth}' for depth in (1, 2, 4)),
]
DEEP = ('gru-8', 'gru-16', 'gru-32', 'gru-64')
BARS = {'gru-64': 2.0, 'image': 2.0}

Times = dict[str, list[float]]


def measure(
    pythons: dict[str, str], sizes: dict[str, int], cases: list[str], rounds: int
) -> dict[str, dict[str, Times]]:
    """Run every implementation once a round; seconds of first and of later compilations."""
    found = {name: {'first': {}, 'again': {}} for name in pythons}
    for turn in range(rounds):
        # who goes first changes, or a machine that slows down would favour one
        names = list(pythons) if turn % 2 == 0 else list(reversed(pythons))
        for name in names:
            times_of = run_json(name, pythons[name], WORKER, name, json.dumps(sizes), *cases)
            for case, times in times_of.items():
                found[name]['first'].setdefault(case, []).append(times[0])
                found[name]['again'].setdefault(case, []).extend(times[1:])
    return found


def medians(times: dict[str, Times]) -> dict[str, dict[str, float]]:
    """Return the median of each case, for first and for later compilations."""
    return {
        when: {case: statistics.median(t) for case, t in of.items()} for when, of in times.items()
    }


def show_comparison(found: dict[str, Any]) -> dict[str, Any]:
    """Print both side by side, and return the ratios ours / theirs."""
    ours, theirs = medians(found['etrace']), medians(found['braintrace'])
    ratios = {w: {c: ours[w][c] / theirs[w][c] for c in ours[w]} for w in ours}
    print(f'{"":10}{"first, ms":>22}{"":8}{"again, ms":>22}')
    columns = f'{"etrace":>11}{"braintrace":>11}{"ratio":>8}'
    print(f'{"case":10}{columns}{columns}')
    for case in ours['first']:
        line = f'{case:10}'
        for when in ('first', 'again'):
            line += f'{ours[when][case] * 1e3:11.1f}{theirs[when][case] * 1e3:11.1f}'
            line += f'{ratios[when][case]:8.2f}'
        print(line)
    for when, of in ratios.items():
        print(f'geometric mean of the ratios, {when}: {statistics.geometric_mean(of.values()):.2f}')
    return ratios


def show_depth(found: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Print our own times by depth and for large states, and return the growth factors."""
    ours = medians(found['etrace'])
    print(f'\nGRU stacks, width {sizes["width"]}, batch {sizes["batch"]}; a state of 128x64x64x32')
    print(f'{"case":10}{"first s":>10}{"again s":>10}{"growth":>10}{"bar s":>8}')
    growth, before = {}, None
    for case in ours['first']:
        first, again = ours['first'][case], ours['again'][case]
        factor = '' if before is None or case == 'image' else f'{again / before:.2f}'
        if factor:
            growth[case] = again / before
        before = again
        bar = BARS.get(case)
        verdict = '' if bar is None else f'{bar:8.1f}' + ('  met' if first <= bar else '  MISSED')
        print(f'{case:10}{first:10.3f}{again:10.3f}{factor:>10}{verdict}')
    return growth


def main() -> None:
    """Measure, print tables, and write everything down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--cases', nargs='+', default=COMPARED, help='cases to compare')
    parser.add_argument('--no-comparison', action='store_true', help='time ours alone')
    parser.add_argument('--environment', type=Path, default=HOME, help='where braintrace lives')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks/results/compile_time.json')
    args = parser.parse_args()

    result: dict[str, Any] = {'rounds': args.rounds, 'load_before': os.getloadavg()}
    other = None if args.no_comparison else other_python(args.environment)
    if other is not None:
        sizes = {'batch': 16, 'inputs': 32, 'width': 64}
        pythons = {'etrace': sys.executable, 'braintrace': other}
        found = measure(pythons, sizes, args.cases, args.rounds)
        result['comparison'] = {'with': OTHER, 'setting': sizes, 'seconds': found}
        result['comparison']['ratios'] = show_comparison(found)
    elif not args.no_comparison:
        print(f'{OTHER} could not be installed: no comparison')

    sizes = {'batch': 32, 'inputs': 256, 'width': 256}
    found = measure({'etrace': sys.executable}, sizes, [*DEEP, 'image'], args.rounds)
    growth = show_depth(found, sizes)
    result['ours'] = {'setting': sizes, 'seconds': found['etrace'], 'growth': growth}
    result['load_after'] = os.getloadavg()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + '\n')
    load = ' to '.join(f'{result[k][0]:.1f}' for k in ('load_before', 'load_after'))
    print(f'load of the machine {load} on {os.cpu_count()} cores; written to {args.out}')


if __name__ == '__main__':
    main()
