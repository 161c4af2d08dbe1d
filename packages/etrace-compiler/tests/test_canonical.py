"""The one form that every step is brought into, whatever it was written with."""

import functools

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    CompilationError,
    ControlFlowPolicy,
    ETraceVjpGraphExecutor,
    compile_etrace_graph,
    element_wise,
    matmul,
)
from etrace_compiler.canonical import parameter_only
from etrace_compiler.canonical.constants import fold_constants
from etrace_compiler.canonical.markers import drop_dead_equations, sink_markers
from etrace_compiler.flatten import flatten_jaxpr, program_of
from etrace_compiler.interpret import run
from etrace_compiler.program import Const

from . import models
from .oracle import call_model

close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def program(function, *shapes):
    return program_of(function, *(jax.ShapeDtypeStruct(s, float) for s in shapes))


def names(steps):
    return [eqn.name for eqn in steps.equations]


def evaluate(steps, *inputs):
    env = run(steps, inputs)
    return [env(v) for v in steps.outputs]


def same_step(wrap):
    """A cell whose drive and update go through a function transformation."""

    class Wrapped(models.Cell):
        def update(self, x):
            y = wrap(lambda x, h, W, R: matmul(x, W) + matmul(h, R))(
                x, self.h.value, self.W.value, self.R.value
            )
            self.h.value = wrap(lambda h, y: 0.5 * h + jnp.tanh(y))(self.h.value, y)
            return self.h.value

    return Wrapped()


WRAPPERS = {
    'jit': jax.jit,
    'nested jit': lambda f: jax.jit(lambda *a: jax.jit(f)(*a)),
    'checkpoint': jax.checkpoint,
    'checkpoint of jit': lambda f: jax.checkpoint(jax.jit(f)),
    'jit, inlined': functools.partial(jax.jit, inline=True),
    'named scope': lambda f: jax.named_call(f, name='inner'),
}


@pytest.mark.parametrize('name', WRAPPERS)
def test_wrapping_changes_nothing(name):
    """Nested calls are spliced in: same relations, groups, cuts and derivatives."""
    x = models.random(3)
    graphs = []
    for wrap in (lambda f: f, WRAPPERS[name]):
        executor = ETraceVjpGraphExecutor(models.ready(same_step(wrap)))
        executor.compile_graph(x)
        graphs.append((executor.graph, executor.linearise(x)))
    (plain, lin), (graph, other) = graphs
    assert [r.key for r in graph.hidden_param_op_relations] == ['W', 'R']
    assert [c.primitive for c in graph.hidden_groups[0].hidden_cuts] == ['etp_matmul']
    assert not {'jit', 'pjit', 'remat2', 'checkpoint'} & set(names(graph.module_info.program))
    assert [r.kind for r in graph.diagnostics] == [r.kind for r in plain.diagnostics]
    close(lin.D[0], other.D[0])
    jax.tree.map(close, lin.f, other.f)


def test_a_line_inside_a_jitted_function_is_named():
    @jax.jit
    def inner(x, w):
        return matmul(x, w)

    class Wrapped(models.Cell):
        def update(self, x):
            self.h.value = 0.5 * self.h.value + inner(x, self.W.value)
            return self.h.value

    graph = compile_etrace_graph(models.ready(Wrapped()), models.random(3))
    source = graph.relation('W').source
    assert (source.file, source.function.split('.')[-1]) == (__file__, 'inner')


def test_flattening_keeps_values():
    @jax.custom_jvp
    def doubled(v):
        return 2 * v

    doubled.defjvp(lambda p, t: (doubled(*p), 3 * t[0]))

    def function(a, b):
        c = jax.jit(lambda a: jnp.sin(a) * 2)(a)
        d = jax.checkpoint(lambda b, c: jax.jit(jnp.dot)(b, c))(b, c)
        return doubled(d), c, 1.0, a

    a, b = models.random(4), models.random(3, 4)
    steps = flatten_jaxpr(jax.make_jaxpr(function)(a, b))
    for found, expected in zip(evaluate(steps, a, b), function(a, b), strict=True):
        close(found, expected)
    assert 'custom_jvp_call' in names(steps)
    tangent = jax.jvp(lambda a: evaluate(steps, a, b)[0], (a,), (a,))[1]
    close(tangent, 3 * b @ (2 * jnp.cos(a) * a))


