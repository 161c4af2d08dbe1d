"""Time and memory of the engines against `braintrace`, backpropagation and the bandwidth bound.

Both implementations run in processes of their own, one run at a time, in turn, so that what else
the machine does falls on all alike. What carries over to other machines are ratios: of the least
times of all rounds, of the bytes that XLA accounts for a compiled program, of the processor times
of first calls. The report has ratios alone; the times behind them are in the JSON.

`python benchmarks/engines.py --help`.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bars import Results
from _measure import account, first_calls, graphs, measure_case, planned, processes, resident
from _peer import HOME, OTHER, ROOT, other_python
from _plots import draw
from _suite import (
    ACCOUNTED,
    ACCOUNTED_STEPS,
    BASE,
    FIRST_CALLS,
    PLANNED,
    RESIDENT,
    full,
    quick,
    smoke,
)
from _tables import bars, control, report, winners
from _trace_pass import CPU_SIZES, Sizes


def measure(
    pythons: dict[str, str], suite: str, rounds: int, keep: Callable[[Results], None]
) -> Results:
    """Measure everything; what is there after each part is handed to `keep`."""
    plan = {'quick': quick, 'full': full, 'smoke': smoke}[suite]()
    results: Results = {'suite': suite, 'rounds': rounds, 'with': OTHER, 'cases': []}
    results |= {'accounted': {}, 'resident': {}, 'planned': {}, 'first_call': {}, 'graph': {}}
    results['passes'] = []
    with processes(pythons) as workers:
        machine = {**workers['etrace'].ask('hello'), 'cores': os.cpu_count()}
        results['machine'] = {**machine, 'load': [os.getloadavg()[0]]}

        def done(what: str) -> None:
            results['machine']['load'].append(os.getloadavg()[0])
            print(what, flush=True)
            keep(results)

        for case, contenders in plan:
            found = measure_case(workers, case, contenders, rounds)
            results['cases'].append({'case': dataclasses.asdict(case), 'contenders': found})
            done(f'{len(results["cases"])}/{len(plan)} {case.label}')
        results['passes'] = passes(
            workers['etrace'], SMOKE_PASSES if suite == 'smoke' else CPU_SIZES
        )
        done('what a step does to its trace')
        if suite == 'smoke':
            return results
        results['accounted'] = accounts(workers['etrace'])
        done('memory that XLA accounts')
    results['resident'] = {name: resident(pythons['etrace'], name) for name in RESIDENT}
    results['planned'] = {name: planned(pythons['etrace'], name) for name in PLANNED}
    done('resident memory')
    rounds = max(rounds // 2, 1)
    results['graph'] = {'gru': graphs(pythons, BASE, rounds)}
    results['first_call'] = {name: first_calls(pythons, BASE, name, rounds) for name in FIRST_CALLS}
    done('first calls')
    return results


def accounts(worker: Any) -> dict[str, Any]:
    """Ask for the memory of sequences of different lengths."""
    cases = {steps: dataclasses.replace(BASE, steps=steps) for steps in ACCOUNTED_STEPS}
    return {str(steps): account(worker, case, ACCOUNTED) for steps, case in cases.items()}


def passes(worker: Any, found: list[Sizes]) -> list[dict[str, Any]]:
    """Ask for what a single step does to its trace, alone."""
    asked = [dataclasses.asdict(sizes) for sizes in found]
    options = {'ways': ['copy', 'update', 'xla', 'sample'], 'steps': 64, 'rounds': 9}
    return [{'sizes': a, 'found': worker.ask('trace_pass', sizes=a, **options)} for a in asked]


def main() -> None:
    """Measure, print the tables, and write everything down."""
    parser = argparse.ArgumentParser(description=__doc__)
    suites = parser.add_mutually_exclusive_group()
    for suite, text in SUITES.items():
        suites.add_argument(
            f'--{suite}', dest='suite', action='store_const', const=suite, help=text
        )
    parser.set_defaults(suite='quick')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--no-comparison', action='store_true', help='time ours alone')
    parser.add_argument('--environment', type=Path, default=HOME, help='where braintrace lives')
    parser.add_argument('--report', type=Path, help='write the report from these results again')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks/results')
    args = parser.parse_args()

    if args.report:
        results = json.loads(args.report.read_text())
    else:
        pythons = {'etrace': sys.executable}
        other = None if args.no_comparison else other_python(args.environment)
        if other is not None:
            pythons['braintrace'] = other
        elif not args.no_comparison:
            print(f'{OTHER} could not be installed: no comparison')
        results = measure(pythons, args.suite, args.rounds, lambda found: write(found, args.out))
    write(results, args.out)
    print('', bars(results), control(results), winners(results), sep='\n\n')
    print(f'\nwritten to {args.out}')


def write(results: Results, folder: Path) -> None:
    """Write results, report and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'engines.json').write_text(json.dumps(results, indent=1) + '\n')
    (folder / 'engines.md').write_text(report(results))
    draw(results, folder / 'engines.svg')


SMOKE_PASSES = [Sizes(2, 9, 5)]

SUITES = {
    'quick': 'the base case, what the bars need, and one change of each size (the default)',
    'full': 'every model at every size: hours',
    'smoke': 'one tiny case, to see that everything runs',
}

if __name__ == '__main__':
    main()
