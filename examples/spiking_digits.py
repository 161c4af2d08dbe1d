"""Tell handwritten digits apart that come as Poisson spikes, with convolutions and spiking neurons.

An image of 8 x 8 pixels of the set that comes with scikit-learn is shown for 16 steps; at each
a pixel spikes with a probability that is its brightness. Two convolutions, each in front of
leaky integrate-and-fire neurons, and a leaky readout learn to name the digit; the loss is taken
at the last 4 steps. There are no recurrent weights: all memory is in potentials.

The learning rate is one for all learners, and was not searched for.

    python examples/spiking_digits.py [--smoke] [--seed 0] [--seeds 3] [--out results]
"""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import Task, run
from jax import Array
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import etrace_nn

DT = 1.0 * u.ms
STEPS, COUNTED, BATCH, DIGITS, CHANNELS = 16, 4, 36, 10, 8


class Network(brainstate.nn.Module):
    """Two layers of spiking neurons behind convolutions, and a readout."""

    def __init__(self):
        super().__init__()
        scale = brainstate.nn.init.KaimingNormal(scale=40.0, unit=u.mA)
        self.first = etrace_nn.Conv2d((8, 8, 1), CHANNELS, 3, w_init=scale)
        self.early = etrace_nn.LIF((8, 8, CHANNELS), tau=8 * u.ms, dt=DT)
        shape = (8, 8, CHANNELS)
        self.second = etrace_nn.Conv2d(shape, 2 * CHANNELS, 3, stride=2, w_init=scale)
        self.late = etrace_nn.LIF((4, 4, 2 * CHANNELS), tau=8 * u.ms, dt=DT)
        self.readout = etrace_nn.LeakyRateReadout(32 * CHANNELS, DIGITS, tau=8 * u.ms, dt=DT)

    def update(self, spikes: Array) -> tuple[Array, Array, Array]:
        early = self.early(self.first(spikes))
        late = self.late(self.second(early))
        return self.readout(late.reshape(len(late), -1)), early.mean(), late.mean()


def loss(output: Any, label: Array) -> Array:
    """Cross entropy of the readout."""
    return optax.softmax_cross_entropy_with_integer_labels(output[0], label)


def score(outputs: Any, labels: Array, mask: Array) -> dict[str, Array]:
    """Measure what is right at the end, and how much the neurons fire."""
    logits, early, late = outputs
    right = jnp.argmax((logits * mask[:, None, None]).sum(axis=0), axis=-1) == labels[0]
    firing = {'spikes, first layer': early.mean(), 'spikes, second layer': late.mean()}
    return {'accuracy': right.mean(), **firing}


def tasks(seed: int, smoke: bool) -> dict[str, Task]:
    """1437 images to learn from, 360 to be tested on."""
    batch = 4 if smoke else BATCH
    images, labels = load_digits(return_X_y=True)
    brightness = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    parts = train_test_split(
        brightness, labels.astype(np.int32), test_size=360, random_state=0, stratify=labels
    )
    images, test_images, labels, test_labels = map(jnp.asarray, parts)
    mask = (jnp.arange(STEPS) >= STEPS - COUNTED).astype(jnp.float32)

    def as_spikes(key: Array, images: Array, labels: Array) -> tuple[Array, Array, Array]:
        spikes = jax.random.bernoulli(key, images, (STEPS, *images.shape))
        return spikes.astype(jnp.float32), jnp.broadcast_to(labels, (STEPS, batch)), mask

    def data(update: Array, length: Array) -> tuple[Array, Array, Array]:
        key = jax.random.fold_in(jax.random.key(seed), update)
        chosen = jax.random.choice(key, len(labels), (batch,), replace=False)
        return as_spikes(key, images[chosen], labels[chosen])

    def test(number: Array, length: Array) -> tuple[Array, Array, Array]:
        key = jax.random.fold_in(jax.random.key(seed + 1000), number)
        start = number * batch
        pieces = (jax.lax.dynamic_slice_in_dim(x, start, batch) for x in (test_images, test_labels))
        return as_spikes(key, *pieces)

    return {
        'convolutions': Task(
            build=Network,
            data=data,
            loss=loss,
            score=score,
            metric='accuracy',
            higher_is_better=True,
            chance=0.1,
            margin=0.01,
            updates=240,
            learning_rate=3e-3,
            evaluate_every=24,
            window=STEPS,
            test=test,
            tests=360 // batch,
        )
    }


if __name__ == '__main__':
    run('spiking_digits', __doc__, tasks)
