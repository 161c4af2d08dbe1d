"""Run one contender and compare the memory that its process takes with what was planned for it.

`python _planned_worker.py d_rtrl/32 '{"batch": 64, "hidden": 512}'`. Linux tells the most memory
that a process has had since it was last asked; elsewhere there is nothing to print.
"""

import json
import re
import sys
import warnings
from pathlib import Path

warnings.simplefilter('ignore')

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from _contenders import compiled_learner, step_of  # noqa: E402
from _models import Case, Family, make_data  # noqa: E402

STATUS, REFERENCES = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def resident(kind: str) -> int:
    """Bytes of this process in memory: `VmRSS` now, `VmHWM` at most since the last reset."""
    found = re.search(rf'{kind}:\s+(\d+) kB', STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])


def main(name: str, sizes: str) -> None:
    """Plan it, run it, print both numbers of bytes."""
    family, case = Family('etrace'), Case(**json.loads(sizes))
    rule, _, window = name.partition('/')
    data = make_data(case)
    learner, _ = compiled_learner(family, case, rule, int(window), data[0][0])
    options = {'step_fn': step_of(family, learner, int(window)), 'chunk_size': int(window)}
    plan = learner.peak_memory(*data, **options)  # compiles: that takes memory of its own
    jax.block_until_ready((learner.etrace.value, jax.jit(jnp.dot)(*[jnp.ones((512, 512))] * 2)))
    if not (STATUS.exists() and REFERENCES.exists()):
        print(json.dumps(None))
        return
    REFERENCES.write_text('5')
    before = resident('VmRSS')
    jax.block_until_ready(learner.etrace_grad(*data, **options))
    measured = plan.arguments + resident('VmHWM') - before
    print(json.dumps({'planned': plan.total, 'measured': measured}))


if __name__ == '__main__':
    main(*sys.argv[1:])
