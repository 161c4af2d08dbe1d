"""Learning signals that are fed back from the output by matrices of their own."""

from dataclasses import dataclass
from typing import ClassVar

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms
from etrace_algorithms.feedback import Feedback
from etrace_algorithms.observable import Observed
from etrace_algorithms.rules import DiagonalRTRL, credit_traces
from etrace_algorithms.testing import (
    LeakyIntegrator,
    assert_gradients_close,
    bptt_gradients,
    online_gradients,
)
from etrace_algorithms.testing.models import surrogate_spike
from etrace_compiler import matmul

STEPS, BATCH = 5, 2


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', False)


@dataclass(frozen=True)
class Fed(etrace_algorithms.LearningRule):
    """Diagonal traces, and whatever signal the feedback gives."""

    feedback: Feedback

    reads_output = True
    exact_at_one_step = False

    def init(self, graph):
        return {'e': DiagonalRTRL().init(graph), 'feedback': self.feedback.init(graph)}

    def restart(self, before, fresh):
        return {**fresh, 'feedback': before['feedback']}

    def update(self, trace, lin):
        feedback = self.feedback.update(trace['feedback'], lin)
        return {'e': DiagonalRTRL().update(trace['e'], lin), 'feedback': feedback}

    def credit(self, trace, signal):
        return credit_traces(trace['e'], signal)

    def gradient(self, before, after, lin, signal, bypass, direct):
        exact = super().gradient(before, after, lin, signal, bypass, direct)
        fed = self.feedback.project(after['feedback'], signal)
        return self.feedback.route(lin.graph, exact, self.credit(after, fed))


class Layers(brainstate.nn.Module):
    """Two layers, the second of two states, and a leaky readout that is marked."""

    sizes: ClassVar = {'h': 4, 'a': 3, 'b': 3, 'y': 2}

    def __init__(self, both=False):
        super().__init__()
        random, self.both = np.random.default_rng(0), both
        for name, shape in (('w1', (3, 4)), ('w2', (4, 3)), ('out', (3, 2))):
            weight = brainstate.ParamState(jnp.asarray(random.normal(size=shape)))
            setattr(self, name, weight)

    def init_state(self, batch_size=None):
        for name, size in self.sizes.items():
            shape = (size,) if batch_size is None else (batch_size, size)
            setattr(self, name, brainstate.HiddenState(jnp.zeros(shape)))

    def reset_state(self, batch_size=None):
        for name in self.sizes:
            getattr(self, name).value = jnp.zeros_like(getattr(self, name).value)

    def update(self, x):
        self.h.value = 0.9 * self.h.value + matmul(x, self.w1.value)
        self.a.value = 0.8 * self.a.value + matmul(jnp.tanh(self.h.value), self.w2.value)
        self.b.value = 0.5 * self.b.value + self.a.value
        self.y.value = 0.7 * self.y.value + matmul(self.b.value, self.out.value)
        return (self.y.value, self.b.value) if self.both else self.y.value


def inputs():
    return jnp.asarray(np.random.default_rng(1).normal(size=(STEPS, BATCH, 3)))


def loss(y):
    return jnp.sum(jnp.sin(y + jnp.linspace(0, 1, y.shape[-1])))


def make(feedback, model, **options):
    rule = Fed(feedback)
    return etrace_algorithms.compile(model, rule, inputs()[0], batch_size=BATCH, **options)


def matrices(learner):
    return learner.etrace.value['feedback']['B']


def test_random_feedback_by_its_formula():
    learner = make(Feedback('random', seed=3), LeakyIntegrator())
    matrix = matrices(learner)[0][0]
    assert matrix.shape == (2, 4)
    xs, model = inputs(), learner.model
    ours = online_gradients(learner, xs, loss=loss)
    e = h = 0
    expected = jnp.zeros((3, 4))
    for x in xs:
        e, h = 0.9 * e + x, 0.9 * h + x @ model.w.value + model.b.value
        expected += e.T @ (jax.grad(loss)(h @ model.readout.value) @ matrix)
    assert_gradients_close(ours, {('w',): expected})
    brainstate.nn.init_all_states(model, BATCH)
    exact = bptt_gradients(model, xs, loss=loss)
    assert_gradients_close(ours, {('readout',): exact[('readout',)]})


