"""Predict the Mackey-Glass series, one step ahead, from a single endless stream.

The series solves dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t), is chaotic, and is
sampled every 6 units of time. A network of 64 states reads one number per step. Nothing is ever
reset: there is one stream, and no batch. The weights are updated every 10 steps, and
backpropagation goes back to the update before; the online learners have no such limit. The error
is that on a later stretch of the series, with fixed weights, over the variance of the series
(NMSE). Guessing is to repeat the last number.

In a plain recurrent network no state is carried on by itself, only through the recurrent weights:
D_RTRL has nothing to keep there and is the control. SnAp-1 and exact RTRL, of the package
etrace-snap, follow the recurrent weights as well; published for such a network of 64 units are
0.005 and 0.018, of a series that need not be sampled as this one is. Units of an RTU act on
themselves alone: there D_RTRL is exact RTRL.

One learning rate serves all learners and networks. It was chosen among 1e-3, 3e-3 and 1e-2 in
trials with some of them, without SnAp-1 and RTRL; none has a rate of its own.

    python examples/mackey_glass.py [--smoke] [--seed 0] [--seeds 3] [--out results]
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
from _common import Task, run
from jax import Array

import etrace_nn

HIDDEN, EVERY, UPDATES = 64, 10, 5000
TEST, WARM_UP = 2000, 200
FINE = 10  # steps of the solver per unit of time
DELAY, SPACING = 17 * FINE, 6 * FINE

PUBLISHED = {'SnAp-1': ('snap', {'n': 1}), 'RTRL': ('rtrl', {})}  # of the package etrace-snap
CELLS = {
    'RNN': lambda: etrace_nn.VanillaRNNCell(1, HIDDEN, activation='tanh'),
    'GRU': lambda: etrace_nn.GRUCell(1, HIDDEN),
    'LSTM': lambda: etrace_nn.LSTMCell(1, HIDDEN),
    'RTU': lambda: etrace_nn.RTUCell(1, HIDDEN // 2),  # pairs of states
}


class Predictor(brainstate.nn.Module):
    """Read one number, predict the next."""

    def __init__(self, cell: Callable[[], brainstate.nn.Module]):
        super().__init__()
        self.rnn = cell()
        self.readout = etrace_nn.Linear(HIDDEN, 1)

    def update(self, x: Array) -> Array:
        return self.readout(self.rnn(x))


def mackey_glass(length: int, seed: int) -> np.ndarray:
    """Solve the equation by the Runge-Kutta method, from a random past; scale to variance 1."""
    past = 1.2 + 0.2 * (np.random.default_rng(seed).random(DELAY + 1) - 0.5)

    def slope(x: Array, late: Array) -> Array:
        return 0.2 * late / (1 + late**10) - 0.1 * x

    def step(past: Array, _: None) -> tuple[Array, Array]:
        x, late, later = past[-1], past[0], past[1]
        h, middle = 1 / FINE, (late + later) / 2
        a = slope(x, late)
        b = slope(x + h / 2 * a, middle)
        c = slope(x + h / 2 * b, middle)
        d = slope(x + h * c, later)
        new = x + h / 6 * (a + 2 * b + 2 * c + d)
        return jnp.append(past[1:], new), new

    lead_in = 500
    _, xs = jax.lax.scan(step, jnp.asarray(past), length=(lead_in + length) * SPACING)
    xs = np.asarray(xs)[lead_in * SPACING :: SPACING]
    return (xs - xs.mean()) / xs.std()


def tasks(seed: int, smoke: bool) -> dict[str, Task]:
    """One stream to learn from, and a later stretch of it to be tested on."""
    updates = 15 if smoke else UPDATES
    series = mackey_glass(updates * EVERY + TEST + 1, seed)
    persistence = float(np.mean(np.diff(series[-TEST:]) ** 2))
    stream = jnp.asarray(series, jnp.float32)[:, None, None]  # one number, a batch of one
    everything, later = jnp.ones(EVERY), jnp.arange(TEST) >= WARM_UP

    def data(update: Array, length: Array) -> tuple[Array, Array, Array]:
        piece = jax.lax.dynamic_slice_in_dim(stream, update * EVERY, EVERY + 1)
        return piece[:-1], piece[1:], everything

    def test(number: Array, length: Array) -> tuple[Array, Array, Array]:
        piece = stream[-TEST - 1 :]
        return piece[:-1], piece[1:], later

    def score(outputs: Array, targets: Array, mask: Array) -> dict[str, Array]:
        errors = mask[:, None, None] * (outputs - targets) ** 2
        return {'NMSE': errors.sum() / mask.sum()}

    task = Task(
        build=Predictor,
        data=data,
        loss=lambda output, target: ((output - target) ** 2).sum(axis=-1),
        score=score,
        metric='NMSE',
        higher_is_better=False,
        chance=persistence,
        margin=0.1,
        updates=updates,
        learning_rate=3e-3,
        evaluate_every=updates // 20,
        window=EVERY,
        test=test,
        tests=1,
        resets=False,
        log=True,
    )
    if smoke:
        return {'GRU': replace(task, build=partial(Predictor, CELLS['GRU']))}
    networks = {name: replace(task, build=partial(Predictor, CELLS[name])) for name in CELLS}
    return networks | {'RNN': replace(networks['RNN'], others=PUBLISHED)}


if __name__ == '__main__':
    run('mackey_glass', __doc__, tasks)