def test_constants_of_the_closure_become_operands():
    table = np.arange(4.0)
    steps = program(lambda a: a * table, (4,))
    (eqn,) = steps.equations
    assert [type(v) for v in eqn.inputs][1] is Const
    close(evaluate(steps, np.ones(4))[0], table)


# ---------------------------------------------------------------- constants


def test_index_arithmetic_is_evaluated():
    def function(a):
        at = jnp.arange(4)
        at = jnp.where(at < 2, at + 2, at - 2)
        return a[at]

    steps = fold_constants(program(function, (4,)))
    assert names(steps) == ['gather']
    assert isinstance(steps.equations[0].inputs[1], Const)
    close(evaluate(steps, np.arange(4.0))[0], [2, 3, 0, 1])


def test_real_constants_are_left_alone():
    steps = program(lambda a: a * jnp.sin(jnp.ones(4)), (4,))
    assert 'sin' in names(fold_constants(steps))


def test_large_constants_are_left_alone(monkeypatch):
    from etrace_compiler.canonical import constants

    monkeypatch.setattr(constants, '_MAX_SIZE', 3)
    steps = program(lambda a: a[jnp.flip(jnp.arange(4))], (4,))
    assert 'iota' in names(fold_constants(steps))


def test_a_result_that_is_constant():
    steps = fold_constants(program(lambda a: (a, jnp.arange(3) + 1), (2,)))
    assert isinstance(steps.outputs[1], Const)
    np.testing.assert_array_equal(steps.outputs[1].value, [1, 2, 3])


# ---------------------------------------------------------------- marks


def sunk(function, *shapes, parameters=(0,), hidden_outputs=()):
    steps = program(function, *shapes)
    return sink_markers(steps, {steps.inputs[i] for i in parameters}, set(hidden_outputs))


def test_mark_moves_behind_the_chain():
    steps = sunk(lambda w, h: jax.nn.sigmoid(element_wise(w)) * h, (4,), (2, 4))
    assert names(steps)[-2:] == ['etp_element_wise', 'mul']
    assert steps.equations[-2].outputs[0].shape == (2, 4)
    w, h = models.random(4), models.random(2, 4)
    close(evaluate(steps, w, h)[0], jax.nn.sigmoid(w) * h)


def test_an_unmarked_parameter_gets_no_mark():
    assert 'etp_element_wise' not in names(sunk(lambda w, h: jnp.tanh(w) * h, (4,), (4,)))


def test_a_mark_of_data_stays():
    steps = sunk(lambda w, h: w * element_wise(h), (4,), (4,))
    assert names(steps) == ['etp_element_wise', 'mul']


def test_a_mark_is_set_once_per_shape():
    def function(w, h):
        w = element_wise(w)
        return w * h + jnp.tanh(w - h), jax.lax.mul(w, h[:1])

    steps = sunk(function, (1,), (4,))
    shapes = [e.outputs[0].shape for e in steps.equations if e.name == 'etp_element_wise']
    assert shapes == [(4,), (1,)]


def test_a_marked_parameter_in_a_products_weight_needs_no_mark():
    steps = sunk(lambda w, h: matmul(h, element_wise(w)), (4, 3), (4,))
    assert names(steps) == ['etp_matmul']


def test_a_marked_parameter_as_a_products_input_keeps_its_mark():
    steps = sunk(lambda w, h, v: matmul(element_wise(w) * h, v), (4,), (4,), (4, 3),
                 parameters=(0, 2))  # fmt: skip
    assert names(steps) == ['etp_element_wise', 'mul', 'etp_matmul']


def test_a_mark_that_is_an_output_is_set_there():
    steps = sunk(lambda w, h: (element_wise(w) ** 2, h), (4,), (4,), hidden_outputs=(0,))
    assert names(steps)[-1] == 'etp_element_wise'
    close(evaluate(steps, np.arange(4.0), np.ones(4))[0], np.arange(4.0) ** 2)
    plain = sunk(lambda w, h: (element_wise(w) ** 2, h), (4,), (4,))
    assert 'etp_element_wise' not in names(plain)


