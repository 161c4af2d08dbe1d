"""The evaluator: values of the model, and every way to the loss counted once."""

import functools

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    ETraceVjpGraphExecutor,
    Lineariser,
    StepEvaluator,
    compile_etrace_graph,
    effective_weights,
    path_key,
)

from . import models
from .oracle import call_model, pure_step, values_of

close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


class TwoLeakyLayers(models.TwoLayers):
    """Two groups; within each of them positions do not mix."""

    def __init__(self):
        super().__init__(models.Leaky, models.Leaky, (2,))


class TwoSpikingLayers(models.TwoLayers):
    """The spikes of the first layer, from before its reset, drive the second one."""

    def __init__(self):
        super().__init__(models.SpikingChain, models.SpikingChain, ())


DIAGONAL = {**models.POSITION_DIAGONAL, 'two leaky layers': TwoLeakyLayers,
            'two spiking layers': TwoSpikingLayers}  # fmt: skip


def build(name):
    if name in models.EVERY:
        return models.build(name)
    model = models.ready(DIAGONAL[name]())
    return model, models.random(*model.first.batch, 3, seed=99)


@functools.cache
def example(name):
    model, x = build(name)
    graph = compile_etrace_graph(model, x)
    return model, x, graph, StepEvaluator(graph.module_info, graph.hidden_groups)


def zeros(graph):
    return [[jnp.zeros(s.leaves[0].shape) for s in g.hidden_states] for g in graph.hidden_groups]


def loss_of(out, new, hidden_keys):
    """A loss that reads the output and every new hidden state, each element its own way."""
    total = 0.0
    for i, value in enumerate([*jax.tree.leaves(out), *(new[k] for k in hidden_keys)]):
        total = total + jnp.sum(models.random(*value.shape, seed=70 + i) * jnp.sin(value))
    return total


def hidden_keys(graph):
    return [path_key(p) for g in graph.hidden_groups for p in g.hidden_paths]


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize('name', models.EVERY)
def test_values_are_those_of_the_model_bit_for_bit(name):
    model, x, graph, evaluator = example(name)
    expected, after = call_model(model, x)
    values = values_of(graph)
    for p, q in ((None, None), (zeros(graph), zeros(graph))):
        out, new = evaluator((x,), values, p, q)
        assert_equal_trees(out, expected)
        assert_equal_trees({k: after[k] for k in new}, new)


def test_a_second_step_starts_from_the_states_given():
    model, x, graph, evaluator = example('LSTM, batch')
    _, first = evaluator((x,), values_of(graph))
    _, second = evaluator((2 * x,), first)
    step = pure_step(model, x)
    expected = step(step({}, x)[1], 2 * x)[1]
    jax.tree.map(close, second, {k: expected[k] for k in second})


# ---------------------------------------------------------------- derivatives


@pytest.mark.parametrize('name', [*models.EVERY, 'two leaky layers', 'two spiking layers'])
def test_one_step_gradient_of_every_parameter_is_complete(name):
    model, x, graph, evaluator = example(name)
    states = model.states(brainstate.ParamState).items()
    params = {path_key(p): s.value for p, s in states}
    values, keys = values_of(graph), hidden_keys(graph)
    params = {k: v for k, v in params.items() if k in values}
    step = pure_step(model, x)
    p, q = zeros(graph), zeros(graph)

    @jax.jit
    def both(params):
        return (
            jax.grad(lambda w: loss_of(*evaluator((x,), {**values, **w}, p, q), keys))(params),
            jax.grad(lambda w: loss_of(*step(w, x), keys))(params),
        )

    jax.tree.map(close, *both(params))


def signals(name, evaluator=None, naive=False):
    """Learning signals, what comes through the old states, and the derivative of the model."""
    model, x, graph, found = example(name)
    evaluator = evaluator or found
    values, keys = values_of(graph), hidden_keys(graph)
    old = {k: values[k] for k in keys}
    step = pure_step(model, x)
    lineariser = Lineariser(graph)

    @jax.jit
    def compute():
        def loss(p, q):
            return loss_of(*evaluator((x,), values, p, q), keys)

        signal, beside = jax.grad(loss, (0, 1))(zeros(graph), zeros(graph))
        complete = jax.grad(lambda h: loss_of(*step(h, x), keys))(old)
        return signal, beside, complete, lineariser((x,), values)[2].D

    return graph, *compute()


