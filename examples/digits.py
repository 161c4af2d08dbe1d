"""Train a recurrent network online to read handwritten digits, and say what it costs.

A GRU sees an image of 8 x 8 pixels one row at a time and names the digit after the last row:
the loss, cross entropy, is taken at that row alone, so whatever a weight did at earlier rows
must be credited across time. Three online learners and backpropagation through time train the
same network: same initial weights, same batches, same number of updates.

    python examples/digits.py [--smoke] [--seed 0] [--out results/digits]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import etrace_algorithms as ea
import etrace_nn

ROWS, PIXELS, DIGITS, BATCH = 8, 8, 10, 30  # 360 test images are 12 batches
WINDOW = 4  # rows whose gradients are solved at once

LEARNERS = {  # name in the table: name of the algorithm, its options
    'D_RTRL': ('d_rtrl', {}),
    'pp_prop': ('pp_prop', {'decay_or_rank': 0.5}),
    'immediate': ('immediate', {}),
    'BPTT': (None, {}),
}


@dataclass(frozen=True)
class Settings:
    """What a run does."""

    seed: int = 0
    hidden: int = 64
    updates: int = 1880
    evaluate_every: int = 47  # one pass over the training images
    learning_rate: float = 4e-3
    memory_lengths: tuple[int, ...] = (8, 32, 128, 512, 2048)


class Reader(brainstate.nn.Module):
    """Read one row of pixels, return what digit it looks like so far."""

    def __init__(self, hidden: int):
        super().__init__()
        self.gru = etrace_nn.GRUCell(PIXELS, hidden)
        self.readout = etrace_nn.Linear(hidden, DIGITS)

    def update(self, row: Array) -> Array:
        return self.readout(self.gru(row))


def cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def online_gradient(model: Reader, algorithm: str, **options: Any) -> tuple[Callable, Any]:
    """Compile a learner; its gradient is made as the rows are read."""
    learner = ea.compile(model, algorithm, jnp.zeros((BATCH, PIXELS)), batch_size=BATCH, **options)

    def gradient(rows: Array, labels: Array) -> tuple[Any, Array]:
        learner.reset_state(BATCH)
        return ea.etrace_grad(
            learner,
            rows,
            step_fn=lambda row: cross_entropy(learner(row), labels),
            mask=jnp.zeros(len(rows)).at[-1].set(1.0),  # the loss of the last row counts
            chunk_size=WINDOW,
            return_value=True,
            loss_output='scalar',
        )

    return gradient, learner


def bptt_gradient(model: Reader) -> Callable:
    """Run over all rows, keep every activation, and go back through them."""
    brainstate.nn.init_all_states(model, BATCH)

    def gradient(rows: Array, labels: Array) -> tuple[Any, Array]:
        def loss() -> Array:
            brainstate.nn.reset_all_states(model, BATCH)
            return cross_entropy(brainstate.transform.for_loop(model, rows)[-1], labels)

        params = dict(model.states(brainstate.ParamState))
        return brainstate.transform.grad(loss, params, return_value=True)()

    return gradient


def make_train_step(model: Reader, gradient: Callable, settings: Settings) -> Callable:
    """Join gradient and optimiser into one compiled update."""
    params = dict(model.states(brainstate.ParamState))
    adam = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.updates))
    moments = brainstate.LongTermState(adam.init({k: p.value for k, p in params.items()}))

    @brainstate.transform.jit
    def train_step(rows: Array, labels: Array) -> Array:
        gradients, loss = gradient(rows, labels)
        updates, moments.value = adam.update(gradients, moments.value)
        for key, param in params.items():
            param.value = optax.apply_updates(param.value, updates[key])
        return loss

    return train_step


def make_network(name: str, settings: Settings) -> tuple[Reader, Callable, Any]:
    """Build the network with the initial weights that all learners share."""
    brainstate.random.seed(settings.seed)
    model = Reader(settings.hidden)
    algorithm, options = LEARNERS[name]
    if algorithm is None:
        return model, bptt_gradient(model), None
    return model, *online_gradient(model, algorithm, **options)


def train(name: str, data: dict[str, Any], settings: Settings, progress: Progress) -> dict:
    """Train from the shared beginning; return accuracy, time and the learning curve."""
    model, gradient, _ = make_network(name, settings)
    train_step = make_train_step(model, gradient, settings)
    accuracy_on = make_evaluation(model)
    curve: dict[str, list] = {'updates': [], 'loss': [], 'test_accuracy': []}
    seconds, losses, accuracy = [], [], 0.0
    bar = progress.add_task(name, total=settings.updates, now='compiling')
    for update, (rows, labels) in enumerate(batches(data, settings), start=1):
        start = time.perf_counter()
        losses.append(float(train_step(rows, labels)))  # waits for the result
        seconds.append(time.perf_counter() - start)
        loss = float(np.mean(losses[-settings.evaluate_every :]))
        if update % settings.evaluate_every == 0 or update == settings.updates:
            accuracy = float(accuracy_on(*data['test']))
            for key, value in zip(curve, (update, loss, accuracy), strict=True):
                curve[key].append(value)
        progress.update(bar, advance=1, now=f'loss {loss:.3f}   test accuracy {accuracy:.3f}')
    return {
        'test_accuracy': accuracy,
        'ms_per_step': 1e3 * float(np.median(seconds[2:])) / ROWS,  # the first ones compile
        'seconds': sum(seconds),
        'curve': curve,
    }


def make_evaluation(model: Reader) -> Callable:
    """Measure the share of digits that are right after the last row."""

    def right(rows: Array, labels: Array) -> Array:
        brainstate.nn.reset_all_states(model, BATCH)
        logits = brainstate.transform.for_loop(model, rows)[-1]
        return jnp.mean(jnp.argmax(logits, axis=-1) == labels)

    return brainstate.transform.jit(
        lambda *test: brainstate.transform.for_loop(right, *test).mean()
    )


def probe(name: str, data: dict[str, Any], settings: Settings) -> tuple[np.ndarray, dict]:
    """Measure the direction of the gradient of one batch at the initial weights, and its memory."""
    _, gradient, learner = make_network(name, settings)
    compiled = brainstate.transform.jit(gradient)
    gradients, _ = compiled(*next(batches(data, settings)))
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(dict(gradients))])
    traces = jax.tree.leaves(learner.etrace.value) if learner else []
    memory = {}
    for length in settings.memory_lengths:
        rows = jax.ShapeDtypeStruct((length, BATCH, PIXELS), jnp.float32)
        labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
        stats = compiled.compile(rows, labels).memory_analysis()
        memory[str(length)] = stats.temp_size_in_bytes + stats.output_size_in_bytes
    trace_bytes = sum(leaf.nbytes for leaf in traces)
    return flat / np.linalg.norm(flat), {'trace_bytes': trace_bytes, 'memory_bytes': memory}


def load() -> dict[str, Any]:
    """Load 1437 images to train on, and 360 to test on in batches with time first."""
    images, labels = load_digits(return_X_y=True)
    rows = (images / 16).astype(np.float32).reshape(-1, ROWS, PIXELS)
    rows, test_rows, labels, test_labels = train_test_split(
        rows, labels.astype(np.int32), test_size=0.2, random_state=0, stratify=labels
    )
    test_rows = test_rows.reshape(-1, BATCH, ROWS, PIXELS).swapaxes(1, 2)
    test = jnp.asarray(test_rows), jnp.asarray(test_labels.reshape(-1, BATCH))
    return {'train': (rows, labels), 'test': test}


def batches(data: dict[str, Any], settings: Settings) -> Iterator[tuple[Array, Array]]:
    """Draw the batches: the same ones, in the same order, for every learner."""
    random = np.random.default_rng(settings.seed)
    (rows, labels), order = data['train'], np.empty(0, int)
    for _ in range(settings.updates):
        if len(order) < BATCH:
            order = random.permutation(len(labels))
        chosen, order = order[:BATCH], order[BATCH:]
        yield jnp.asarray(rows[chosen].swapaxes(0, 1)), jnp.asarray(labels[chosen])


def make_table(results: dict[str, dict], settings: Settings) -> Table:
    """Lay out the numbers of all learners."""
    short, long = settings.memory_lengths[0], settings.memory_lengths[-1]
    table = Table('learner', title=f'Handwritten digits, {settings.updates} updates each')
    for title in ('test\naccuracy', 'ms\nper step', 'trace\nbytes', f'memory,\nT={short}',
                  f'memory,\nT={long}', 'gradient cosine\nto BPTT'):  # fmt: skip
        table.add_column(title, justify='right')
    for name, result in results.items():
        accuracy, cosine = result['test_accuracy'], result['gradient_cosine_to_bptt']
        trace = f'{result["trace_bytes"]:,}' if LEARNERS[name][0] else 'no trace'
        memory = [f'{result["memory_bytes"][str(t)] / 1e6:.2f} MB' for t in (short, long)]
        time_per_step = f'{result["ms_per_step"]:.2f}'
        table.add_row(name, f'{accuracy:.3f}', time_per_step, trace, *memory, f'{cosine:.3f}')
    return table


NOTES = """
A step is one row of a batch, its share of the optimiser included. The trace is what an online \
learner carries from step to step. Memory is what XLA reserves for the gradient over sequences of \
T rows, temporaries and results; for BPTT that is its stored activations. The cosine is that of \
one batch at the initial weights. `immediate` carries nothing: it is the control that a trace must \
beat. On 360 test images, and with one seed, differences of 0.02 may be chance.
"""


def draw(results: dict[str, dict], path: Path) -> None:
    """Draw the learning curves, and memory against the length of the sequence."""
    colours = {'BPTT': '#000000', 'D_RTRL': '#0072B2', 'pp_prop': '#D55E00', 'immediate': '#009E73'}
    figure = Figure(figsize=(10.5, 4.2), layout='constrained')
    left, right = figure.subplots(1, 2)
    for name, result in results.items():
        colour, curve = colours[name], result['curve']
        style = {'color': colour, 'ls': '-' if LEARNERS[name][0] else '--', 'lw': 1.8}
        left.plot(curve['updates'], curve['test_accuracy'], label=name, **style)
        lengths = [int(length) for length in result['memory_bytes']]
        memory = [size / 1e6 for size in result['memory_bytes'].values()]
        right.plot(lengths, memory, marker='o', ms=4, **style)
        text = {'color': colour, 'textcoords': 'offset points', 'va': 'center'}
        right.annotate(f'{memory[-1]:.3g} MB', (lengths[-1], memory[-1]), (7, 0), **text)
    left.set(title='Learning to read digits', xlabel='updates', ylabel='test accuracy')
    left.set(xlim=0, ylim=(None, 1))
    left.legend(frameon=False)
    right.set(title='Memory of one gradient', xlabel='length of the sequence (steps)')
    right.set(ylabel='memory (MB)', xscale='log', yscale='log')
    right.set_xticks(lengths, map(str, lengths))
    right.minorticks_off()
    right.yaxis.set_major_formatter('{x:g}')
    for axes in (left, right):
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train with every learner, then report."""
    parser = argparse.ArgumentParser(description='Train a GRU online on handwritten digits.')
    parser.add_argument('--smoke', action='store_true', help='a few updates, to see that it runs')
    parser.add_argument('--seed', type=int, default=0, help='of initial weights and batches')
    parser.add_argument('--out', type=Path, default=Path('results/digits'), help='folder to write')
    options = parser.parse_args()
    settings = Settings(seed=options.seed)
    if options.smoke:
        settings = Settings(options.seed, 16, 6, 3, memory_lengths=(8, 64))

    console, data, results, gradients = Console(), load(), {}, {}
    with Progress(TextColumn('{task.description:10}'), BarColumn(), MofNCompleteColumn(),
                  TextColumn('{task.fields[now]}'), console=console) as progress:  # fmt: skip
        for name in LEARNERS:
            results[name] = train(name, data, settings, progress)
        bar = progress.add_task('measuring', total=len(LEARNERS), now='gradients and memory')
        for name in LEARNERS:
            gradients[name], costs = probe(name, data, settings)
            progress.advance(bar)
            results[name] |= costs
    for name, result in results.items():
        result['gradient_cosine_to_bptt'] = float(gradients[name] @ gradients['BPTT'])

    options.out.mkdir(parents=True, exist_ok=True)
    table, figure = options.out / 'digits.json', options.out / 'digits.png'
    numbers = {'settings': asdict(settings), 'batch': BATCH, 'jax': jax.__version__}
    table.write_text(json.dumps(numbers | {'learners': results}, indent=2))
    draw(results, figure)
    console.print(make_table(results, settings), NOTES, sep='\n')
    console.print(f'Figure:  {figure.resolve()}\nNumbers: {table.resolve()}', soft_wrap=True)


if __name__ == '__main__':
    main()
