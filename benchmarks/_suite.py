"""What is measured: cases and contenders."""

import dataclasses
from itertools import product

from _models import Case

BASE = Case()
#: a stream: one sample at a time
LINEAR = Case('lru', batch=1, steps=512)
ENGINES = [f'etrace {rule}/{window}' for rule in ('d_rtrl', 'pp_prop') for window in (1, 32, 'T')]
#: windows that the learner chooses: what runs where nothing is said
DEFAULTS = ['etrace d_rtrl/auto', 'etrace pp_prop/auto']
BASELINES = ['etrace bptt', 'etrace bptt checkpointed', 'etrace forward', 'etrace copy']
BASELINES += ['etrace products']
#: with backpropagation there as well: the same work, so that its ratio to ours should be 1
OTHERS = [f'braintrace {name}' for name in ('bptt', 'd_rtrl/1', 'd_rtrl/32', 'pp_prop/1')]
ONWARD = ['etrace d_rtrl/T carried', 'etrace pp_prop/T carried']
OURS = [*BASELINES, *ENGINES, *DEFAULTS, *ONWARD, 'etrace immediate/1']
ALL = [*OURS, *OTHERS, 'braintrace pp_prop/32']
#: what the plots of the scaling show
SCALING = ['etrace bptt', 'etrace copy', *ENGINES, 'etrace immediate/1', *OTHERS]

SHAPES = [('gru', 1), ('gru', 2), ('gru', 3), ('rnn', 1), ('lstm', 1)]
SHAPES += [(model, 1) for model in ('lif', 'lif-expon', 'alif-expon')]

Plan = list[tuple[Case, list[str]]]


def quick() -> Plan:
    """Return the base case, what the bars need beside it, and one change of each size."""

    def change(**sizes: int) -> Case:
        return dataclasses.replace(BASE, **sizes)

    plan = [(BASE, ALL), (change(batch=1), ALL), (change(hidden=512), SCALING)]
    plan += [(change(batch=batch, steps=512), OURS) for batch in (1, 16)]
    plan += [(change(**size), SCALING) for size in ({'batch': 64}, {'hidden': 128})]
    plan += [(change(model=m, depth=d), SCALING) for m, d in SHAPES if (m, d) != ('gru', 1)]
    plan.append((LINEAR, ['etrace bptt', 'etrace forward', *ENGINES]))
    return plan


def full() -> Plan:
    """Return every model at every size."""
    models = [('gru', 1), ('gru', 3), ('rnn', 1), ('lstm', 1), ('lif-expon', 1)]
    sizes = product(models, (1, 16, 64), (128, 256, 512), (64, 512))
    cases = [Case(m, batch, hidden, steps, depth) for (m, depth), batch, hidden, steps in sizes]
    rest = [(case, contenders) for case, contenders in quick() if case not in cases]
    return [(case, ALL) for case in cases] + rest


def smoke() -> Plan:
    """Return one tiny case, to see that everything runs."""
    case = Case(batch=2, hidden=8, steps=6, inputs=4, outputs=3)
    rules = [f'etrace {name}' for name in ('d_rtrl/1', 'd_rtrl/2', 'pp_prop/auto')]
    return [(case, [*BASELINES, *rules, 'braintrace bptt', 'braintrace d_rtrl/1'])]


#: XLA's account of memory alone, without running: T=8192 takes backpropagation gigabytes
ACCOUNTED_STEPS = (64, 512, 8192)
ACCOUNTED = ['bptt', 'bptt checkpointed', 'd_rtrl/1', 'd_rtrl/32', 'pp_prop/1', 'pp_prop/32']
FIRST_CALLS = ['d_rtrl/1', 'd_rtrl/32', 'pp_prop/1']
#: large enough that what libraries take beside it counts for little
PLANNED_SIZES = {'batch': 64, 'hidden': 512, 'steps': 128}
PLANNED = ['d_rtrl/1', 'd_rtrl/32', 'pp_prop/64', 'pp_prop/128']
RESIDENT_SIZES = {'batch': 4, 'hidden': 128}
#: with the same rest after windows of 32, so that the same programs are compiled
RESIDENT_STEPS = (200, 20008)
RESIDENT = ['d_rtrl/1', 'd_rtrl/32', 'pp_prop/1', 'pp_prop/32', 'bptt']