def compare_with_model(name, **options):
    """`d loss / d h_old = D^T L + what bypasses the new states`, where nothing is cut."""
    graph, signal, beside, complete, diagonals = signals(name, **options)
    for g in graph.hidden_groups:
        back = jnp.einsum('...sr,...s->...r', diagonals[g.index], g.concat_hidden(signal[g.index]))
        total = back + g.concat_hidden(beside[g.index])
        close(total, g.concat_hidden([complete[path_key(p)] for p in g.hidden_paths]))


@pytest.mark.parametrize('name', DIAGONAL)
def test_every_way_from_the_old_states_is_counted_once(name):
    compare_with_model(name)


@pytest.mark.parametrize('name', ['spiking chain', 'never written', 'two spiking layers'])
def test_control_without_the_bypass_something_is_missing(name):
    evaluator = example(name)[3]

    def blind(args, states, p, q):
        return evaluator(args, states, p, None)

    with pytest.raises(AssertionError):
        compare_with_model(name, evaluator=blind)


def lstm_by_hand(model, x):
    """Both signals of an LSTM: the loss reads `h'` twice and `c'` once, beside its way to `h'`."""
    out, new = call_model(model, x)
    weights = [models.random(*out.shape, seed=70 + i) for i in range(3)]
    to_c = weights[1] * jnp.cos(new['c'])
    to_h = (weights[0] + weights[2]) * jnp.cos(new['h'])
    return to_h, to_c


def test_learning_signal_of_states_that_read_each_others_new_value():
    name = 'LSTM without recurrence, batch'
    to_h, to_c = lstm_by_hand(*example(name)[:2])
    graph, signal, *_ = signals(name)
    assert hidden_keys(graph) == ['c', 'h']
    close(signal[0][0], to_c)
    close(signal[0][1], to_h)


def test_control_a_perturbation_seen_inside_the_group_counts_twice():
    """The obvious choice, every reader sees `p`, adds the way from `c'` to `h'` a second time."""
    name = 'LSTM without recurrence, batch'
    model, x, graph, _ = example(name)
    evaluator = StepEvaluator(graph.module_info, graph.hidden_groups)
    source = evaluator._source

    def seen_by_all(v, version):
        found, group = source(v, version)
        return found, evaluator._new[v][0] if v in evaluator._new else group

    evaluator._source = seen_by_all
    values = values_of(graph)

    def to_c(evaluator):
        return jax.grad(lambda p: evaluator((x,), values, p)[0].sum())(zeros(graph))[0][0]

    y = x @ model.W.value + model.b.value
    new_c = call_model(model, x)[1]['c']
    close(to_c(example(name)[3]), 0)
    close(to_c(evaluator), jax.nn.sigmoid(y[..., 12:]) * (1 - jnp.tanh(new_c) ** 2))
    with pytest.raises(AssertionError):
        compare_with_model(name, evaluator=evaluator)


def test_learning_signal_passes_the_layers_above():
    """`L` of the first layer holds what its new state does in the second one, in this step."""
    model, x, graph, _ = example('two leaky layers')
    _, signal, *_ = signals('two leaky layers')
    first, second = (g.index for g in graph.hidden_groups)
    new = call_model(model, x)[1]
    weights = [models.random(2, 4, seed=70 + i) for i in range(3)]
    to_second = (weights[0] + weights[2]) * jnp.cos(new['second.h'])
    matrix = model.between.value @ model.second.W.value
    to_first = weights[1] * jnp.cos(new['first.h']) + to_second @ matrix.T
    close(signal[second][0], to_second)
    close(signal[first][0], to_first)


