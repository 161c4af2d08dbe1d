"""The executors, as their documents describe them."""

import functools
from dataclasses import replace

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    ControlFlowPolicy,
    ETraceGraph,
    ETraceGraphExecutor,
    ETraceVjpGraphExecutor,
    MultiStepData,
    SingleStepData,
    get_single_step_data,
    matmul,
    split_input_data,
)

from . import models
from .oracle import call_model, dense_jacobian

close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def executor_of(name, kind=ETraceGraphExecutor):
    model, x = models.build(name)
    executor = kind(model)
    executor.compile_graph(x)
    return model, x, executor


def state_values(model):
    return {path: state.value for path, state in model.states().items()}


# ---------------------------------------------------------------- compiling


@pytest.mark.parametrize('kind', [ETraceGraphExecutor, ETraceVjpGraphExecutor])
@pytest.mark.parametrize('thing', [lambda x: x, None, models.Elman, 3])
def test_only_modules_have_a_graph(kind, thing):
    with pytest.raises(
        TypeError, match=r'`model` is not a model: .*brainstate\.nn\.Module.*ETC101'
    ):
        kind(thing)


@pytest.mark.parametrize('name', ['graph', 'states', 'path_to_states', 'state_id_to_path'])
def test_nothing_to_see_before_compiling(name):
    executor = ETraceGraphExecutor(models.ready(models.Elman()))
    assert not executor.is_compiled
    with pytest.raises(ValueError, match=r'`graph` is not compiled yet: .*ETC111'):
        getattr(executor, name)


@pytest.mark.parametrize('method', ['show_graph', 'solve_h2w_h2h_jacobian',
                                    'solve_h2w_h2h_l2h_jacobian'])  # fmt: skip
def test_nothing_to_do_before_compiling(method):
    executor = ETraceVjpGraphExecutor(models.ready(models.Elman()))
    with pytest.raises(ValueError, match=r'`graph` is not compiled yet'):
        getattr(executor, method)(*() if method == 'show_graph' else (models.random(3),))


def test_compiling_returns_nothing_and_changes_no_state():
    model = models.ready(models.LSTM())
    before = state_values(model)
    executor = ETraceGraphExecutor(model)
    assert executor.compile_graph(models.random(3)) is None
    assert executor.is_compiled
    assert isinstance(executor.graph, ETraceGraph)
    for path, value in state_values(model).items():
        assert value is before[path]


def test_states_by_path_and_by_identity():
    model, _, executor = executor_of('two layers')
    assert executor.model is model
    assert dict(executor.states.items()) == dict(executor.path_to_states.items())
    assert isinstance(executor.path_to_states, brainstate.util.FlattedDict)
    assert executor.path_to_states['first', 'h'] is model.first.h
    assert executor.state_id_to_path[id(model.second.W)] == ('second', 'W')
    # a state that is made anew is found at its path, without compiling again
    brainstate.nn.init_all_states(model)
    assert executor.states['first', 'h'] is model.first.h
    assert executor.state_id_to_path[id(model.first.h)] == ('first', 'h')
    assert len(executor.state_id_to_path) == len(executor.states)
    params = executor.states.filter(brainstate.ParamState)
    assert ('between',) in params
    assert ('first', 'h') not in params


def test_compiling_again_forgets_what_was_cached():
    model, x, executor = executor_of('Elman, batch')
    graph, table = executor.graph, executor.state_id_to_path
    old_h = model.h
    model.batch = (5,)
    brainstate.nn.init_all_states(model)
    executor.compile_graph(models.random(5, 3))
    assert executor.graph is not graph
    assert executor.graph.hidden_groups[0].varshape == (5, 4)
    assert executor.state_id_to_path is not table
    assert executor.state_id_to_path[id(model.h)] == ('h',)
    assert model.h is not old_h
    executor_vjp = ETraceVjpGraphExecutor(model)
    executor_vjp.compile_graph(models.random(5, 3))
    first = executor_vjp.lineariser
    executor_vjp.compile_graph(models.random(5, 3))
    assert executor_vjp.lineariser is not first
    assert x.shape == (2, 3)


def test_failing_to_compile_keeps_the_graph_there_was():
    model, _, executor = executor_of('Elman, batch')
    graph = executor.graph
    with pytest.raises(ValueError, match='matmul'):
        executor.compile_graph(models.random(2, 5))
    assert executor.graph is graph
    assert executor.state_id_to_path[id(model.h)] == ('h',)


