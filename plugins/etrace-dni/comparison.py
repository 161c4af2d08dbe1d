"""Print how fitted synthetic gradients compare with backpropagation: `python comparison.py`.

Models, sequences and losses are those of the comparisons of all learners. A predictor is fitted
on random episodes of the same length; the gradient is that of another one.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from etrace_algorithms.testing import gradient_alignment
from etrace_algorithms.testing.compare import BATCH, MODELS, SIZES, STEPS
from etrace_algorithms.testing.probe import Probe, loss_of
from etrace_dni import Predictor, SyntheticGradients

WINDOW, EPISODES = 5, 200


def episode(seed: int) -> Any:
    """Make the inputs of one episode."""
    xs = np.random.default_rng(seed).normal(size=(STEPS, BATCH, SIZES[0]))
    return jnp.asarray(xs, jnp.float32)


def compare(model: str, width: int | None) -> Iterator[tuple[float, float]]:
    """Yield cosine and ratio of norms before and after a predictor is fitted."""
    probe = Probe(MODELS[model](*SIZES), episode(1), dtype=jnp.float32)
    predictor = Predictor(width=width, episode=STEPS)
    learner = probe.vmapped(SyntheticGradients, predictor=predictor)
    relations = learner.graph.hidden_param_op_relations
    driving = {path for r in relations for path in r.trainable_paths}
    exact = {p: g for p, g in probe.backpropagated().items() if p in driving}

    def step(x: Any) -> Any:
        return loss_of(learner(x))

    def run(method: Any, xs: Any, **options: Any) -> Any:
        probe.restart(learner)
        learner.running_index.value = jnp.zeros((), jnp.int32)
        return method(xs, step_fn=step, chunk_size=WINDOW, **options)

    def alignment() -> tuple[float, float]:
        found = run(learner.etrace_grad, probe.xs, reduction='sum')
        return gradient_alignment({path: found[path] for path in exact}, exact)

    yield alignment()
    for seed in range(EPISODES):
        run(learner.fit, episode(100 + seed))
    yield alignment()


def main() -> None:
    """Print a table."""
    print('| model | not fitted | linear | hidden layer of 64 |\n| --- | --- | --- | --- |')
    for model in MODELS:
        (truncated, linear), (_, deep) = compare(model, None), compare(model, 64)
        cells = (f'{cosine:.2f}, {ratio:.2f}' for cosine, ratio in (truncated, linear, deep))
        print(f'| {model} | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
    main()
