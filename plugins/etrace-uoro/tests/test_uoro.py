"""UORO and KF-RTRL: right on average, with the error of a Monte Carlo mean."""

from dataclasses import dataclass
from functools import cache

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms
import etrace_nn
from etrace_algorithms import LearningSignal
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.testing import (
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
    assert_gradients_close,
    bptt_gradients,
    check_learner,
    conformance_tests,
    online_gradients,
)
from etrace_compiler import NotSupportedError, effective_weights, matmul, run_step
from etrace_uoro import KFRTRL, UORO
from etrace_uoro.balance import balanced, norm

STEPS, SIZE, DRAWS = 5, 3, 4096
RULES = {'uoro': UORO, 'kf_rtrl': KFRTRL}


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update('jax_enable_x64', True)
    with brainstate.environ.context(precision=64):
        yield
    jax.config.update('jax_enable_x64', False)


def loss(y):
    return jnp.sum(jnp.real(jnp.sin(y) + y**2))


def sequence(*batch, steps=STEPS):
    return jnp.asarray(np.random.default_rng(1).normal(size=(steps, *batch, SIZE)))


def complex_cell():
    brainstate.random.seed(5)
    return etrace_nn.LRUCell(SIZE, 2)


MODELS = {'RNN': lambda: PlainRNN(SIZE, 3, 2), 'LSTM': lambda: RecurrentLSTM(SIZE, 2, 2),
          'spiking': lambda: SpikingChain(SIZE, 3, 2), 'complex': complex_cell}  # fmt: skip


def steps_of(learner, xs):
    """Linearise the steps of one sample, with the derivative of each loss by the old states."""
    info, groups = learner.graph.module_info, learner.graph.hidden_groups

    def step(states, x):
        _, new, lin = learner.executor.lineariser((x,), states)

        def of_old(hidden):
            values = dict(states)
            for g, stacked in zip(groups, hidden, strict=True):
                for spec, part in zip(g.hidden_states, g.split_hidden(stacked), strict=True):
                    values[spec.key] = spec.treedef.unflatten([part])
            return loss(run_step(info, (x,), values)[0])

        return new, (lin, jax.grad(of_old)(lin.hidden))

    return jax.lax.scan(step, learner.executor.state_values(), xs)[1]


@cache
def draws(model, rule, count=DRAWS):
    """What history is worth, drawn many times `(count, P)`, and what it is worth."""
    xs = sequence()
    learner = etrace_algorithms.compile(MODELS[model](), rule, xs[0])
    graph = learner.graph
    params = {s.key: learner.executor.state_values()[s.key]
              for s in graph.module_info.by_role('param')}  # fmt: skip

    @jax.jit
    def many(steps, keys):
        def one(key):
            def step(trace, now):
                lin, signal = now
                return rule.update(trace, lin), rule.credit(trace, LearningSignal(graph, signal))

            _, found = jax.lax.scan(step, {**rule.init(graph), 'key': key}, steps)
            total = jax.tree.map(lambda g: g.sum(0), found)
            if rule.credits == 'weights':
                total = jax.vjp(lambda p: effective_weights(graph, p), params)[1](total)[0]
            return flat(total)

        return jax.vmap(one)(keys)

    found = many(
        jax.jit(lambda xs: steps_of(learner, xs))(xs), jax.random.split(jax.random.key(0), count)
    )
    exact = bptt_gradients(learner.model, xs, loss=loss)
    control = etrace_algorithms.compile(MODELS[model](), 'immediate', xs[0])
    now = online_gradients(control, xs, loss=loss, chunk_size=1)
    exact = {'.'.join(map(str, k)): jax.tree.map(jnp.subtract, v, now[k]) for k, v in exact.items()}
    return np.asarray(found), np.asarray(flat({key: exact[key] for key in params}))


def flat(tree):
    parts = [jnp.ravel(x) for x in jax.tree.leaves(tree)]
    parts = [jnp.concatenate([x.real, x.imag]) if jnp.iscomplexobj(x) else x for x in parts]
    return jnp.concatenate(parts)


def deviation(found, exact):
    """The error of the mean in its own standard deviations, the largest of all entries."""
    spread = found.std(axis=0) / np.sqrt(len(found))
    return np.max(np.abs(found.mean(axis=0) - exact) / (spread + 1e-12))