@pytest.mark.parametrize('wrap', [lambda x: x, SingleStepData,
                                  lambda x: MultiStepData(jnp.stack([x] * 5))])  # fmt: skip
@pytest.mark.parametrize('kind', [ETraceGraphExecutor, ETraceVjpGraphExecutor])
def test_several_steps_count_as_their_first_one(wrap, kind):
    model = models.ready(models.Elman((2,)))
    executor = kind(model)
    executor.compile_graph(wrap(models.random(2, 3)))
    assert executor.graph.module_info.in_avals == (jax.ShapeDtypeStruct((2, 3), float),)


def test_control_flow_policy_is_handed_on():
    class InScan(models.Cell):
        def update(self, x):
            h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(matmul(h, self.R.value)), None),
                                self.h.value, None, length=2)  # fmt: skip
            self.h.value = h + matmul(x, self.W.value)
            return self.h.value

    model = models.ready(InScan())
    opaque = ControlFlowPolicy(scan_unroll_limit=0, scan_descent='off')
    with pytest.raises(ValueError, match='ETC301'):
        ETraceGraphExecutor(model, opaque).compile_graph(models.random(3))
    executor = ETraceGraphExecutor(model, replace(opaque, etp_in_control_flow='exclude'))
    executor.compile_graph(models.random(3))
    assert [r.key for r in executor.graph.hidden_param_op_relations] == ['W']


def test_show_graph(capsys):
    _, _, executor = executor_of('readout')
    assert executor.show_graph() is None
    printed = capsys.readouterr().out
    assert 'Hidden groups:\n  0: cell.h  [2, 4], S=1\n' in printed
    assert '  cell.W -> group 0' in printed
    assert '  out: out reaches no hidden state' in printed
    assert executor.show_graph(verbose=False, return_msg=True) + '\n' == printed
    assert capsys.readouterr().out == ''
    assert executor.show_graph(verbose=False) is None


# ---------------------------------------------------------------- solving


@pytest.mark.parametrize('method', ['solve_h2w_h2h_jacobian', 'solve_h2w_h2h_l2h_jacobian'])
def test_base_class_leaves_solving_to_others(method):
    _, x, executor = executor_of('Elman, batch')
    with pytest.raises(NotImplementedError, match=method):
        getattr(executor, method)(x)


def test_jacobians_of_one_step():
    model, x, executor = executor_of('LSTM without recurrence, batch', ETraceVjpGraphExecutor)
    before = state_values(model)
    out, hidden, other, (xs, fs), diagonals = executor.solve_h2w_h2h_jacobian(x)
    expected, after = call_model(model, x)
    np.testing.assert_array_equal(out, expected)
    assert set(hidden) == {'h', 'c'}
    for key in hidden:
        np.testing.assert_array_equal(hidden[key], after[key])
    assert other == {}
    (group,) = executor.graph.hidden_groups
    dense = dense_jacobian(model, x)
    names = [p[0] for p in group.hidden_paths]
    for s, new in enumerate(names):
        for r, old in enumerate(names):
            block = dense[new][old].reshape(8, 8)
            close(diagonals[0][..., s, r].reshape(8), jnp.diagonal(block))
    # the Jacobian with respect to the weight is the outer product of its two sides
    close(xs['W'], x[:, None])
    assert fs['W'][0].shape == (2, 1, 16, 2)
    for path, value in state_values(model).items():
        assert value is before[path]


def test_hidden_to_weight_jacobian_is_an_outer_product():
    model, x, executor = executor_of('leaky, batch', ETraceVjpGraphExecutor)
    _, _, _, (xs, fs), _ = executor.solve_h2w_h2h_jacobian(x)

    def new_state(w):
        decay = jax.nn.sigmoid(model.decay.value)
        return decay * model.h.value + x @ w

    dense = jax.jacrev(new_state)(model.W.value)  # (batch, out, in, out)
    found = jnp.einsum('gi,go->goi', xs['W'][:, 0], fs['W'][0][:, 0, :, 0])
    close(found, jnp.einsum('goio->goi', dense))


