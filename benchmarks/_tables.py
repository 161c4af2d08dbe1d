"""Tables of ratios, in Markdown, from the results as they are written down."""

import statistics
from collections.abc import Iterable
from typing import Any

from _bars import BARS, Bar, Results, contenders_of, quotient, short, step_seconds
from _models import Case


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Write a table: names to the left, figures to the right."""
    head = list(head)
    lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def number(value: float | None) -> str:
    """Write a ratio with three figures."""
    return '' if value is None else f'{value:.3g}' if value < 100 else f'{value:.0f}'


def verdict(bar: Bar, value: float | None) -> str:
    """Say whether a ratio keeps below its limit."""
    return 'not measured' if value is None else 'pass' if value <= bar.limit else '**miss**'


def bars(results: Results) -> str:
    """List every bar with what was measured."""
    rows = []
    for bar in BARS:
        value = bar.value(results)
        bound = None if bar.bound is None else bar.bound(results)
        figures = map(number, (value, bound, bar.limit))
        rows.append([bar.label, bar.where, *figures, verdict(bar, value)])
    return table(['ratio', 'where', 'measured', 'bound', 'at most', ''], rows)


def judged(results: Results) -> tuple[int, int, int]:
    """Count bars kept, missed and not measured."""
    said = [verdict(bar, bar.value(results)) for bar in BARS]
    return said.count('pass'), said.count('**miss**'), said.count('not measured')


def case_table(results: Results, case: Case) -> str:
    """List the contenders of a case: what each takes and gives, over what BPTT does.

    `median / least` is of its own times: how much else the machine did.
    """
    found = contenders_of(results, case)
    base, base_cpu = (
        step_seconds(results, case, 'etrace bptt', kind) for kind in ('step_s', 'step_cpu_s')
    )
    peak = found.get('etrace bptt', {}).get('bytes', {}).get('peak')
    rows = []
    for label, figures in found.items():
        if 'failed' in figures:
            rows.append([short(label), figures['failed'], '', '', '', '', ''])
            continue
        times = figures['step_s']
        rows.append(
            [
                short(label),
                number(quotient(min(times), base)),
                number(statistics.median(times) / min(times)),
                number(quotient(min(figures['step_cpu_s']), base_cpu)),
                number(quotient(figures['bytes']['peak'], peak)),
                number(figures.get('cosine')),
                number(figures.get('norm_ratio')),
            ]
        )
    head = ['', 'time', 'median / least', 'processor', 'memory', 'cosine', 'norm']
    return table(head, rows)


def winners(results: Results) -> str:
    """Say for every case how a step of each rule compares with BPTT, at its best window."""
    families = {
        'd_rtrl': 'etrace d_rtrl/',
        'pp_prop': 'etrace pp_prop/',
        'braintrace d_rtrl': 'braintrace d_rtrl/',
        'braintrace pp_prop': 'braintrace pp_prop/',
    }
    rows = []
    for entry in results['cases']:
        case = Case(**entry['case'])
        base = step_seconds(results, case, 'etrace bptt')
        row = [case.label]
        for prefix in families.values():
            found = {x: step_seconds(results, case, x) for x in entry['contenders']}
            times = {s: x.removeprefix(prefix) for x, s in found.items() if s and prefix in x}
            row.append(
                f'{number(min(times) / base)} ({times[min(times)]})' if times and base else ''
            )
        rows.append(row)
    return table(['time / bptt (window)', *families], rows)


def accounted(results: Results) -> str:
    """List what XLA accounts by length, over BPTT of the same length."""
    found = results['accounted']
    names = next(iter(found.values()), {})
    rows = []
    for name in names:
        peaks = [(found[steps][name], found[steps]['bptt']) for steps in found]
        ratios = [
            a['bytes']['peak'] / b['bytes']['peak']
            for a, b in peaks
            if 'bytes' in a and 'bytes' in b
        ]
        rows.append([name, *map(number, ratios)])
    return table(['memory / bptt', *(f'T={steps}' for steps in found)], rows)


def resident(results: Results) -> str:
    """List how the memory of a process grows from a short to a long sequence."""
    rows = []
    for name, found in results['resident'].items():
        few, many = found.values()
        rows.append([name, number(many / few), f'{(many - few) / 2**20:.1f} MiB'])
    return table(['', 'ratio', 'growth'], rows)


def planned(results: Results) -> str:
    """Compare the memory that a process took with what was planned for it."""
    rows = [
        [name, f'{found["planned"] / 1e6:.0f} MB', number(found['measured'] / found['planned'])]
        for name, found in results.get('planned', {}).items()
        if found
    ]
    return table(['', 'planned', 'measured / planned'], rows) if rows else 'Not measured.'


def passes(results: Results) -> str:
    """List what a single step does to its trace, alone, over a copy of it."""
    rows = []
    for entry in results['passes']:
        sizes, found = entry['sizes'], entry['found']
        label = f'B={sizes["batch"]} {sizes["inputs"]}×{sizes["columns"]}'
        ratios = [min(found[way]) / min(found['copy']) for way in ('update', 'xla', 'sample')]
        rows.append([label, f'{found["bytes"] / 1e6:.1f} MB', *map(number, ratios)])
    return table(['time / copy', 'trace', 'update alone', 'two passes', 'sample by sample'], rows)


def first_calls(results: Results) -> str:
    """List the parts of the way to a first result, over those of the other implementation."""
    rows = []
    for name, found in results['first_call'].items():
        if 'braintrace' not in found:
            continue
        medians = {f: {p: statistics.median(v) for p, v in of.items()} for f, of in found.items()}
        parts = medians['etrace']
        ratios = [number(parts[p] / medians['braintrace'][p]) for p in parts]
        total = sum(parts.values()) / sum(medians['braintrace'].values())
        rows.append([name, *ratios, number(total)])
    return table(['ours / braintrace', 'learner', 'tracing', 'XLA', 'all'], rows)


def control(results: Results) -> str:
    """Say how far apart the same program is in the two environments."""
    values = []
    for entry in results['cases']:
        case = Case(**entry['case'])
        value = quotient(
            *(step_seconds(results, case, f'{f} bptt') for f in ('braintrace', 'etrace'))
        )
        values += [] if value is None else [value]
    if not values:
        return 'The other implementation was not measured.'
    span = f'{number(min(values))} to {number(max(values))}'
    where = 'Time of backpropagation in the environment of `braintrace` / in ours'
    return f'{where}: {span} over {len(values)} cases.'


def report(results: Results) -> str:
    """Write the whole report."""
    kept, missed, unknown = judged(results)
    sections = {
        f'Bars: {kept} kept, {missed} missed, {unknown} not measured': bars(results),
        'Control': control(results),
        'Which engine wins where': winners(results),
        'Memory that XLA accounts, by length': accounted(results),
        'Resident memory of a long sequence': resident(results),
        'Planned memory': planned(results),
        'A single step and its trace, alone': passes(results),
        'First call': first_calls(results),
    }
    parts = [f'## {title}\n\n{body}' for title, body in sections.items()]
    return '\n\n'.join(['# Engines', setting(results), *parts, details(results)]) + '\n'


def details(results: Results) -> str:
    """List all contenders of all cases."""
    cases = [Case(**entry['case']) for entry in results['cases']]
    return '\n\n'.join(f'### {case.label}\n\n{case_table(results, case)}' for case in cases)


def setting(results: Results) -> str:
    """Say what the figures were taken on."""
    m = results['machine']
    load = f'{min(m["load"]):.1f} to {max(m["load"]):.1f}'
    return (
        f'{m["cores"]} cores ({m["device"]}), jax {m["jax"]}, brainstate {m["brainstate"]}; '
        f'load of the machine {load}. '
        f'Times are the least of {results["rounds"]} alternating rounds.'
    )