def test_fed_back_by_the_readout_itself_it_is_backpropagation():
    learner = make(Feedback('random'), LeakyIntegrator())
    trace, readout = learner.etrace.value, learner.model.readout.value
    for matrix, equal in ((readout.T, True), (-readout.T, False)):
        learner.etrace.value = {**jax.tree.map(jnp.copy, trace), 'feedback': {'B': ((matrix,),)}}
        brainstate.nn.init_all_states(learner.model, BATCH)
        ours = online_gradients(learner, inputs(), loss=loss)
        brainstate.nn.init_all_states(learner.model, BATCH)
        expected = bptt_gradients(learner.model, inputs(), loss=loss)
        if equal:
            assert_gradients_close(ours, expected)
        else:
            assert_gradients_close(ours, {('w',): -expected[('w',)]})


def test_no_weight_of_the_readout_has_a_part_in_hidden_gradients():
    """With a loss that is linear in the output, whose derivative does not depend on it."""
    found = {}
    for kind in ('random', 'symmetric'):
        for factor in (1.0, -2.0):
            model = Layers()
            model.out.value *= factor
            rule = Fed(Feedback(kind, observable='b', readout='out'))
            rule = rule if kind == 'random' else 'd_rtrl'
            learner = etrace_algorithms.compile(model, rule, inputs()[0], batch_size=BATCH)
            found[kind, factor] = online_gradients(learner, inputs(), loss=jnp.sum)
    hidden = [('w1',), ('w2',)]
    random = {path: found['random', 1.0][path] for path in hidden}
    assert_gradients_close(found['random', -2.0], random)
    assert all(jnp.any(value) for value in random.values())
    with pytest.raises(AssertionError):
        assert_gradients_close(found['symmetric', -2.0], found['symmetric', 1.0])
    for kind in ('random', 'symmetric'):  # what is marked and reads out keeps its own gradient
        assert_gradients_close(found[kind, 1.0], {('out',): found['symmetric', 1.0][('out',)]})


def test_every_group_has_a_matrix_of_its_own_and_the_readout_has_none():
    feedback = Feedback('random', seed=1, scale=2.0, observable='b', readout='out')
    ((first, second),) = matrices(make(feedback, Layers()))
    assert first.shape == (2, 4)
    assert second.shape == (2, 3)
    assert not jnp.allclose(first[:, :3], second)
    again = matrices(make(feedback, Layers()))
    other = matrices(make(Feedback('random', 2, observable='b', readout='out'), Layers()))
    assert jnp.array_equal(again[0][0], first)
    assert not jnp.allclose(other[0][0], first)


def test_outputs_of_local_observables_are_not_projected():
    xs = inputs()
    options = {'observable': 'b', 'readout': 'out'}
    learner = make(Feedback('random', local='b', **options), Layers(both=True))
    both = online_gradients(learner, xs, loss=lambda out: loss(out[0]) + jnp.sum(out[1] ** 2))
    learner.reset_state(BATCH)
    alone = online_gradients(learner, xs, loss=lambda out: loss(out[0]))
    brainstate.nn.init_all_states(learner.model, BATCH)
    local = bptt_gradients(learner.model, xs, loss=lambda out: jnp.sum(out[1] ** 2))
    assert_gradients_close(both, {('w2',): alone[('w2',)] + local[('w2',)]})
    assert_gradients_close(both, {('w1',): alone[('w1',)]})


@pytest.mark.parametrize('options', [{'chunk_size': 3}, {'vmap': True}])
@pytest.mark.parametrize('kind', ['random', 'adaptive'])
def test_windows_and_vmap_are_the_step_engine(kind, options):
    feedback, xs = Feedback(kind, observable='b', readout='out'), inputs()
    expected = online_gradients(make(feedback, Layers()), xs, loss=loss, chunk_size=1)
    size = options.pop('chunk_size', 1)
    learner = make(feedback, Layers(), **options)
    assert_gradients_close(online_gradients(learner, xs, loss=loss, chunk_size=size), expected)


