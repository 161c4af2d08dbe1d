"""What the examples share: training by the name of a learner, progress, table, figure, JSON.

An example says what is learned (`Task`) and by which network. Here every learner gets the same
initial weights, the same batches and the same number of updates, and what came out is said in
words that are computed from the figures.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import etrace_algorithms as ea

CONTROL, BACKPROP = 'immediate', 'BPTT'
LEARNERS = {'D_RTRL': ('d_rtrl', {}), CONTROL: ('immediate', {}), BACKPROP: (None, {})}
LINES = {BACKPROP: '--'}
COLOURS = {BACKPROP: '#000000', 'D_RTRL': '#0072B2', CONTROL: '#009E73'}
OTHERS = ('#D55E00', '#CC79A7')

Batch = tuple[Array, Array, Array]  # inputs and targets with time first; weights of the steps
Score = Callable[[Any, Array, Array], dict[str, Array]]


@dataclass(frozen=True)
class Task:
    """What is learned, by which network, and how it is measured.

    Attributes:
        build: Makes the network, one time step of it; called after the seed is set.
        data: From the number of an update and the length to a batch; traced by `jax.jit`.
        loss: From output and target of one step to the losses `(B,)`.
        score: From outputs, targets and weights of all steps to named numbers.
        metric: Which of them counts.
        higher_is_better: Whether more of it is better.
        chance: What guessing, or another simple answer, has of it.
        margin: Differences of it that are too small to matter; of its logarithm with `log`.
        updates: Number of updates.
        learning_rate: Of Adam, the same for all learners.
        evaluate_every: Updates between two evaluations.
        window: Steps whose gradients are solved at once.
        test: As `data`, from the number of a test; by default updates that never come.
        tests: Number of test batches.
        resets: Whether every batch begins anew; otherwise states and traces go on.
        decays: Whether the learning rate falls to zero on a cosine.
        length: Length of the sequences to begin with, where it grows.
        next_length: From the length and the mean loss since the last evaluation to the next one.
        log: Whether the metric is compared, and drawn, as a ratio.
        references: Lines to draw beside the curves: figures of others, by name.
        others: Further learners by name: that of the algorithm, and its options.
    """

    build: Callable[[], brainstate.nn.Module]
    data: Callable[[Array, Array], Batch]
    loss: Callable[[Any, Array], Array]
    score: Score
    metric: str
    higher_is_better: bool
    chance: float
    margin: float
    updates: int
    learning_rate: float
    evaluate_every: int
    window: int
    test: Callable[[Array, Array], Batch] | None = None
    tests: int = 4
    resets: bool = True
    decays: bool = True
    length: int = 0
    next_length: Callable[[int, float], int] | None = None
    log: bool = False
    references: Mapping[str, float] | None = None
    others: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Steps and samples of a batch."""
        return jax.eval_shape(self.data, 0, self.length)[0].shape[:2]

    @property
    def learners(self) -> dict[str, tuple[Any, Mapping[str, Any]]]:
        """Algorithms and their options, by the name in tables; `None` for backpropagation."""
        return {**LEARNERS, **(self.others or {})}

    def for_smoke(self) -> 'Task':
        """Shorten training, to see that it runs."""
        return replace(self, updates=15, evaluate_every=5, tests=1)

    def facts(self) -> dict[str, Any]:
        """What a report says of the task."""
        steps, batch = self.shape
        names = 'metric higher_is_better chance margin updates learning_rate window resets'
        return {'steps': steps, 'batch': batch, **{k: getattr(self, k) for k in names.split()}}


Tasks = Callable[[int, bool], dict[str, Task]]  # from seed and smoke to tasks by name


