"""Time of one online step against backpropagation and against the bandwidth bound.

Everything runs in one process, round after round in turn, so that what else the machine does
falls on all alike; the figures are ratios of medians. `python benchmarks/step_time.py --help`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

import etrace_algorithms as ea
import etrace_nn

LEARNERS = {'d_rtrl': {}, 'pp_prop': {'decay_or_rank': 0.9}, 'immediate': {}}


class Net(brainstate.nn.Module):
    """A GRU with a readout."""

    def __init__(self, fan_in: int, hidden: int, out: int = 10):
        super().__init__()
        self.rnn = etrace_nn.GRUCell(fan_in, hidden)
        self.out = etrace_nn.Linear(hidden, out)

    def update(self, x: Any) -> Any:
        return self.out(self.rnn(x))


def online(name: str, batch: int, hidden: int, fan_in: int) -> tuple[Callable, int]:
    """Return a compiled gradient over a sequence, and the bytes of its trace."""
    net = Net(fan_in, hidden)
    x = jnp.zeros((batch, fan_in))
    learner = ea.compile(net, name, x, batch_size=batch, **LEARNERS[name])
    loss = brainstate.transform.jit(
        lambda xs: learner.etrace_grad(xs, step_fn=lambda x: jnp.mean(learner(x) ** 2))
    )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(learner.etrace.value))
    return loss, size


def bptt(batch: int, hidden: int, fan_in: int) -> Callable:
    """Return a compiled gradient by backpropagation through time."""
    net = Net(fan_in, hidden)
    brainstate.nn.init_all_states(net, batch)
    params = net.states(brainstate.ParamState)

    def total(xs: Any) -> Any:
        losses = brainstate.transform.for_loop(lambda x: jnp.mean(net(x) ** 2), xs)
        return jnp.mean(losses)

    return brainstate.transform.jit(brainstate.transform.grad(total, params))


def trace_copy(size: int) -> Callable:
    """Return a scan whose every step reads and writes as many bytes as a trace has."""
    trace = jnp.zeros((size // 4,), jnp.float32)
    # the factor differs from step to step, or the loop would be folded
    run = jax.jit(lambda e, xs: jax.lax.scan(lambda e, x: (e * x[0, 0], None), e, xs)[0])
    return lambda xs: run(trace, xs)


def measure(contenders: dict[str, Callable], xs: Any, rounds: int) -> dict[str, list[float]]:
    """Time every contender in turn, round after round; milliseconds per step."""
    first, times = {}, {name: [] for name in contenders}
    for name, run in contenders.items():
        start = time.perf_counter()
        jax.block_until_ready(run(xs))
        first[name] = time.perf_counter() - start
        jax.block_until_ready(run(xs))
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(run(xs))
            times[name].append((time.perf_counter() - start) / len(xs) * 1e3)
    return {'first_call_s': first, 'ms_per_step': times}


def main() -> None:
    """Measure, print a table of ratios, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--hidden', type=int, default=256)
    parser.add_argument('--inputs', type=int, default=64)
    parser.add_argument('--steps', type=int, default=64)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/step_time.json'))
    args = parser.parse_args()

    brainstate.random.seed(0)
    xs = brainstate.random.randn(args.steps, args.batch, args.inputs)
    sizes, contenders = {}, {'bptt': bptt(args.batch, args.hidden, args.inputs)}
    for name in LEARNERS:
        contenders[name], sizes[name] = online(name, args.batch, args.hidden, args.inputs)
    contenders['copy of the trace'] = trace_copy(sizes['d_rtrl'])
    found = measure(contenders, xs, args.rounds)

    medians = {name: statistics.median(ts) for name, ts in found['ms_per_step'].items()}
    bound = medians['copy of the trace'] + medians['immediate']
    print(f'GRU B={args.batch} N={args.hidden} T={args.steps}, {jax.devices()[0].platform}')
    print(f'{"":20}{"ms/step":>9}{"/ bptt":>9}{"/ bound":>9}{"first call s":>14}')
    for name, value in medians.items():
        ratios = f'{value / medians["bptt"]:9.2f}{value / bound:9.2f}'
        print(f'{name:20}{value:9.3f}{ratios}{found["first_call_s"][name]:14.2f}')
    print('bound: a copy of the trace of d_rtrl and the forward and backward pass of one step')

    args.out.parent.mkdir(parents=True, exist_ok=True)
    setting = {k: v for k, v in vars(args).items() if k != 'out'}
    result = {'setting': setting, 'jax': jax.__version__, 'trace_bytes': sizes, **found}
    args.out.write_text(json.dumps(result, indent=2) + '\n')
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