def test_an_output_that_reads_the_state_before_its_reset():
    """A spike made from the old membrane acts on the loss beside the new membrane."""
    model, x, graph, evaluator = example('spiking chain')
    assert evaluator.bypassed == {0}
    values = values_of(graph)

    def loss(p, q):
        return evaluator((x,), values, p, q)[0].sum()

    to_new, to_old = jax.grad(loss, (0, 1))(zeros(graph), zeros(graph))
    slope = 1 / (1 + 9 * (model.v.value - model.a.value) ** 2)
    assert not any(np.any(v) for v in to_new[0])
    found = dict(zip(hidden_keys(graph), to_old[0], strict=True))
    close(found['g'], 0)
    close(found['v'], slope)
    close(found['a'], -slope)


@pytest.mark.parametrize(
    ('name', 'groups'),
    [('leaky', set()), ('LSTM, batch', set()), ('delay line', {0}), ('never written', {1}),
     ('reset every step', {0}), ('GRU, batch', set()), ('two spiking layers', {0, 1})],
)  # fmt: skip
def test_which_groups_have_a_bypass(name, groups):
    assert example(name)[3].bypassed == groups


def test_new_states_carry_the_perturbation():
    _, x, graph, evaluator = example('LSTM, batch')
    values = values_of(graph)
    p = [[models.random(2, 4, seed=i) for i in range(2)]]
    _, plain = evaluator((x,), values)
    out, new = evaluator((x,), values, p)
    close(new['h'], plain['h'] + p[0][0])
    close(new['c'], plain['c'] + p[0][1])
    close(out, plain['h'] + p[0][0])


def test_states_that_enter_are_detached():
    _, x, graph, evaluator = example('GRU, batch')
    values = values_of(graph)
    gradient = jax.grad(lambda v: evaluator((x,), v)[0].sum())(values)
    assert not np.any(gradient['h'])
    assert np.any(gradient['Wz'])


def test_one_group_may_be_left_alone():
    _, x, graph, evaluator = example('two leaky layers')
    p = [None, zeros(graph)[1]]
    out, _ = evaluator((x,), values_of(graph), p)
    np.testing.assert_array_equal(out, evaluator((x,), values_of(graph))[0])


def test_random_keys_and_counters_pass_through():
    class Noisy(models.Cell):
        def init_state(self):
            super().init_state()
            self.count = brainstate.ShortTermState(jnp.zeros((), int))

        def update(self, x):
            self.count.value = self.count.value + 1
            noise = brainstate.random.normal(size=models.N)
            self.h.value = 0.5 * self.h.value + models.matmul(x, self.W.value) + noise
            return self.h.value

    model = models.ready(Noisy())
    x = models.random(3)
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(x)
    brainstate.random.seed(7)
    values = values_of(executor.graph)
    _, new = executor.evaluator((x,), values, zeros(executor.graph))
    brainstate.random.seed(7)
    model_h = model.h.value
    out = model(x)
    np.testing.assert_array_equal(new['h'], out)
    assert new['count'] == 1
    again = executor.evaluator((x,), new)[1]  # with the key that the first step left
    first = new['h'] - (0.5 * model_h + x @ model.W.value)
    second = again['h'] - (0.5 * new['h'] + x @ model.W.value)
    assert np.abs(first - second).max() > 1e-3


# ---------------------------------------------------------------- effective weights


def test_effective_weights_are_those_the_operators_see():
    class Chained(models.Cell):
        def update(self, x):
            weight = (self.W.value**2)[:, ::-1]
            y = models.matmul(x, weight) + models.matmul(self.h.value, jnp.tanh(self.R.value))
            self.h.value = 0.5 * self.h.value + jnp.tanh(y)
            return self.h.value

    model = models.ready(Chained())
    graph = compile_etrace_graph(model, models.random(3))
    found = effective_weights(graph, values_of(graph))
    close(found['W'], (model.W.value**2)[:, ::-1][None])
    close(found['R'], jnp.tanh(model.R.value)[None])
    _, pull = jax.vjp(lambda v: effective_weights(graph, v)['W'], values_of(graph))
    close(pull(jnp.ones((1, 3, 4)))[0]['W'], 2 * model.W.value)
