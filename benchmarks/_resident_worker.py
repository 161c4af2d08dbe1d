"""Run one contender over a long sequence and print the most memory that its process has had.

`python _resident_worker.py etrace d_rtrl/32 STEPS '{"batch": 4}'`. Inputs are drawn inside the
step from its number, so that no data lie in memory.
"""

import json
import resource
import sys
import warnings
from typing import Any

warnings.simplefilter('ignore')
warnings.filterwarnings('error', message='chunk_size=')

import brainstate  # noqa: E402
import brainunit as u  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from _contenders import compiled_learner  # noqa: E402
from _models import Case, Family  # noqa: E402


def run(family: Family, case: Case, name: str) -> Any:
    """Return the gradient over `case.steps` steps."""
    if name == 'bptt':
        return backprop(family, case)
    rule, _, window = name.partition('/')
    learner, _ = compiled_learner(family, case, rule, int(window), draw(case, 0))

    def step(number: Any) -> Any:
        return jnp.mean(learner(draw(case, number)) ** 2)

    return learner.etrace_grad(jnp.arange(case.steps), step_fn=step, chunk_size=int(window))


def backprop(family: Family, case: Case) -> Any:
    """Return the gradient by backpropagation through time, which keeps all steps."""
    model = family.build(case)
    brainstate.nn.init_all_states(model, case.batch)

    def step(number: Any) -> Any:
        return jnp.mean(model(draw(case, number)) ** 2)

    def total(numbers: Any) -> Any:
        return jnp.mean(brainstate.transform.for_loop(step, numbers))

    grad = brainstate.transform.grad(total, model.states(brainstate.ParamState))
    return brainstate.transform.jit(grad)(jnp.arange(case.steps))


def draw(case: Case, number: Any) -> Any:
    """Draw the input of a step from its number."""
    key = jax.random.fold_in(jax.random.key(0), number)
    return jax.random.normal(key, (case.batch, case.inputs))


def main(family: str, name: str, steps: str, sizes: str) -> None:
    """Run it once and print bytes."""
    with brainstate.environ.context(dt=1.0 * u.ms):
        case = Case(**json.loads(sizes), steps=int(steps))
        jax.block_until_ready(run(Family(family), case, name))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


if __name__ == '__main__':
    main(*sys.argv[1:])
