"""Predict the next character of Python's own documentation, from sixteen endless streams.

The text is that of `pydoc_data.topics`, which ships with Python: what `help('if')` prints. An LSTM
of 96 units reads sixteen places of the text at once and predicts the next character of each. The
weights are updated every 32 characters; neither states nor traces are reset, and backpropagation
goes back to the update before. What counts are bits per character on the last tenth of the text,
which is not trained on. Guessing is by the frequency of the characters.

The learning rate is one for all learners, chosen without a search.

    python examples/characters.py [--smoke] [--seed 0] [--seeds 3] [--out results]
"""

import string
from pydoc_data.topics import topics

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import Task, run
from jax import Array

import etrace_nn

ALPHABET = ' \n' + string.ascii_lowercase + string.digits + string.punctuation
HIDDEN, STREAMS, EVERY, TEST, WARM_UP = 96, 16, 32, 400, 40


class Reader(brainstate.nn.Module):
    """Read a character, return logits of the next one."""

    def __init__(self, hidden: int):
        super().__init__()
        self.rnn = etrace_nn.LSTMCell(len(ALPHABET), hidden)
        self.readout = etrace_nn.Linear(hidden, len(ALPHABET))

    def update(self, character: Array) -> Array:
        return self.readout(self.rnn(jax.nn.one_hot(character, len(ALPHABET))))


def read_text() -> tuple[np.ndarray, np.ndarray]:
    """Return the text to learn from and the text to be tested on, as places in the alphabet."""
    text = ''.join(topics[name] for name in sorted(topics)).lower()
    place = {character: number for number, character in enumerate(ALPHABET)}
    numbers = np.array([place[character] for character in text if character in place])
    cut = len(numbers) * 9 // 10
    return numbers[:cut], numbers[cut:]


def in_streams(numbers: np.ndarray) -> Array:
    """Cut a text into streams of one length, `(time, streams)`."""
    length = len(numbers) // STREAMS
    return jnp.asarray(numbers[: length * STREAMS].reshape(STREAMS, length).T, jnp.int32)


def bits_of(counts: np.ndarray, of: np.ndarray) -> float:
    """Bits per event that a table of counts, of which rows are histories, needs."""
    shares = (counts + 0.1) / (counts + 0.1).sum(axis=-1, keepdims=True)
    return float(-(of * np.log2(shares)).sum() / of.sum())


def tasks(seed: int, smoke: bool) -> dict[str, Task]:
    """All seeds read the same text, and begin at different places of it."""
    train, test = read_text()
    size = len(ALPHABET)
    pairs = [np.zeros((size, size)) for _ in range(2)]
    for table, text in zip(pairs, (train, test), strict=True):
        np.add.at(table, (text[:-1], text[1:]), 1)
    streams = in_streams(np.roll(train, -1000 * seed))
    later = in_streams(test)[: TEST + 1]
    passes = len(streams) // EVERY

    def data(update: Array, length: Array) -> tuple[Array, Array, Array]:
        start = (update % (passes - 1)) * EVERY
        piece = jax.lax.dynamic_slice_in_dim(streams, start, EVERY + 1)
        return piece[:-1], piece[1:], jnp.ones(EVERY)

    def score(logits: Array, targets: Array, mask: Array) -> dict[str, Array]:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(axis=1)
        return {'bits per character': (losses * mask).sum() / mask.sum() / jnp.log(2)}

    return {
        'LSTM': Task(
            build=lambda: Reader(8 if smoke else HIDDEN),
            data=data,
            loss=optax.softmax_cross_entropy_with_integer_labels,
            score=score,
            metric='bits per character',
            higher_is_better=False,
            chance=bits_of(pairs[0].sum(axis=0), pairs[1].sum(axis=0)),
            margin=0.01,
            updates=2000,
            learning_rate=1e-2,
            evaluate_every=100,
            window=EVERY,
            test=lambda *_: (later[:-1], later[1:], jnp.arange(TEST) >= WARM_UP),
            tests=1,
            resets=False,
            references={'pairs of characters': bits_of(*pairs)},
        )
    }


if __name__ == '__main__':
    run('characters', __doc__, tasks)