def online_gradient(
    model: brainstate.nn.Module, task: Task, algorithm: str, **options: Any
) -> Callable:
    """Compile a learner; its gradient is made as the sequence is read, window by window."""
    size, (example, *_) = task.shape[1], task.data(0, task.length)
    learner = ea.compile(model, algorithm, example[0], batch_size=size, **options)
    params = dict(model.states(brainstate.ParamState))

    def step(x: Array, target: Array) -> Array:
        return task.loss(learner(x), target)

    def gradient(xs: Array, targets: Array, mask: Array) -> tuple[Any, Array]:
        if task.resets:
            learner.reset_state(size)
        return ea.etrace_grad(
            learner,
            xs,
            targets,
            step_fn=step,
            mask=mask,
            chunk_size=task.window,
            weights=params,
            return_value=True,
            loss_output='scalar',
            carry_trace=not task.resets,
        )

    return gradient


def bptt_gradient(model: brainstate.nn.Module, task: Task) -> Callable:
    """Run over the whole sequence, keep every activation, and go back through them.

    Where states go on from batch to batch it goes back to the beginning of the batch.
    """
    size = task.shape[1]
    brainstate.nn.init_all_states(model, size)
    params = dict(model.states(brainstate.ParamState))

    def gradient(xs: Array, targets: Array, mask: Array) -> tuple[Any, Array]:
        def loss() -> Array:
            if task.resets:
                brainstate.nn.reset_all_states(model, size)
            losses = brainstate.transform.for_loop(lambda x, y: task.loss(model(x), y), xs, targets)
            weights = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (2 - mask.ndim)),
                                       losses.shape)  # fmt: skip
            return (losses * weights).sum() / weights.sum()

        return brainstate.transform.grad(loss, params, return_value=True)()

    return gradient


def make_training(model: brainstate.nn.Module, gradient: Callable, task: Task) -> Callable:
    """Join gradient and optimiser; many updates are one compiled loop."""
    params = dict(model.states(brainstate.ParamState))
    rate = task.learning_rate
    schedule = optax.cosine_decay_schedule(rate, task.updates) if task.decays else rate
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def weights() -> tuple[list[Array], Any]:
        # leaves are plain arrays: weights and gradients have units, but not the same ones
        return jax.tree.flatten({key: param.value for key, param in params.items()})

    moments = brainstate.LongTermState(adam.init(weights()[0]))

    def update(length: Array, number: Array) -> Array:
        gradients, loss = gradient(*task.data(number, length))
        leaves, tree = weights()
        updates, moments.value = adam.update(jax.tree.leaves(gradients), moments.value)
        for key, value in tree.unflatten(optax.apply_updates(leaves, updates)).items():
            params[key].value = value
        return loss

    return brainstate.transform.jit(
        lambda numbers, length: brainstate.transform.for_loop(partial(update, length), numbers)
    )


def make_evaluation(model: brainstate.nn.Module, task: Task) -> Callable:
    """Measure the network on test batches, and leave its states as they were."""
    size, never = task.shape[1], 1_000_000
    test = task.test or (lambda number, length: task.data(never + number, length))

    @brainstate.transform.jit
    def evaluate(length: Array) -> dict[str, Array]:
        def one(number: Array) -> dict[str, Array]:
            brainstate.nn.reset_all_states(model, size)
            xs, targets, mask = test(number, length)
            return task.score(brainstate.transform.for_loop(model, xs), targets, mask)

        states = model.states(brainstate.HiddenState)
        kept = {key: state.value for key, state in states.items()}
        scores = brainstate.transform.for_loop(one, jnp.arange(task.tests))
        for key, state in states.items():
            state.value = kept[key]
        return {key: value.mean() for key, value in scores.items()}

    return evaluate


