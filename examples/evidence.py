"""Accumulate evidence and decide, with excitatory and inhibitory neurons that obey Dale's law.

Seven cues, one every 12 ms, come from the left or from the right. After a delay of 24 ms a signal
asks which side had more of them. The network has 64 excitatory and 16 inhibitory neurons, coupled
by conductances with reversal potentials; no weight changes its sign. The excitatory synapses are
slow (100 ms), as NMDA receptors are: that is where evidence can be kept.

The learning rate, one for all learners, is that of 3e-3 and 1e-2 which is better for the control
without a trace; the others do as well with either.

    python examples/evidence.py [--smoke] [--seed 0] [--seeds 3] [--out results]
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

DT = 2.0 * u.ms
CUES, CUE, PAUSE, DELAY, ANSWER = 7, 4, 2, 12, 6  # steps
STEPS = CUES * (CUE + PAUSE) + DELAY + ANSWER
LEFT, RIGHT, ASK, NOISY = range(4)
EACH, EXCITATORY, INHIBITORY, BATCH = 5, 64, 16, 32  # input neurons of each of the four kinds
RATE, NOISE = 0.4, 0.02  # spikes of an input neuron per step


def conductances(scale: float) -> brainstate.nn.init.KaimingNormal:
    """Draw weights with which the neurons fire, and not all of them all the time."""
    return brainstate.nn.init.KaimingNormal(scale=scale, unit=u.nS)


class Network(brainstate.nn.Module):
    """Neurons that excite or inhibit, and a leaky readout."""

    def __init__(self):
        super().__init__()
        self.neurons = etrace_nn.EICell(
            4 * EACH,
            EXCITATORY,
            INHIBITORY,
            w_init=conductances(0.3),
            exc_init=conductances(0.03),
            inh_init=conductances(2.0),
            tau_exc=100 * u.ms,
            tau_inh=10 * u.ms,
            dt=DT,
        )
        self.readout = etrace_nn.LeakyRateReadout(EXCITATORY, 2, tau=20 * u.ms, dt=DT)

    def update(self, spikes: Array) -> tuple[Array, Array]:
        own = self.neurons(spikes)
        return self.readout(own[..., :EXCITATORY]), own


def trials(seed: int, number: Array, length: Array) -> tuple[Array, Array, Array]:
    """Draw cues as spikes, and the side that had more of them."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 2)
    sides = jax.random.bernoulli(keys[0], shape=(CUES, BATCH)).astype(jnp.int32)
    time = jnp.arange(STEPS)
    cue, within = time // (CUE + PAUSE), time % (CUE + PAUSE) < CUE
    shown = (cue < CUES) & within
    side = jnp.where(shown[:, None], sides[jnp.minimum(cue, CUES - 1)], -1)  # (T, B)
    asked = jnp.broadcast_to((time >= STEPS - ANSWER)[:, None], side.shape)
    active = jnp.stack([side == 0, side == 1, asked, jnp.zeros_like(asked)], axis=-1)
    rates = jnp.repeat(jnp.where(active, RATE, NOISE), EACH, axis=-1)
    spikes = jax.random.bernoulli(keys[1], rates).astype(jnp.float32)
    labels = jnp.broadcast_to(sides.sum(axis=0) > CUES // 2, side.shape).astype(jnp.int32)
    return spikes, labels, (time >= STEPS - ANSWER).astype(jnp.float32)


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
        'E/I': Task(
            build=Network,
            data=partial(trials, seed),
            loss=loss,
            score=score,
            metric='accuracy',
            higher_is_better=True,
            chance=0.5,
            margin=0.02,
            updates=800,
            learning_rate=3e-3,
            evaluate_every=40,
            window=STEPS,
            tests=16,
        )
    }


if __name__ == '__main__':
    run('evidence', __doc__, tasks)
