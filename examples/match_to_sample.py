"""Say whether two stimuli match that are a delay apart, with adaptive spiking neurons.

A stimulus makes four of eight input neurons fire for 50 ms: the sample. After a delay of 300 ms
with nothing but noise a second one comes, the test, and in its last 25 ms the network has to say
whether it was the same one. When the answer is due the sample is in no input any more, and
neither stimulus alone says anything. There are 64 recurrent neurons; their threshold rises with
every spike.

The learning rate, one for all learners, is that of 1e-3, 3e-3 and 1e-2 which is best for the
control without a trace; 3e-3 is as good for the others, and much worse for the control.

    python examples/match_to_sample.py [--smoke] [--seed 0] [--seeds 3] [--out results]
"""

from functools import partial
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import optax
from _common import Task, run
from jax import Array

import etrace_nn

DT = 5.0 * u.ms
STIMULUS, DELAY, ANSWER = 10, 60, 5  # steps
STEPS = 2 * STIMULUS + DELAY
CHANNELS, NEURONS, BATCH = 8, 64, 32
RATE, NOISE = 0.5, 0.02  # spikes of an input neuron per step


class Network(brainstate.nn.Module):
    """Recurrent adaptive neurons and a leaky readout."""

    def __init__(self):
        super().__init__()
        self.neurons = etrace_nn.ALIFExponCell(
            CHANNELS,
            NEURONS,
            w_init=brainstate.nn.init.KaimingNormal(scale=6.0, unit=u.mA),
            rec_init=brainstate.nn.init.KaimingNormal(scale=1.0, unit=u.mA),
            tau_g=10 * u.ms,
            tau=20 * u.ms,
            tau_a=300 * u.ms,
            beta=0.3 * u.mV,
            dt=DT,
        )
        self.readout = etrace_nn.LeakyRateReadout(NEURONS, 2, tau=20 * u.ms, dt=DT)

    def update(self, spikes: Array) -> tuple[Array, Array]:
        own = self.neurons(spikes)
        return self.readout(own), own


def trials(seed: int, number: Array, length: Array) -> tuple[Array, Array, Array]:
    """Draw pairs of stimuli as spikes, and whether they match."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 2)
    sample, test = jax.random.bernoulli(keys[0], shape=(2, BATCH))
    time = jnp.arange(STEPS)[:, None]
    shown = jnp.where(time < STIMULUS, sample, test)
    present = (time < STIMULUS) | (time >= STIMULUS + DELAY)
    own = (jnp.arange(CHANNELS) < CHANNELS // 2) == shown[..., None]
    rates = jnp.where(own & present[..., None], RATE, NOISE)
    spikes = jax.random.bernoulli(keys[1], rates).astype(jnp.float32)
    labels = jnp.broadcast_to(sample == test, (STEPS, BATCH)).astype(jnp.int32)
    return spikes, labels, (time[:, 0] >= STEPS - ANSWER).astype(jnp.float32)


def loss(output: Any, label: Array) -> Array:
    """Cross entropy of the readout."""
    return optax.softmax_cross_entropy_with_integer_labels(output[0], label)


def score(outputs: Any, labels: Array, mask: Array) -> dict[str, Array]:
    """Measure what is right at the end, and how much the neurons fire."""
    right = jnp.argmax(outputs[0][-1], axis=-1) == labels[-1]
    return {'accuracy': right.mean(), 'spikes per neuron and step': outputs[1].mean()}


def tasks(seed: int, smoke: bool) -> dict[str, Task]:
    """Trials without end."""
    return {
        'ALIF': Task(
            build=Network,
            data=partial(trials, seed),
            loss=loss,
            score=score,
            metric='accuracy',
            higher_is_better=True,
            chance=0.5,
            margin=0.02,
            updates=600,
            learning_rate=1e-2,
            evaluate_every=30,
            window=STEPS,
            tests=16,
        )
    }


if __name__ == '__main__':
    run('match_to_sample', __doc__, tasks)
