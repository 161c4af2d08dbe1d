"""The bars: ratios that the engines have to keep below a limit, each with how it is found."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from _models import Case
from _suite import BASE, LINEAR, PLANNED, RESIDENT_STEPS

Results = dict[str, Any]
Figure = Callable[[Results], float | None]


@dataclasses.dataclass(frozen=True)
class Bar:
    """A ratio that must not exceed a limit.

    Attributes:
        label: What is compared.
        limit: What the ratio must not exceed.
        value: Finds it, or nothing if it was not measured.
        where: The case.
        bound: Finds the same ratio for parts alone that are hard to do without, where measured.
    """

    label: str
    limit: float
    value: Figure
    where: str = ''
    bound: Figure | None = None


def short(label: str) -> str:
    """Name a contender in a table: ours without the name of the family."""
    return label.removeprefix('etrace ')


def contenders_of(results: Results, case: Case) -> dict[str, Any]:
    """Return the figures of all contenders of a case."""
    wanted = dataclasses.asdict(case)
    return next((c['contenders'] for c in results['cases'] if c['case'] == wanted), {})


def step_seconds(results: Results, case: Case, label: str, kind: str = 'step_s') -> float | None:
    """Return the seconds of one step: the least of all rounds, which others disturbed least."""
    figures = contenders_of(results, case).get(label, {})
    return None if 'failed' in figures or not figures.get(kind) else min(figures[kind])


def time_bar(
    limit: float,
    top: str,
    *bottom: str,
    base: Case = BASE,
    parts: tuple[str, ...] = (),
    **sizes: Any,
) -> Bar:
    """Compare the time of a step with the sum of others; `parts` give the bound."""
    case = dataclasses.replace(base, **sizes)
    name = ' + '.join(map(short, bottom))
    label = f'time {short(top)} / {f"({name})" if len(bottom) > 1 else name}'

    def value(results: Results) -> float | None:
        return quotient(*(step_seconds(results, case, part) for part in (top, *bottom)))

    def bound(results: Results) -> float | None:
        least = total(step_seconds(results, case, part) for part in parts)
        return quotient(least, *(step_seconds(results, case, part) for part in bottom))

    return Bar(label, limit, value, case.label, bound if parts else None)


def memory_bar(limit: float, top: str, bottom: str, steps: int) -> Bar:
    """Compare what XLA accounts: arguments, results and temporary memory, what is shared once."""

    def sizes(results: Results, name: str) -> dict[str, int]:
        return results['accounted'].get(str(steps), {}).get(name, {}).get('bytes', {})

    def value(results: Results) -> float | None:
        return quotient(*(sizes(results, name).get('peak') for name in (top, bottom)))

    def bound(results: Results) -> float | None:
        """What the data and the results take alone."""
        own = sizes(results, top)
        given = own['argument'] + own['output'] if own else None
        return quotient(given, sizes(results, bottom).get('peak'))

    where = dataclasses.replace(BASE, steps=steps).label
    return Bar(f'memory {top} / {bottom}', limit, value, where, bound)


def resident_bar(limit: float, name: str) -> Bar:
    """Compare the resident memory of a long sequence with that of a short one."""
    short_run, long_run = RESIDENT_STEPS

    def value(results: Results) -> float | None:
        found = results['resident'].get(name, {})
        return quotient(found.get(str(long_run)), found.get(str(short_run)))

    return Bar(f'resident memory {name}, T={long_run} / T={short_run}', limit, value)


def planned_bar(limit: float, name: str) -> Bar:
    """Compare the memory that a process takes with what was planned for it, either way."""

    def value(results: Results) -> float | None:
        found = results.get('planned', {}).get(name)
        if not found:
            return None
        ratio = found['measured'] / found['planned']
        return max(ratio, 1 / ratio)

    return Bar(f'memory {name}, measured / planned', limit, value)


def effort_bar(limit: float, what: str, section: str, name: str, *parts: str) -> Bar:
    """Compare processor times in new processes: medians over rounds of a sum of parts."""

    def value(results: Results) -> float | None:
        found = results[section].get(name, {})
        if not {'etrace', 'braintrace'} <= set(found):
            return None
        sums = [
            sum(statistics.median(found[f][p]) for p in parts) for f in ('etrace', 'braintrace')
        ]
        return quotient(*sums)

    return Bar(f'{what} {name} / braintrace {name}', limit, value, BASE.label)


def quotient(top: float | None, *bottom: float | None) -> float | None:
    """Divide a figure by the sum of others, if all of them are there."""
    below = total(bottom)
    return None if top is None or below is None else top / below


def total(figures: Iterable[float | None]) -> float | None:
    """Add figures up, if all of them are there."""
    known = [*figures]
    return None if None in known else sum(x for x in known if x is not None)


WINDOW = ('etrace forward', 'etrace products')
STEP = ('etrace copy', *WINDOW)
BARS = [
    time_bar(1 / 15, 'etrace d_rtrl/1', 'braintrace d_rtrl/1', parts=STEP),
    time_bar(1 / 50, 'etrace d_rtrl/32', 'braintrace d_rtrl/1', parts=WINDOW),
    time_bar(1 / 3, 'etrace d_rtrl/32', 'braintrace d_rtrl/32', parts=WINDOW),
    time_bar(1.5, 'etrace d_rtrl/1', 'etrace copy', 'etrace immediate/1'),
    *(time_bar(0.65, 'etrace d_rtrl/T', 'etrace bptt', batch=batch) for batch in (1, 16)),
    time_bar(0.9, 'etrace d_rtrl/T', 'etrace bptt', hidden=512),
    *(
        time_bar(0.8, 'etrace d_rtrl/32', 'etrace bptt', batch=batch, steps=steps)
        for steps in (64, 512)
        for batch in (1, 16)
    ),
    time_bar(1.5, 'etrace d_rtrl/32', 'etrace bptt', hidden=512),
    time_bar(0.9, 'etrace pp_prop/32', 'etrace bptt'),
    time_bar(0.7, 'etrace pp_prop/32', 'braintrace pp_prop/1', parts=WINDOW),
    time_bar(0.4, 'etrace pp_prop/32', 'braintrace pp_prop/1', parts=WINDOW, batch=1),
    time_bar(2.5, 'etrace d_rtrl/32', 'etrace forward', base=LINEAR),
    memory_bar(1 / 2, 'd_rtrl/32', 'bptt', steps=512),
    memory_bar(1 / 20, 'd_rtrl/32', 'bptt', steps=8192),
    memory_bar(1 / 2, 'pp_prop/32', 'bptt checkpointed', steps=8192),
    *(
        resident_bar(1.05, f'{rule}/{window}')
        for rule in ('d_rtrl', 'pp_prop')
        for window in (1, 32)
    ),
    *(planned_bar(1.1, name) for name in PLANNED),
    effort_bar(1.0, 'graph,', 'graph', 'gru', 'graph_s'),
    *(
        effort_bar(1.0, 'first call,', 'first_call', name, 'trace_s', 'xla_s')
        for name in ('d_rtrl/1', 'd_rtrl/32', 'pp_prop/1')
    ),
]
