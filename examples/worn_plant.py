"""Adapt a frozen recurrent network to a plant that has worn, with matrices of low rank.

A mass on a spring that stiffens is pushed at random; a GRU of 48 units sees the force and predicts
the position. It is trained on the plant as it was, by 1500 updates of backpropagation through
time, and then frozen. With wear the spring has become softer and the friction higher. Beside each
frozen matrix of the GRU stands a product of two matrices of rank 4 (LoRA), zero at first; these
and the readout adapt, with 600 updates. What counts is the error over the variance of the
position (NMSE). Guessing is what the frozen network makes of the worn plant.

The learning rate, one for all learners, is the better of 3e-3 and 1e-2 for all but the control
without a trace, which it suits a little less (0.061 against 0.051, on one seed).

    python examples/worn_plant.py [--smoke] [--seed 0] [--seeds 3] [--out results]
"""

from dataclasses import replace
from functools import partial

import brainstate
import jax
import jax.numpy as jnp
from _common import Task, bptt_gradient, make_evaluation, make_training, run
from jax import Array

import etrace_nn

STEPS, WARM_UP, BATCH, RANK = 60, 10, 16, 4
DT, HELD = 0.25, 6  # time of a step; steps for which a force stays the same
NEW = {'stiffness': 1.0, 'hardening': 0.5, 'friction': 0.3}
WORN = {'stiffness': 0.5, 'hardening': 0.5, 'friction': 0.6}


class Frozen(brainstate.State):
    """A parameter that no learner sees."""


class Model(brainstate.nn.Module):
    """See a force, predict a position."""

    def __init__(self, hidden: int):
        super().__init__()
        self.rnn = etrace_nn.GRUCell(1, hidden)
        self.readout = etrace_nn.Linear(hidden, 1)

    def update(self, force: Array) -> Array:
        return self.readout(self.rnn(force))

    def freeze(self) -> 'Model':
        """Keep the recurrent matrices as they are, with a low rank beside each."""
        self.rnn.Wrz, self.rnn.Wh = map(beside, (self.rnn.Wrz, self.rnn.Wh))
        return self


def beside(matrix: etrace_nn.Linear) -> etrace_nn.LoRA:
    """Put a product of low rank beside a frozen matrix."""
    (size_in,), (size_out,) = matrix.in_size, matrix.out_size
    matrix.weight = Frozen(matrix.weight.value)
    both = etrace_nn.LoRA(size_in, RANK, size_out, base_module=matrix)
    both.weight.value |= {'lora_b': jnp.zeros((RANK, size_out))}
    return both


def plant(properties: dict[str, float], seed: int, number: Array, length: Array) -> tuple:
    """Push the plant at random; return forces, positions, and the steps that count."""
    key = jax.random.fold_in(jax.random.key(seed), number)
    forces = jnp.repeat(jax.random.normal(key, (STEPS // HELD, BATCH, 1)), HELD, axis=0)
    stiffness, hardening, friction = properties.values()

    def step(state: tuple[Array, Array], force: Array) -> tuple[tuple[Array, Array], Array]:
        position, speed = state
        pull = stiffness * position + hardening * position**3 + friction * speed
        speed = speed + DT * (force - pull)
        position = position + DT * speed
        return (position, speed), position

    rest = jnp.zeros((BATCH, 1))
    _, positions = jax.lax.scan(step, (rest, rest), forces)
    return forces, positions, (jnp.arange(STEPS) >= WARM_UP).astype(jnp.float32)


def score(outputs: Array, targets: Array, mask: Array) -> dict[str, Array]:
    """Measure the error over the variance."""
    weights = mask[:, None, None]
    spread = (weights * targets**2).sum()
    return {'NMSE': (weights * (outputs - targets) ** 2).sum() / spread}


def make_task(seed: int, hidden: int) -> Task:
    """The plant as it was, learned from nothing."""
    return Task(
        build=lambda: Model(hidden),
        data=partial(plant, NEW, seed),
        loss=lambda output, target: ((output - target) ** 2).sum(axis=-1),
        score=score,
        metric='NMSE',
        higher_is_better=False,
        chance=1.0,
        margin=0.1,
        updates=1500,
        learning_rate=3e-3,
        evaluate_every=500,
        window=STEPS,
        log=True,
    )


def tasks(seed: int, smoke: bool) -> dict[str, Task]:
    """Train on the plant as it was; hand the frozen network to every learner, on the worn one."""
    before = make_task(seed, hidden=8).for_smoke() if smoke else make_task(seed, hidden=48)
    brainstate.random.seed(seed)
    model = before.build()
    gradient = bptt_gradient(model, before)
    make_training(model, gradient, before)(jnp.arange(before.updates), 0)
    weights = {key: state.value for key, state in model.states(brainstate.ParamState).items()}

    def build() -> Model:
        model = before.build()
        for key, state in model.states(brainstate.ParamState).items():
            state.value = weights[key]
        return model.freeze()

    after = replace(
        before,
        build=build,
        data=partial(plant, WORN, seed),
        updates=600,
        learning_rate=1e-2,
        evaluate_every=50,
    )
    was, now = (float(make_evaluation(model, task)(0)['NMSE']) for task in (before, after))
    return {'GRU with LoRA': replace(after, chance=now, references={'before the wear': was})}


if __name__ == '__main__':
    run('worn_plant', __doc__, tasks)