def train(name: str, task: Task, seed: int, advance: Callable[[int, str], None]) -> dict[str, Any]:
    """Train one learner from the beginning that all share; return scores, times and curves."""
    brainstate.random.seed(seed)
    model, (algorithm, how) = task.build(), task.learners[name]
    if algorithm is None:
        gradient = bptt_gradient(model, task)
    else:
        gradient = online_gradient(model, task, algorithm, **how)
    training, evaluate = make_training(model, gradient, task), make_evaluation(model, task)
    length, seconds, losses, scores = task.length, [], [], []

    def measure() -> dict[str, float]:
        score = {key: float(value) for key, value in evaluate(length).items()}
        return score if task.next_length is None else {'length': length, **score}

    scores.append(measure())
    for first in range(0, task.updates, task.evaluate_every):
        start = time.perf_counter()
        numbers = jnp.arange(first, first + task.evaluate_every)
        losses.append(float(training(numbers, length).mean()))  # waits for the result
        seconds.append(time.perf_counter() - start)
        if task.next_length is not None:
            length = task.next_length(length, losses[-1])
        scores.append(measure())
        now = f'loss {losses[-1]:.4f}   {task.metric} {scores[-1][task.metric]:.4g}'
        advance(task.evaluate_every, now)
    ms = 1e3 * float(np.median(seconds[1:])) / task.evaluate_every  # the first one compiles
    curve = {'loss': losses, 'metric': [score[task.metric] for score in scores]}
    return {'score': scores[-1], 'ms_per_update': ms, 'seconds': sum(seconds), 'curve': curve}


def compare(task: Task, ours: list[float], others: list[float]) -> int:
    """1 where ours are better on every seed, -1 where they are worse on every seed, else 0."""
    gains = np.subtract(*((np.log(ours), np.log(others)) if task.log else (ours, others)))
    gains = gains if task.higher_is_better else -gains
    return int((gains > task.margin).all()) - int((gains < -task.margin).all())


def findings(task: Task, learners: dict[str, list[dict]]) -> list[str]:
    """Say how each trace does beside guessing, the control and backpropagation, whatever it is."""
    found = {k: [run['score'][task.metric] for run in runs] for k, runs in learners.items()}
    mean = {name: f'{np.mean(values):.4g}' for name, values in found.items()}
    beside_control = {
        1: 'is better than',
        0: 'does NOT clearly beat',
        -1: 'is WORSE than',
    }
    beside_backprop = {1: 'better than', 0: 'not clearly different from', -1: 'worse than'}
    says = [
        f'{name} has NOT learned it: {mean[name]}, by guessing {task.chance:.4g}.'
        for name, values in found.items()
        if compare(task, values, [task.chance] * len(values)) < 1
    ]
    for name in (key for key in learners if key not in (CONTROL, BACKPROP)):
        control, backprop = (compare(task, found[name], found[k]) for k in (CONTROL, BACKPROP))
        says.append(
            f'{name} ({mean[name]}) {beside_control[control]} the control without a trace '
            f'({mean[CONTROL]}), and is {beside_backprop[backprop]} {BACKPROP} '
            f'({mean[BACKPROP]}).'
        )
    return says


def make_table(title: str, learners: dict[str, list[dict]]) -> Table:
    """Lay out the numbers of all learners."""
    table = Table('learner', title=title)
    for heading in (*learners[CONTROL][0]['score'], 'ms per update', 'seconds'):
        table.add_column(heading, justify='right')
    for name, runs in learners.items():
        scores = [[run['score'][key] for run in runs] for key in runs[0]['score']]
        numbers = [f'{np.mean(v):.4g} ({min(v):.4g} to {max(v):.4g})' for v in scores]
        ms, seconds = (np.mean([run[key] for run in runs]) for key in ('ms_per_update', 'seconds'))
        table.add_row(name, *numbers, f'{ms:.1f}', f'{seconds:.0f}')
    return table


def draw(tasks: dict[str, Task], experiments: dict[str, dict], path: Path) -> None:
    """Draw the learning curves: the mean over seeds, and their range."""
    figure = Figure(figsize=(5.2 * len(tasks), 3.6), layout='constrained')
    for axes, (title, task) in zip(
        figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True
    ):
        colours = COLOURS | dict(zip(task.others or (), OTHERS, strict=False))
        for name, runs in experiments[title]['learners'].items():
            curves = np.array([run['curve']['metric'] for run in runs])
            updates, dash = np.linspace(0, task.updates, curves.shape[1]), LINES.get(name, '-')
            colour = colours[name]
            axes.plot(updates, curves.mean(0), dash, color=colour, label=name)
            axes.fill_between(updates, curves.min(0), curves.max(0), color=colour, alpha=0.2)
        for name, value in {'guessing': task.chance, **(task.references or {})}.items():
            axes.axhline(value, color='#888888', ls=':', lw=1)
            axes.annotate(name, (1, value), xycoords=('axes fraction', 'data'), va='bottom',
                          ha='right', fontsize=8, color='#666666')  # fmt: skip
        axes.set(title=title, xlabel='updates', ylabel=task.metric, xlim=(0, task.updates))
        axes.set(yscale='log' if task.log else 'linear')
        axes.minorticks_off()
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
        axes.legend(frameon=False)
    with rc_context({'svg.hashsalt': path.stem, 'svg.fonttype': 'none'}):
        figure.savefig(path, metadata={'Date': None})


