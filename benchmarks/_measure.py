"""Measure contenders of both implementations in turn, each in a process of its own."""

import contextlib
import dataclasses
import json
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from _models import Case
from _peer import ROOT, environment, run_json
from _suite import PLANNED_SIZES, RESIDENT_SIZES, RESIDENT_STEPS

WORKER = ROOT / 'benchmarks/_engine_worker.py'
RESIDENT = ROOT / 'benchmarks/_resident_worker.py'
PLANNED = ROOT / 'benchmarks/_planned_worker.py'
COMPILE = ROOT / 'benchmarks/_compile_worker.py'
#: a shorter run is repeated until it takes as long
SHORTEST_S = 0.02
#: after this much time a contender is not run again, once it has run three times
LONGEST_S = 6.0


class Failed(Exception):
    """A contender could not be prepared or run."""


class Process:
    """A worker, started again where it died."""

    def __init__(self, family: str, python: str, platform: str = 'cpu'):
        self.family, self.python, self.platform = family, python, platform
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [self.python, str(WORKER), self.family],
            env=environment(self.family, self.platform),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> Any:
        """Send a request and wait for the reply."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({'do': do, **request}), file=stdin, flush=True)
        line = stdout.readline()
        if not line:
            code = self._process.wait()
            self._start()
            raise Failed(f'the process ended with {code}')
        reply = json.loads(line)
        if 'error' in reply:
            raise Failed(reply['error'])
        return reply['value']

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def processes(pythons: dict[str, str], platform: str = 'cpu') -> Iterator[dict[str, Process]]:
    """Run one worker per implementation."""
    workers = {family: Process(family, python, platform) for family, python in pythons.items()}
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()


def measure_case(
    workers: dict[str, Process], case: Case, contenders: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Prepare all contenders of a case, then run them round after round in turn.

    Args:
        workers: By implementation.
        case: The model and its sizes.
        contenders: Such as `etrace d_rtrl/32`; those of an implementation without a worker are
            left out.
        rounds: How often each is run.

    Returns:
        By contender: `step_s` and `step_cpu_s`, lists of seconds per step on the clock and of all
        processors, and what `prepare` returned; or `failed`, the reason.
    """
    sizes = dataclasses.asdict(case)
    found = {}
    for label in contenders:
        family, name = split(label)
        if family in workers:
            found[label] = prepared(workers[family], name, sizes)
    alive = {label: figures for label, figures in found.items() if 'failed' not in figures}
    for figures in alive.values():
        figures |= {'step_s': [], 'step_cpu_s': []}
        figures['repeats'] = math.ceil(SHORTEST_S / max(figures['once_s'], 1e-6))
    for turn in range(rounds):
        # who follows whom changes, or a machine that slows down would favour some
        order = list(alive) if turn % 2 == 0 else list(reversed(alive))
        for label in order:
            run_once(workers, label, alive[label], case.steps)
    for worker in workers.values():
        worker.ask('forget')
    return found


def split(label: str) -> tuple[str, str]:
    """Split a contender's label into implementation and name."""
    family, _, name = label.partition(' ')
    return family, name


def prepared(worker: Process, name: str, sizes: dict, **options: Any) -> dict[str, Any]:
    """Prepare a contender, or say why that failed."""
    try:
        return worker.ask('prepare', name=name, case=sizes, **options)
    except Failed as error:
        return {'failed': str(error)}


def run_once(workers: dict[str, Process], label: str, figures: dict[str, Any], steps: int) -> None:
    """Run a contender one round further, unless it failed or has had its time."""
    spent = sum(figures['step_s']) * steps * figures['repeats']
    if 'failed' in figures or (len(figures['step_s']) >= 3 and spent > LONGEST_S):
        return
    family, name = split(label)
    try:
        times = workers[family].ask('run', name=name, repeats=figures['repeats'])
        for kind, seconds in times.items():
            figures[kind].append(seconds / steps)
    except Failed as error:
        figures['failed'] = str(error)


def account(worker: Process, case: Case, names: Sequence[str]) -> dict[str, Any]:
    """Ask XLA what contenders would need, without running them."""
    sizes = dataclasses.asdict(case)
    found = {name: prepared(worker, name, sizes, execute=False) for name in names}
    worker.ask('forget')
    return found


def resident(python: str, name: str, repeats: int = 4) -> dict[str, int]:
    """Return the resident bytes of processes that run sequences of different lengths."""
    found = {}
    for steps in map(str, RESIDENT_STEPS):
        arguments = ('etrace', name, steps, json.dumps(RESIDENT_SIZES))
        # the least: some runs of the same program need a few per cent more
        runs = [run_json('etrace', python, RESIDENT, *arguments) for _ in range(repeats)]
        found[steps] = min(runs)
    return found


def planned(python: str, name: str, repeats: int = 2) -> dict[str, int] | None:
    """Return the bytes that were planned for a process and what it took at least."""
    arguments = (name, json.dumps(PLANNED_SIZES))
    runs = [run_json('etrace', python, PLANNED, *arguments) for _ in range(repeats)]
    return None if None in runs else min(runs, key=lambda run: run['measured'])


def in_turn(pythons: dict[str, str], rounds: int, once: Callable[[str], dict]) -> dict[str, Any]:
    """Call a function for every implementation in turn, and collect what it returns by part."""
    found: dict[str, Any] = {family: {} for family in pythons}
    for turn in range(rounds):
        for family in list(pythons) if turn % 2 == 0 else list(reversed(pythons)):
            for part, value in once(family).items():
                found[family].setdefault(part, []).append(value)
    return found


def first_calls(pythons: dict[str, str], case: Case, name: str, rounds: int) -> dict[str, Any]:
    """Time the way to a first result, each time in a new process.

    Returns:
        By implementation, for each of `compile_s` (the learner), `trace_s` (Python), `xla_s`
        a list of seconds of the processor.
    """
    sizes = dataclasses.asdict(case)

    def once(family: str) -> dict[str, float]:
        with processes({family: pythons[family]}) as workers:
            found = workers[family].ask('prepare', name=name, case=sizes, execute=False)
        return {part: found[part] for part in ('compile_s', 'trace_s', 'xla_s')}

    return in_turn(pythons, rounds, once)


def graphs(pythons: dict[str, str], case: Case, rounds: int) -> dict[str, Any]:
    """Time the first graph of a GRU in a process that has compiled a tiny model before."""
    sizes = {'batch': case.batch, 'inputs': case.inputs, 'width': case.hidden}

    def once(family: str) -> dict[str, float]:
        arguments = (family, json.dumps(sizes), 'gru-1')
        times = run_json(family, pythons[family], COMPILE, *arguments)
        return {'graph_s': times['gru-1'][0]}

    return in_turn(pythons, rounds, once)