@pytest.mark.parametrize(
    ('model', 'name'),
    [('RNN', 'uoro'), ('RNN', 'kf_rtrl'), ('LSTM', 'kf_rtrl'), ('spiking', 'uoro'),
     ('complex', 'uoro')],
)  # fmt: skip
def test_the_mean_is_backpropagation(model, name):
    found, exact = draws(model, RULES[name]())
    assert np.abs(exact).max() > 1e-2  # there is something to be learned from history
    assert deviation(found, exact) < 5


@pytest.mark.parametrize('name', RULES)
def test_the_error_falls_as_that_of_a_mean(name):
    found, exact = draws('RNN', RULES[name]())
    counts = np.array([4, 16, 64, 256])
    errors = [np.sqrt(np.mean((found.reshape((-1, n, found.shape[1])).mean(1) - exact) ** 2))
              for n in counts]  # fmt: skip
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.08)


def test_factors_of_operations_have_less_variance():
    spread = {name: draws('RNN', rule())[0].var(axis=0).sum() for name, rule in RULES.items()}
    assert spread['kf_rtrl'] < 0.8 * spread['uoro']


@dataclass(frozen=True)
class Shrinking(UORO):
    """A wrong scale: a tenth of the parameters' factor is lost at each step."""

    def update(self, trace, lin):
        after = super().update(trace, lin)
        return {**after, 'params': jax.tree.map(lambda p: 0.9 * p, after['params'])}


@dataclass(frozen=True)
class SameSigns(KFRTRL):
    """Signs that are always the same: products of different steps do not cancel."""

    def update(self, trace, lin):
        return {**super().update(trace, lin), 'key': trace['key']}


def test_control_a_bias_is_noticed():
    assert deviation(*draws('RNN', Shrinking())) > 10
    assert deviation(*draws('RNN', SameSigns())) > 10


def test_factors_of_equal_size():
    """Both factors of a product get the same norm; nothing is divided by zero."""
    grow, shrink = balanced(jnp.array([8.0, 0.0, 3.0, 0.0]), jnp.array([2.0, 5.0, 0.0, 0.0]))
    np.testing.assert_allclose(grow, [2, 0, 0, 0])
    np.testing.assert_allclose(shrink, [0.5, 0, 0, 0])
    assert norm({'a': jnp.full((2, 2), 3 + 4j), 'b': jnp.zeros(3)}) == 10


# ---------------------------------------------------------------- as learners


test_conformance = conformance_tests('uoro', level='quick')


def test_factors_of_operations_conform():
    """In part; the mean is looked at above."""
    report = check_learner('kf_rtrl', only=('declaration', 'precision', 'reset', 'checkpoint'))
    assert report.ok, report.to_str()


@pytest.mark.parametrize('name', RULES)
def test_another_seed_gives_other_signs(name):
    xs = sequence(2)

    def found(seed):
        learner = etrace_algorithms.compile(
            MODELS['RNN'](), name, xs[0], batch_size=2, vmap=True, sign_seed=seed
        )
        return online_gradients(learner, xs, loss=loss, chunk_size=1)

    first = found(3)
    assert_gradients_close(found(3), first, rtol=0)
    with pytest.raises(AssertionError, match='Not equal'):
        assert_gradients_close(found(4), first, rtol=1e-2)


def test_nothing_is_divided_by_zero():
    """No input, no state: the factors have no size."""
    xs = 0 * sequence(2)
    learner = etrace_algorithms.compile(MODELS['RNN'](), KFRTRL(), xs[0], batch_size=2)
    found = online_gradients(learner, xs, loss=loss, chunk_size=1)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(found))


class Unmarked(PlainRNN):
    def update(self, x):
        self.h.value = jnp.tanh(matmul(x, self.w.value[: x.shape[-1]]) + self.b.value)
        return self.read(self.h.value)


@pytest.mark.parametrize(
    ('make', 'given'),
    [(lambda: Unmarked(SIZE, 3, 2), r'got b, which .*\[UORO102\]'),
     (complex_cell, r'got .*; expected real .*\[UORO103\]')],
)  # fmt: skip
def test_what_factors_cannot_follow_is_refused(make, given):
    with pytest.raises(NotSupportedError, match=given):
        etrace_algorithms.compile(make(), 'kf_rtrl', sequence()[0])


@pytest.mark.parametrize('rule', RULES.values())
def test_a_seed_that_is_none_is_refused(rule):
    with pytest.raises(ValueError, match=r'`sign_seed` is not valid: got 0.5; expected an integer'):
        rule(sign_seed=0.5)


def test_learners_are_found_by_name():
    for name, rule in RULES.items():
        assert get_learner(f'etrace-uoro:{name}').load() is rule
        assert get_learner(name).exactness == 'unbiased'
