"""What a learner must keep because it promises it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms._compile import compile as compile_learner
from etrace_algorithms.rules import ImmediateDerivatives
from etrace_algorithms.testing.conformance.cases import CASES, STEPS, Case, probe_of
from etrace_algorithms.testing.conformance.subject import Broken, Subject, distance, has_keys
from etrace_algorithms.testing.oracles import bptt_gradients, gradient_alignment
from etrace_algorithms.testing.probe import loss_of
from etrace_compiler import path_key

__all__ = ['PROMISES']


def _equal_everywhere(s: Subject, cases: list[Case]) -> str:
    worst = 0.0
    for case in cases:
        for steps in (2, STEPS):
            found, wanted = s.online(case.name, steps), s.exact(case.name, steps)
            worst = max(worst, s.must_equal(found, wanted, f'{case.name}, T={steps}'))
    _check_power(cases)
    return f'equal to backpropagation at T=2 and {STEPS} on {len(cases)} models, up to {worst:.0e}'


def _check_power(cases: list[Case]) -> None:
    """The negative control: on each model, credit across steps matters."""
    for case in cases:
        control = Subject(ImmediateDerivatives(), 'control', 'immediate', None, {}, 'quick')
        found, wanted = control.online(case.name), control.exact(case.name)
        if max(distance(found[p], wanted[p]) for p in wanted) < 1e-3:
            raise Broken(f'{case.name}: nothing crosses a step; the comparison says nothing')


def exact(s: Subject) -> str:
    """The gradient is that of backpropagation for every model."""
    return _equal_everywhere(s, list(s.cases()))


def exact_on_diagonal(s: Subject) -> str:
    """The gradient is that of backpropagation where the recurrence is position-diagonal."""
    return _equal_everywhere(s, list(s.cases(diagonal=True)))


def immediate(s: Subject) -> str:
    """The gradient is the sum of those of single steps."""
    for case in s.cases():
        control = Subject(ImmediateDerivatives(), 'control', 'immediate', None, {}, 'quick')
        s.must_equal(s.online(case.name), control.online(case.name), case.name)
    return 'no credit crosses a step'


def aligned(s: Subject) -> str:
    """The gradient of every parameter points the way of backpropagation's, if not exactly there."""
    worst = (2.0, '')
    for case in s.cases():
        found, wanted = s.online(case.name), s.exact(case.name)
        for path in wanted:
            key = f'{case.name}, {path_key(path)}'
            cosine, ratio = gradient_alignment({path: found[path]}, {path: wanted[path]})
            if not cosine > 0.1:
                raise Broken(f'{key}: the cosine to backpropagation is {cosine:.2f}')
            if not 0.05 < ratio < 20:
                raise Broken(f'{key}: the norm is {ratio:.2g} times that of backpropagation')
            worst = min(worst, (cosine, key))
    return f'cosines of at least {worst[0]:.2f} ({worst[1]})'


def descent(s: Subject) -> str:
    """A small step along the gradient lowers the loss."""
    cases = list(s.cases())
    for case in cases:
        gradients, probe = s.online(case.name), probe_of(case.name)
        leaves = jax.tree.leaves(dict(gradients))
        length = np.sqrt(sum(float(jnp.sum(jnp.abs(x) ** 2)) for x in leaves))
        step = jax.tree.map(lambda g, length=length: -1e-3 / length * g, dict(gradients))
        before, after = _loss(probe, {}), _loss(probe, step)
        if not after < before:
            raise Broken(f'{case.name}: the loss goes from {before:.6f} to {after:.6f}')
    return f'a small step lowers the loss on {len(cases)} models'


def _loss(probe: Any, change: dict) -> float:
    """The loss of the sequence of a probe, with something added to parameters."""
    probe.restart(probe.learner)
    states = probe.learner.param_states
    for path, add in change.items():
        states[path].value = jax.tree.map(jnp.add, states[path].value, add)
    loss = sum(float(loss_of(probe.model(x))) for x in probe.xs)
    probe.restart(probe.learner)
    return loss


#: Groups of samples, whose means say how far the mean of all may be off.
GROUPS, STUDENT = 16, 6.0


def unbiased(s: Subject) -> str:
    """The mean over random keys is the gradient of backpropagation, within its own error."""
    samples = {'quick': 64, 'full': 256}[s.level]
    said = []
    for name in ('plain RNN', 'spiking chain'):
        means, wanted = _group_means(s, name, samples)
        spread = means.std(axis=0, ddof=1) / np.sqrt(GROUPS)
        length = np.linalg.norm(wanted)
        directions = np.random.default_rng(0).normal(size=(12, len(wanted)))
        directions = np.concatenate([wanted[None], directions])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        along = means @ directions.T
        error = along.std(axis=0, ddof=1) / np.sqrt(GROUPS)
        off = np.abs(along.mean(axis=0) - directions @ wanted)
        if error[0] > 0.3 * length:
            raise Broken(f'{name}: {GROUPS * samples} samples leave an error of '
                         f'{error[0] / length:.0%}: too noisy to tell')  # fmt: skip
        if not (off <= STUDENT * error + 1e-9 * length).all():
            worst = float(np.max(off / np.maximum(error, 1e-300)))
            raise Broken(f'{name}: the mean of {GROUPS * samples} samples is off by '
                         f'{worst:.0f} standard errors')  # fmt: skip
        if spread.max() <= 1e-12 * length and s.learner(name).graph.hidden_groups:
            said.append(f'{name}: exact')
        else:
            said.append(f'{name}: {off[0] / length:.1%} off, error {error[0] / length:.1%}')
    return '; '.join(said)


def _group_means(s: Subject, name: str, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of groups of samples with random keys of their own, and that of backpropagation."""
    make = next(c for c in CASES if c.name == name).make
    xs = probe_of(name).xs[:, :1]
    many = jnp.broadcast_to(xs, (len(xs), samples, *xs.shape[2:]))
    learner = compile_learner(
        make(), s.algorithm, many[0], batch_size=samples, vmap=True, **s.options
    )
    if learner.etrace is None or not has_keys(learner.etrace.value):
        raise Broken('its trace holds no random key (jax.random.key), from which samples differ')
    start = learner.etrace.value
    single = compile_learner(make(), 'immediate', xs[0], batch_size=1).model
    wanted = bptt_gradients(single, xs, loss=loss_of)
    paths = sorted(wanted, key=str)

    def step(x: Any) -> Any:
        return loss_of(learner(x))

    def anew(x: Any, i: int) -> Any:
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jnp.copy(x)
        fold = jax.vmap(lambda key: jax.random.fold_in(key, i))
        return fold(x.reshape(-1)).reshape(x.shape)

    rows = []
    for i in range(GROUPS):
        learner.reset_state()
        learner.etrace.value = jax.tree.map(lambda x, i=i: anew(x, i), start)
        found = learner.etrace_grad(many, step_fn=step, reduction='sum', chunk_size=1)
        rows.append(_flat(found, paths) / samples)
    return np.stack(rows), _flat(wanted, paths)


def _flat(gradients: Any, paths: list) -> np.ndarray:
    leaves = [np.ravel(np.asarray(x)) for p in paths for x in jax.tree.leaves(gradients[p])]
    return np.concatenate(leaves)


#: Per exactness, name and question.
PROMISES = {
    'exact': {'exact': exact, 'descent': descent},
    'exact-diagonal': {'exact where diagonal': exact_on_diagonal, 'descent': descent},
    'approximate': {'aligned': aligned, 'descent': descent},
    'unbiased': {'unbiased': unbiased},
    'immediate': {'immediate': immediate, 'descent': descent},
}