def train_all(tasks: dict[int, dict[str, Task]], console: Console) -> dict[str, dict]:
    """Train every learner on every task, with every seed; show how far it is."""
    seeds, experiments = list(tasks), {}
    with Progress(TextColumn('{task.description:18}'), BarColumn(), MofNCompleteColumn(),
                  TextColumn('{task.fields[now]}'), console=console) as progress:  # fmt: skip
        for network, first in tasks[seeds[0]].items():
            learners: dict[str, list[dict]] = {}
            for name in first.learners:
                total = first.updates * len(seeds)
                bar = progress.add_task(f'{network}, {name}', total=total, now='compiling')
                advance = partial(show, progress, bar)
                learners[name] = [train(name, tasks[s][network], s, advance) for s in seeds]
            says = findings(first, learners)
            experiments[network] = {'task': first.facts(), 'learners': learners, 'findings': says}
    return experiments


def rounded(value: Any) -> Any:
    """Keep five digits of every number."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f'{value:.5g}') if isinstance(value, float) else value


def show(progress: Progress, bar: Any, updates: int, now: str) -> None:
    """Move a progress bar on."""
    progress.update(bar, advance=updates, now=now)


def adjust(task: Task, options: argparse.Namespace) -> Task:
    """Change a task as the command line says."""
    if options.learning_rate is not None:
        task = replace(task, learning_rate=options.learning_rate)
    return task.for_smoke() if options.smoke else task


def run(name: str, words: str, tasks: Tasks) -> None:
    """Read the command line, train, and report.

    Args:
        name: Of the files to write.
        words: What the example is about; its first line is the title.
        tasks: From seed and smoke to the tasks by the name of their network.
    """
    title = words.splitlines()[0]
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument('--smoke', action='store_true', help='a few updates, to see that it runs')
    parser.add_argument('--seed', type=int, default=0, help='of initial weights and data')
    parser.add_argument('--seeds', type=int, default=3, help='how many, beginning with --seed')
    parser.add_argument('--learning-rate', type=float, help='of all learners; default: as chosen')
    parser.add_argument('--out', type=Path, default=Path('results'), help='folder to write')
    options = parser.parse_args()
    count = 1 if options.smoke else options.seeds
    seeds, console = list(range(options.seed, options.seed + count)), Console()
    start = time.perf_counter()
    chosen = {seed: tasks(seed, options.smoke) for seed in seeds}
    for own in chosen.values():
        own |= {network: adjust(task, options) for network, task in own.items()}
    experiments = train_all(chosen, console)
    report = {
        'title': title,
        'seeds': seeds,
        'smoke': options.smoke,
        'python': platform.python_version(),
        'jax': jax.__version__,
        'seconds': round(time.perf_counter() - start),
        'experiments': experiments,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    numbers, figure = options.out / f'{name}.json', options.out / f'{name}.svg'
    numbers.write_text(json.dumps(rounded(report)) + '\n')
    draw(chosen[seeds[0]], experiments, figure)
    for network, entry in experiments.items():
        console.print(make_table(network, entry['learners']))
        for sentence in entry['findings']:
            console.print(f'* {sentence}', soft_wrap=True, highlight=False)
    console.print(f'Figure:  {figure.resolve()}\nNumbers: {numbers.resolve()}', soft_wrap=True)
