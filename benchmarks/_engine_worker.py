"""Prepare and run contenders of one implementation: requests on stdin, replies on stdout, as JSON.

`python _engine_worker.py etrace`. Compiled programs stay, so that two such processes can be asked
in turn, one run at a time.
"""

import json
import os
import sys
import time
import warnings
from typing import Any

warnings.simplefilter('ignore')
# windows that are asked for and not made would be measured under a wrong name
warnings.filterwarnings('error', message='chunk_size=')

import brainstate  # noqa: E402
import brainunit as u  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from _contenders import prepare  # noqa: E402
from _models import Case, Family  # noqa: E402


class Worker:
    """Compiled contenders by name, and what the gradient of the first one, `bptt`, was."""

    def __init__(self, family: str):
        self.family = Family(family)
        self.forget()

    def forget(self) -> None:
        """Drop all programs."""
        self.programs: dict[str, tuple[Any, tuple]] = {}
        self.reference: Any = None
        jax.clear_caches()

    def prepare(self, name: str, case: dict, execute: bool = True) -> dict[str, Any]:
        """Compile a contender; return what it took, what XLA accounts, and how good it is."""
        program = prepare(self.family, Case(**case), name)
        wall, start = time.perf_counter(), time.process_time()
        compiled = program.run.lower(*program.args).compile()
        found = {'xla_s': time.process_time() - start, 'xla_wall_s': time.perf_counter() - wall}
        found |= {**program.notes, 'bytes': accounted_bytes(compiled)}
        if not execute:
            return found
        self.programs[name] = compiled, program.args
        result = jax.block_until_ready(compiled(*program.args))
        start = time.perf_counter()
        jax.block_until_ready(compiled(*program.args))
        return found | {'once_s': time.perf_counter() - start} | self.agreement(name, result)

    def agreement(self, name: str, result: Any) -> dict[str, float]:
        """Compare a gradient with that of backpropagation: cosine, and ratio of norms."""
        gradients = result[1] if isinstance(result, tuple) else result
        if not isinstance(gradients, dict):
            return {}
        vector = flat(gradients)
        if name == 'bptt':
            self.reference = vector
        if self.reference is None:
            return {}
        own, other = np.linalg.norm(vector), np.linalg.norm(self.reference)
        cosine = float(vector @ self.reference / (own * other))
        return {'cosine': cosine, 'norm_ratio': float(own / other)}

    def run(self, name: str, repeats: int) -> dict[str, float]:
        """Return the seconds that one call takes: on the clock, and of all processors."""
        compiled, args = self.programs[name]
        start = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            jax.block_until_ready(compiled(*args))
        end = time.perf_counter(), time.process_time()
        wall, cpu = ((b - a) / repeats for a, b in zip(start, end, strict=True))
        return {'step_s': wall, 'step_cpu_s': cpu}

    def bandwidth(self, megabytes: int) -> float:
        """Return the bytes per second of a large copy: what is read and what is written."""
        data = jax.numpy.ones((megabytes * 1024, 256), jax.numpy.float32)
        # in place: a fresh array would have to be given memory each time
        scale = jax.jit(lambda x: x * 1.0001, donate_argnums=0)
        data, times = jax.block_until_ready(scale(data)), []
        for _ in range(9):
            start = time.perf_counter()
            data = jax.block_until_ready(scale(data))
            times.append(time.perf_counter() - start)
        return 2 * data.nbytes / min(times)

    def trace_pass(self, sizes: dict, ways: list[str], steps: int, rounds: int) -> dict[str, Any]:
        """Time what a step does to a trace, in some ways; say how far the kernel is from XLA."""
        import _trace_pass  # needs our packages, and Pallas

        traced = _trace_pass.Sizes(**sizes)
        found: dict[str, Any] = {'bytes': traced.bytes}
        timed = {}
        for name in ways:
            try:
                timed[name] = _trace_pass.stopwatch(name, traced, steps)
            except Exception as reason:  # a kernel that does not compile is a finding, not an end
                found[name] = f'{type(reason).__name__}: {str(reason)[:200]}'
        turns = [{name: watch() for name, watch in timed.items()} for _ in range(rounds)]
        found |= {name: [turn[name] for turn in turns] for name in timed}
        if not isinstance(found.get('kernel', ''), str):
            found['disagreement'] = _trace_pass.disagreement(traced)
        return found

    def answer(self, do: str, **request: Any) -> Any:
        """Do what a request asks for."""
        if do == 'hello':
            device = jax.devices()[0]
            versions = {'jax': jax.__version__, 'brainstate': brainstate.__version__}
            return {'platform': device.platform, 'device': device.device_kind, **versions}
        return getattr(self, do)(**request)


def accounted_bytes(compiled: Any) -> dict[str, int]:
    """Return XLA's own account of a program's memory; `peak` is what it needs at once."""
    found = compiled.memory_analysis()
    kinds = ('argument', 'output', 'temp', 'alias')
    sizes = {kind: int(getattr(found, f'{kind}_size_in_bytes')) for kind in kinds}
    peak = sizes['argument'] + sizes['output'] + sizes['temp'] - sizes['alias']
    return {**sizes, 'peak': peak}


def flat(gradients: dict) -> np.ndarray:
    """Join gradients by parameter into one vector."""
    named = {'.'.join(map(str, k)) if isinstance(k, tuple) else k: g for k, g in gradients.items()}
    leaves = [leaf for name in sorted(named) for leaf in jax.tree.leaves(named[name])]
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)


def main(family: str) -> None:
    """Answer requests until the input ends."""
    # what libraries print goes elsewhere
    replies, sys.stdout = os.fdopen(os.dup(1), 'w', buffering=1), sys.stderr
    worker = Worker(family)
    with brainstate.environ.context(dt=1.0 * u.ms):
        for line in sys.stdin:
            try:
                reply = {'value': worker.answer(**json.loads(line))}
            except Exception as error:
                reply = {'error': f'{type(error).__name__}: {str(error)[:300]}'}
            print(json.dumps(reply), file=replies)


if __name__ == '__main__':
    main(*sys.argv[1:])