def test_what_depends_on_parameters_alone():
    steps = program(lambda w, h: (jnp.sin(w) * 2, w * h, jnp.cos(h), jnp.ones(4)), (4,), (4,))
    found = parameter_only(steps, {steps.inputs[0]})
    is_fixed = [v in found for v in steps.outputs if not isinstance(v, Const)]
    assert is_fixed == [True, False, False, False][: len(is_fixed)]


def test_dead_equations_go_and_effects_stay():
    def function(a):
        jax.debug.print('{}', a)
        jnp.sin(a)
        return a * 2

    steps = drop_dead_equations(program(function, (2,)))
    assert 'sin' not in names(steps)
    assert 'mul' in names(steps)
    assert len(names(steps)) == 2


# ---------------------------------------------------------------- in models


def test_dropout_in_a_model():
    """The mask is drawn from the live key: values are those of the model, key included."""

    class Dropped(models.Cell):
        def __init__(self):
            super().__init__()
            self.dropout = brainstate.nn.Dropout(0.5)

        def update(self, x):
            y = self.dropout(jnp.tanh(matmul(x, self.W.value)))
            self.h.value = 0.5 * self.h.value + y
            return self.h.value

    model = models.ready(Dropped())
    x = models.random(3)
    slope = 1 - jnp.tanh(x @ model.W.value) ** 2
    counts = set()
    with brainstate.environ.context(fit=True):
        executor = ETraceVjpGraphExecutor(model)
        executor.compile_graph(x)
        for seed in range(4):
            brainstate.random.seed(seed)
            out, _, other, (_, fs), diagonals = executor.solve_h2w_h2h_jacobian(x)
            np.testing.assert_array_equal(out, call_model(model, x)[0])
            close(diagonals[0].reshape(-1), 0.5)
            kept = np.abs(out - 0.5 * model.h.value) > 1e-12
            close(fs['W'][0].reshape(-1), np.where(kept, 2 * slope, 0))
            counts.add(int(kept.sum()))
    assert counts - {0, 4}, 'the mask was never seen at work'
    assert len(other) == 1
    assert executor.graph.relation('W').exact


def test_printing_in_a_model(capfd):
    class Printing(models.Cell):
        def update(self, x):
            self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
            jax.debug.print('sum {}', jnp.round(self.h.value.sum(), 3))
            return self.h.value

    executor = ETraceVjpGraphExecutor(models.ready(Printing()))
    executor.compile_graph(models.random(3))
    executor.solve_h2w_h2h_jacobian(models.random(3))
    jax.effects_barrier()
    assert 'sum ' in capfd.readouterr().out


# ---------------------------------------------------------------- bounded rounds through loops


class ShiftedInside(models.Cell):
    """Labels fill a register inside a loop slot by slot, one in each round of the analysis."""

    def update(self, x):
        def body(line, _):
            return jnp.concatenate([self.h.value[:1], line[:-1]]), None

        line, _ = jax.lax.scan(body, jnp.zeros(12), None, length=20)
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value) + line[3] * line[7]
        return self.h.value


def test_a_loop_that_does_not_settle_is_given_up():
    model, x = models.ready(ShiftedInside()), models.random(3)
    policy = ControlFlowPolicy(fixpoint_iteration_limit=5)
    with pytest.raises(CompilationError, match=r'got 5 rounds through the loop.*ETC105') as caught:
        compile_etrace_graph(model, x, control_flow=policy)
    assert f'at {__file__}:' in str(caught.value)
    assert compile_etrace_graph(model, x).hidden_groups  # the default is enough
    left = ControlFlowPolicy(fixpoint_iteration_limit=5, scan_descent='off')
    assert compile_etrace_graph(model, x, control_flow=left).hidden_groups


def test_the_stacked_results_of_a_loop_may_be_the_output():
    class Stacked(models.Cell):
        def update(self, x):
            y = matmul(x, self.W.value)
            steps = jnp.linspace(0, 0.1, 20)
            self.h.value, ys = jax.lax.scan(lambda h, t: (h + t * y, t * h), self.h.value, steps)
            return ys

    model, x = models.ready(Stacked()), models.random(3)
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(x)
    out, *_ = executor.solve_h2w_h2h_jacobian(x)
    np.testing.assert_allclose(out, call_model(model, x)[0], rtol=1e-12)