@pytest.mark.parametrize('vmap', [False, True])
def test_adaptive_matrices_follow_the_readout_and_survive_a_reset(vmap):
    decay, x = 0.25, inputs()[0]
    learner = make(
        Feedback('adaptive', observable='b', readout='out', decay=decay), Layers(), vmap=vmap
    )
    first, before = matrices(learner)[0], learner.model.out.value
    learner(x)
    assert jnp.array_equal(matrices(learner)[0][1], first[1])  # nothing has changed yet
    after = learner.model.out.value = before + 1.0
    learner(x)
    expected = after.T + (1 - decay) * (first[1] - before.T)
    assert jnp.allclose(matrices(learner)[0][1], expected)
    assert jnp.array_equal(matrices(learner)[0][0], first[0])  # of another layer
    learner(x)
    learner.reset_state(BATCH)
    assert jnp.allclose(matrices(learner)[0][1], expected)
    assert not jnp.any(jax.tree.leaves(learner.etrace.value['e'])[0])
    learner(x)
    learner.model.out.value = before
    learner(x)
    expected = before.T + (1 - decay) * (expected - after.T)
    assert jnp.allclose(matrices(learner)[0][1], expected)


def test_the_readout_turns_towards_a_random_matrix_and_the_loss_falls():
    model, xs = LeakyIntegrator(3, 8, 2), inputs()
    learner = make(Feedback('random'), model)
    matrix = np.array(matrices(learner)[0][0])
    target = jnp.asarray(np.random.default_rng(3).normal(size=(STEPS, BATCH, 2)))

    def step(x, y):
        return jnp.mean((learner(x) - y) ** 2)

    found = []
    for _ in range(200):
        learner.reset_state(BATCH)
        gradient, losses = learner.etrace_grad(xs, target, step_fn=step, return_value=True)
        for path, state in learner.param_states.items():
            state.value -= 0.02 * gradient[path]
        readout = model.readout.value.T
        cosine = jnp.sum(matrix * readout) / jnp.linalg.norm(matrix) / jnp.linalg.norm(readout)
        found.append((float(jnp.mean(losses)), float(cosine)))
    assert found[-1][0] < 0.3 * found[0][0]
    assert found[-1][1] > found[0][1] + 0.1


@pytest.mark.filterwarnings('ignore:layer.readout')
def test_what_a_layer_returns_is_a_state_beside_its_own():
    class Spikes(LeakyIntegrator):
        def read(self, h):
            return surrogate_spike(h - 0.5)

    model, xs = Observed(Spikes(), 4), inputs()
    learner = etrace_algorithms.compile(model, 'd_rtrl', xs[0], batch_size=BATCH)
    (group,) = learner.graph.hidden_groups
    assert {spec.key for spec in group.hidden_states} == {'layer.h', 'z'}
    ours = online_gradients(learner, xs, loss=loss)
    assert 0 < model.z.value.sum() < model.z.value.size
    learner.reset_state(BATCH)
    assert not model.z.value.any()
    assert_gradients_close(ours, bptt_gradients(model, xs, loss=loss))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kind': 'direct'}, "`feedback` does not fit: got 'direct'; expected one of symmetric"),
        ({'decay': 1.5}, '`decay` does not fit: got 1.5; expected 0 <= decay <= 1'),
        ({'scale': 0.0}, '`scale` does not fit: got 0.0; expected scale > 0'),
        ({'kind': 'adaptive'}, r'`readout` does not fit: got \(\); expected the path'),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Feedback(**options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, r'`observable` does not fit: got \(\); expected one state among a, b'),
        ({'observable': 'c'}, "`observable` does not fit: got 'c'; expected a hidden state among"),
        ({'observable': 'b', 'readout': 'o'}, "`readout` does not fit: got 'o'; expected a path"),
        ({'observable': 'b', 'local': 'h'}, r"`local` does not fit: got \('h',\); expected fewer"),
        (
            {'kind': 'adaptive', 'observable': 'b', 'readout': 'w1'},
            r"`readout` does not fit: got '0 such weights under w1'; expected one weight of shape",
        ),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(Feedback(**{'kind': 'random', **options}), Layers())


def test_an_output_that_may_be_a_batch_is_refused_until_it_is_said():
    class Summed(LeakyIntegrator):
        def update(self, x):
            return super().update(x).sum(-1)

    with pytest.raises(ValueError, match=r'`batch of the output` .* got \(\); .* shape \(2, 4\)'):
        make(Feedback('random'), Summed())
    learner = make(Feedback('random', batch_axes=1), Summed())
    assert matrices(learner)[0][0].shape == (1, 4)
    single = make(Feedback('random'), Summed(), vmap=True)
    expected = online_gradients(single, inputs(), loss=lambda y: jnp.sum(y**2))
    ours = online_gradients(learner, inputs(), loss=lambda y: jnp.sum(y**2))
    assert_gradients_close(ours, expected)