def test_other_states_are_returned_apart():
    class Counting(models.Cell):
        def init_state(self):
            super().init_state()
            self.count = brainstate.ShortTermState(jnp.zeros((), int))

        def update(self, x):
            self.count.value = self.count.value + 1
            self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
            return self.h.value

    executor = ETraceVjpGraphExecutor(models.ready(Counting()))
    executor.compile_graph(models.random(3))
    _, hidden, other, _, _ = executor.solve_h2w_h2h_jacobian(models.random(3))
    assert (set(hidden), other) == ({'h'}, {'count': 1})


def test_loss_to_hidden_residuals():
    """The last result maps the cotangents of output and states to the learning signals."""
    model, x, executor = executor_of('two layers', ETraceVjpGraphExecutor)
    out, hidden, other, _h2w, _h2h, signals = executor.solve_h2w_h2h_l2h_jacobian(x)
    plain = executor.solve_h2w_h2h_jacobian(x)
    np.testing.assert_array_equal(out, plain[0])
    new = {s.key: jnp.zeros(s.leaves[0].shape) for s in executor.graph.module_info.states}
    first, second = signals((jnp.ones_like(out), new))
    close(second[0], jnp.ones((2, 4)))
    slope = 1 - hidden['second.h'] ** 2
    close(first[0], slope @ (model.between.value @ model.second.W.value).T)
    assert other == {}


@pytest.mark.parametrize('method', ['solve_h2w_h2h_jacobian', 'solve_h2w_h2h_l2h_jacobian'])
def test_solving_takes_the_first_of_several_steps(method):
    _, x, executor = executor_of('Elman, batch', ETraceVjpGraphExecutor)
    several = MultiStepData(jnp.stack([x, 5 * x]))
    a, b = getattr(executor, method)(x), getattr(executor, method)(several)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[4][0], b[4][0])


def test_solving_follows_the_live_states():
    model, x, executor = executor_of('Elman, batch', ETraceVjpGraphExecutor)
    first = executor.solve_h2w_h2h_jacobian(x)[1]['h']
    model.h.value = first
    np.testing.assert_array_equal(executor.linearise(x).hidden[0][..., 0], first)
    assert np.abs(executor.solve_h2w_h2h_jacobian(x)[1]['h'] - first).max() > 1e-3


# ---------------------------------------------------------------- inputs


def test_inputs_of_one_step():
    x = jnp.arange(6.0).reshape(3, 2)
    tree = {'a': x, 'b': x + 1}
    bare, single, first = get_single_step_data(x, SingleStepData(tree), MultiStepData(tree))
    assert bare is x
    assert single is tree
    np.testing.assert_array_equal(first['b'], x[0] + 1)
    assert get_single_step_data() == ()


def test_inputs_of_several_steps():
    x = jnp.ones((5, 2))
    args, multi, length = split_input_data((x, SingleStepData(x), MultiStepData({'a': x, 'b': x})))
    assert multi == (False, False, True)
    assert length == 5
    assert args[1] is x
    assert split_input_data((x, SingleStepData(x)))[1:] == ((False, False), None)


@pytest.mark.parametrize(
    ('args', 'text'),
    [
        (
            (MultiStepData(np.ones((5, 2))), MultiStepData(np.ones((4, 2)))),
            r'leading axes \[4, 5\]',
        ),
        ((MultiStepData({'a': np.ones((5, 2)), 'b': np.ones(3)}),), r'leading axes \[3, 5\]'),
        ((MultiStepData(np.ones((0, 2))),), r'leading axes \[0\]'),
        ((MultiStepData(np.ones(())),), r'leading axes \[None\]'),
        ((MultiStepData({}),), r'leading axes \[\]'),
    ],
)
def test_steps_that_cannot_be_counted(args, text):
    with pytest.raises(ValueError, match=f'`MultiStepData` does not say how many.*{text}.*ETC112'):
        split_input_data(args)


@pytest.mark.parametrize('data', [np.ones(()), np.ones((0, 2))])
def test_there_is_no_first_step(data):
    with pytest.raises(ValueError, match=r'`MultiStepData` does not say how many .*ETC112'):
        get_single_step_data(MultiStepData(data))


def test_inputs_are_pytrees():
    doubled = jax.tree.map(lambda x: 2 * x, MultiStepData({'a': jnp.ones(3)}))
    assert isinstance(doubled, MultiStepData)
    np.testing.assert_array_equal(doubled.data['a'], 2 * np.ones(3))
    assert isinstance(jax.jit(lambda d: d)(SingleStepData(jnp.ones(2))), SingleStepData)
