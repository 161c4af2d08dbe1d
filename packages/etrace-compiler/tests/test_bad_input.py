"""Models that cannot be compiled: one clear sentence, the user's line, and nothing changed."""

import inspect

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    CompilationError,
    ControlFlowPolicy,
    ETraceVjpGraphExecutor,
    NotSupportedError,
    compile_etrace_graph,
    element_wise,
    extract_module_info,
    matmul,
)
from etrace_compiler.errors import explain_error

from . import models


class Learning(models.Cell):
    """A model that writes a parameter."""

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        self.W.value = self.W.value + 0.1 * jnp.outer(x, self.h.value)  # here
        return self.h.value


class Renewing(models.Cell):
    """A model that writes a parameter with what it was."""

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        self.W.value = self.W.value
        return self.h.value


class Uninitialised(models.Cell):
    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.5 * self.h.value + y  # here
        return self.h.value


class InnerUninitialised(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = Uninitialised()

    def update(self, x):
        return self.cell(x)


class Looping(models.Cell):
    def update(self, x):
        def body(y):
            return y + x @ self.W.value

        y = jax.lax.while_loop(lambda y: jnp.all(jnp.abs(y) < 3), body, x[0] * jnp.ones(4))  # here
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class Scanning(models.Cell):
    def update(self, x):
        h, _ = jax.lax.scan(
            lambda h, _: (jnp.tanh(matmul(h, self.R.value)), None), self.h.value, None, length=2
        )
        self.h.value = h
        return h


class Typo(models.Cell):
    """A fault of the user's that has nothing to do with states."""

    def update(self, x):
        return jnp.no_such_function(x)


def line_of(model_class):
    lines, start = inspect.getsourcelines(model_class)
    return next(start + i for i, line in enumerate(lines) if line.rstrip().endswith('# here'))


def values(model):
    return {path: state.value for path, state in model.states().items()}


def assert_refused(model, *args, error, match):
    """Compiling raises, leaves every state as it was, and no tracer anywhere."""
    before = values(model)
    with pytest.raises(error, match=match) as caught:
        compile_etrace_graph(model, *args)
    after = values(model)
    assert set(after) == set(before)
    for path, value in after.items():
        assert value is before[path]
        for leaf in jax.tree.leaves(value):
            assert not isinstance(leaf, jax.core.Tracer)
            np.asarray(leaf)
    return caught.value


@pytest.mark.parametrize('thing', [None, 3, lambda x: x, models.Elman, object()])
def test_not_a_module(thing):
    for compile_ in (compile_etrace_graph, extract_module_info):
        with pytest.raises(TypeError, match='`model` is not a model: got ') as caught:
            compile_(thing, models.random(3))
        text = str(caught.value)
        assert f'got {type(thing).__name__}; expected an instance of brainstate.nn.Module' in text
        assert text.endswith('[ETC101]')


@pytest.mark.parametrize(('model', 'name'), [(Uninitialised, 'Uninitialised'),
                                             (InnerUninitialised, 'Uninitialised')])  # fmt: skip
def test_states_not_initialised(model, name):
    error = assert_refused(model(), models.random(3), error=CompilationError, match='ETC102')
    text = str(error)
    assert text.startswith(f'`{name}.h` does not exist while the model is traced: ')
    assert 'Call brainstate.nn.init_all_states(model[, batch_size]) first' in text
    assert f'at {__file__}:{line_of(Uninitialised)} (update)' in text
    assert isinstance(error.__cause__, AttributeError)


def test_a_missing_attribute_of_something_else_stays_what_it_is():
    assert_refused(models.ready(Typo()), models.random(3), error=AttributeError,
                   match='no_such_function')  # fmt: skip


def test_a_step_that_writes_a_parameter():
    error = assert_refused(models.ready(Learning()), models.random(3), error=CompilationError,
                           match='ETC103')  # fmt: skip
    text = str(error)
    assert text.startswith('`W` is a parameter that the step writes: ')
    assert 'Hold it in a brainstate.HiddenState or ShortTermState instead.' in text
    assert f'at {__file__}:{line_of(Learning)} (Learning.update)' in text


def test_a_step_that_writes_a_parameter_back():
    assert_refused(models.ready(Renewing()), models.random(3), error=CompilationError,
                   match='`W` is a parameter that the step writes')  # fmt: skip


def test_a_weight_in_a_while():
    error = assert_refused(models.ready(Looping()), models.random(3), error=CompilationError,
                           match='ETC302 error: a parameter is used in a `while`')  # fmt: skip
    assert f'at {__file__}:{line_of(Looping)}' in str(error)
    assert 'Use a loop with a fixed number of steps' in str(error)
    assert [r.code for r in error.records] == ['ETC302']


def test_a_marked_operator_in_a_loop_that_is_left():
    model, x = models.ready(Scanning()), models.random(3)
    policy = ControlFlowPolicy(scan_unroll_limit=0, scan_descent='off')
    with pytest.raises(CompilationError) as caught:
        compile_etrace_graph(model, x, control_flow=policy)
    assert 'ETC301 warning: etp_matmul stands inside a `scan`' in str(caught.value)
    assert f'at {__file__}:' in str(caught.value)


@pytest.mark.parametrize(
    ('x', 'match'),
    [
        ((5,), r'`matmul` cannot multiply these shapes: got x \(5,\) and weight \(3, 4\).*ETC802'),
        ((), r'`matmul` cannot multiply these shapes: got x \(\) and weight \(3, 4\)'),
        ((2, 3, 5), r'got x \(2, 3, 5\) and weight \(3, 4\)'),
    ],
)
def test_inputs_of_the_wrong_shape(x, match):
    assert_refused(models.ready(models.Elman((2,))), jnp.ones(x), error=ValueError, match=match)


def test_an_input_of_another_batch_size():
    """JAX's own words where an addition in the user's code fails."""
    model, x = models.ready(models.Elman((2,))), jnp.ones((5, 3))
    assert_refused(model, x, error=(TypeError, ValueError), match='incompatible shapes')


def test_too_few_arguments():
    assert_refused(models.ready(models.Elman()), error=TypeError, match='missing 1 required')


def test_a_failing_executor_may_be_used_afterwards():
    model = models.ready(models.Elman())
    executor = ETraceVjpGraphExecutor(model)
    with pytest.raises(ValueError, match='ETC802'):
        executor.compile_graph(jnp.ones(5))
    assert not executor.is_compiled
    executor.compile_graph(jnp.ones(3))
    executor.solve_h2w_h2h_jacobian(jnp.ones(3))


def test_a_failing_step_leaves_the_states():
    model = models.ready(models.Elman((2,)))
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(jnp.ones((2, 3)))
    before = values(model)
    with pytest.raises((TypeError, ValueError)):
        executor.solve_h2w_h2h_jacobian(jnp.ones((2, 5)))
    assert all(value is before[path] for path, value in values(model).items())


def test_compiling_a_good_model_leaves_the_states_too():
    model, x = models.build('spiking, recurrent')
    before = values(model)
    compile_etrace_graph(model, x)
    assert all(value is before[path] for path, value in values(model).items())


def test_nan_passes_through():
    model, x = models.build('LSTM, batch')
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(x * jnp.nan)
    _, hidden, _, (_, fs), diagonals = executor.solve_h2w_h2h_jacobian(x * jnp.nan)
    assert np.isnan(hidden['h']).all()
    assert np.isnan(diagonals[0]).any()
    assert np.isfinite(executor.linearise(x).D[0]).all()
    assert fs['W'][0].shape == (2, 1, 16, 2)


def test_a_model_without_hidden_states_compiles_to_nothing():
    class Feedforward(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = models.parameter(3, 4)

        def update(self, x):
            return element_wise(matmul(x, self.W.value))

    graph = compile_etrace_graph(Feedforward(), models.random(3))
    assert (graph.hidden_groups, graph.hidden_param_op_relations) == ((), ())
    assert [r.code for r in graph.explain(weight_path='W')] == ['ETC202']


def test_a_model_without_parameters_compiles_to_its_states():
    class Bare(brainstate.nn.Module):
        def init_state(self):
            self.h = models.hidden(3)

        def update(self, x):
            self.h.value = 0.5 * self.h.value + x
            return self.h.value

    model = models.ready(Bare())
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(models.random(3))
    assert executor.graph.diagnostics == ()
    np.testing.assert_allclose(executor.linearise(models.random(3)).D[0].reshape(-1), 0.5)


def test_form_of_an_error():
    text = explain_error(
        'a', 'is wrong', got=1, expected='2', fix='Do b.', code='ETC9', where='c:1'
    )
    assert text == '`a` is wrong: got 1; expected 2. Do b. [ETC9]\n  at c:1'
    assert issubclass(CompilationError, ValueError)
    assert issubclass(NotSupportedError, NotImplementedError)
    assert CompilationError('a').records == ()
