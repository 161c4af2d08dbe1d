"""Copy a sequence of symbols from memory, longer and longer ones.

A network reads some symbols, then a signal, and has to repeat the symbols in order while nothing
else comes in. It begins with one symbol. As soon as the mean loss of 50 updates falls below 0.15
nats per symbol the sequence gets one symbol longer; the length that is reached is what counts.

Units of an LRU act on themselves alone, and D_RTRL is exact there. A GRU mixes its units.

The learning rate, one for all learners, was the best of 1e-3, 3e-3 and 1e-2 for most of them.

    python examples/copy_memory.py [--smoke] [--seed 0] [--seeds 3] [--out results]
"""

from dataclasses import replace
from functools import partial

import brainstate
import jax
import jax.numpy as jnp
import optax
from _common import Task, run
from jax import Array

import etrace_nn

SYMBOLS, BATCH, HIDDEN, LONGEST = 4, 16, 64, 20
WIDTH = SYMBOLS + 2  # one input for silence, and one for the signal
STEPS = 2 * LONGEST + 1


class Copier(brainstate.nn.Module):
    """Read a symbol, return logits of what to say."""

    def __init__(self, cell: type[brainstate.nn.Module]):
        super().__init__()
        self.rnn = cell(WIDTH, HIDDEN)
        self.readout = etrace_nn.Linear(self.rnn.out_size, SYMBOLS)

    def update(self, x: Array) -> Array:
        return self.readout(self.rnn(x))


def copy_batch(seed: int, number: Array, length: Array) -> tuple[Array, Array, Array]:
    """Draw sequences of a length; what is beyond `2 * length + 1` steps does not count."""
    key = jax.random.fold_in(jax.random.key(seed), number)
    symbols = jax.random.randint(key, (STEPS, BATCH), 0, SYMBOLS)
    time = jnp.arange(STEPS)[:, None]
    silence, signal = SYMBOLS, SYMBOLS + 1
    heard = jnp.where(time < length, symbols, jnp.where(time == length, signal, silence))
    said = jnp.roll(symbols, length + 1, axis=0)
    answers = (time[:, 0] > length) & (time[:, 0] <= 2 * length)
    return jax.nn.one_hot(heard, WIDTH), said, answers.astype(jnp.float32)


def score(logits: Array, said: Array, answers: Array) -> dict[str, Array]:
    """Measure the share of symbols that are right."""
    right = (jnp.argmax(logits, axis=-1) == said).mean(axis=1)
    return {'accuracy at this length': (right * answers).sum() / answers.sum()}


def longer(length: int, loss: float) -> int:
    """Choose the next length."""
    return min(length + (loss < 0.15), LONGEST)


def tasks(seed: int, smoke: bool) -> dict[str, Task]:
    """The same sequences for both cells."""
    task = Task(
        build=partial(Copier, etrace_nn.LRUCell),
        data=partial(copy_batch, seed),
        loss=optax.softmax_cross_entropy_with_integer_labels,
        score=score,
        metric='length',
        higher_is_better=True,
        chance=1,
        margin=0.5,
        updates=3000,
        learning_rate=3e-3,
        evaluate_every=50,
        window=STEPS,
        decays=False,
        length=1,
        next_length=longer,
    )
    gated = replace(task, build=partial(Copier, etrace_nn.GRUCell))
    return {'GRU': gated} if smoke else {'LRU': task, 'GRU': gated}


if __name__ == '__main__':
    run('copy_memory', __doc__, tasks)
