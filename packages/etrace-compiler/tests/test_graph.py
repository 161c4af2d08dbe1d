"""The graph as data, the perturbed step, and the graph in words."""

import dataclasses
import functools
import io

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    CompilationReport,
    DiagnosticKind,
    ETraceGraph,
    ETraceVjpGraphExecutor,
    StepEvaluator,
    compile_etrace_graph,
    describe_graph,
    element_wise,
    matmul,
    path_key,
)

from . import models
from .oracle import call_model, values_of

close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


@functools.cache
def example(name):
    model, x = models.build(name)
    return model, x, compile_etrace_graph(model, x)


# ---------------------------------------------------------------- fields


def test_order_of_the_fields():
    names = [f.name for f in dataclasses.fields(ETraceGraph)]
    assert names == [
        'module_info',
        'hidden_groups',
        'hid_path_to_group',
        'hidden_param_op_relations',
        'hidden_perturb',
        'diagnostics',
        'exactness',
    ]
    graph = example('LSTM, batch')[2]
    assert list(graph.dict()) == names
    assert all(a is b for a, b in zip(graph, graph.dict().values(), strict=True))
    again = ETraceGraph(*list(graph)[:5])
    assert again.diagnostics == ()
    assert again.hidden_groups is graph.hidden_groups


def test_graph_cannot_be_changed():
    graph = example('LSTM, batch')[2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.hidden_groups = ()


def test_paths_and_keys():
    assert path_key(('a', 0, 'b')) == path_key('a.0.b') == 'a.0.b'
    graph = example('collections')[2]
    assert ('layers', 0, 'h') in graph.hid_path_to_group
    info = graph.module_info
    assert info.spec('layers.0.h').path == ('layers', 0, 'h')
    assert [s.key for s in info.by_role('hidden')] == [
        path_key(p) for g in graph.hidden_groups for p in g.hidden_paths
    ]


def test_module_info_knows_what_the_step_touches():
    class Counting(models.Cell):
        def init_state(self):
            super().init_state()
            self.count = brainstate.ShortTermState(jnp.zeros((), int))

        def update(self, x):
            self.count.value = self.count.value + 1
            self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
            return {'h': self.h.value, 'n': self.count.value}

    model = models.ready(Counting())
    info = compile_etrace_graph(model, models.random(3)).module_info
    roles = {spec.key: (spec.role, spec.written) for spec in info.states}
    assert roles == {'W': ('param', False), 'h': ('hidden', True), 'count': ('other', True)}
    assert set(info.parameter_paths) == {('W',), ('R',), ('b',)}
    assert info.in_avals == (jax.ShapeDtypeStruct((3,), float),)
    values = {s.key: getattr(model, s.key).value for s in info.states}
    flat = info.flatten_inputs((models.random(3),), values)
    assert len(flat) == len(info.program.inputs)


# ---------------------------------------------------------------- explain


def test_explain_filters():
    graph = example('two layers')[2]
    assert graph.explain() == graph.diagnostics
    assert graph.explain(weight_path=('first', 'W')) == graph.explain(weight_path='first.W')
    found = graph.explain(weight_path='first.W')
    assert {r.weight_path for r in found} == {('first', 'W'), None}  # None: of its group
    assert [r for r in found if r.weight_path] == list(found[: len(found) - 2])
    about = graph.explain(hidden_path='second.h')
    assert about == graph.explain(hidden_path=('second', 'h'))
    assert about
    assert all(('second', 'h') in r.hidden_paths for r in about)
    cut = graph.explain(kind=DiagnosticKind.RECURRENCE_CUT)
    assert cut == graph.explain(kind='recurrence_cut')
    assert len(cut) == 2
    (one,) = graph.explain(kind='recurrence_cut', hidden_path='first.h')
    assert one in cut
    assert graph.explain(weight_path='first') == ()
    with pytest.raises(ValueError, match='no_such_kind'):
        graph.explain(kind='no_such_kind')


def test_explain_with_a_path_that_holds_numbers():
    graph = example('collections')[2]
    assert graph.explain(weight_path=('layers', 0, 'W')) == graph.explain(weight_path='layers.0.W')
    assert graph.explain(weight_path='layers.0.W')


def test_records_are_plain_data():
    record = example('two layers')[2].explain(kind='history_leaves_group')[0]
    assert dict(record.context) == {'weights': ('first.W', 'first.R', 'first.b')}
    assert hash(record) == hash(dataclasses.replace(record))
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.message = ''


# ---------------------------------------------------------------- the perturbed step


@pytest.mark.parametrize('name', ['LSTM, batch', 'two layers', 'spiking, recurrent',
                                  'stacked and plain', 'tree states', 'delay line'])  # fmt: skip
def test_perturbation_of_zero_is_the_model(name):
    model, x, graph = example(name)
    perturb = graph.hidden_perturb.init_perturb_data()
    shapes = [s.leaves[0].shape for g in graph.hidden_groups for s in g.hidden_states]
    assert [p.shape for p in perturb] == shapes
    out, new = graph.call_hidden_perturb((x,), perturb)
    expected, after = call_model(model, x)
    np.testing.assert_array_equal(out, expected)
    for spec, value in zip(graph.module_info.states, new, strict=True):
        jax.tree.map(np.testing.assert_array_equal, value, after[spec.key])


def test_perturbation_from_states_that_are_given():
    model, x, graph = example('LSTM, batch')
    perturb = graph.hidden_perturb.init_perturb_data()
    _, new = graph.call_hidden_perturb((x,), perturb)
    out, _ = graph.call_hidden_perturb((x,), perturb, old_state_vals=new)
    first = {s.key: v for s, v in zip(graph.module_info.states, new, strict=True)}
    before = {name: getattr(model, name).value for name in ('h', 'c')}
    model.h.value, model.c.value = first['h'], first['c']
    np.testing.assert_array_equal(out, call_model(model, x)[0])
    model.h.value, model.c.value = before['h'], before['c']


def test_finite_difference_of_the_perturbation_is_the_learning_signal():
    _, x, graph = example('two layers')
    evaluator = StepEvaluator(graph.module_info, graph.hidden_groups)
    weights = models.random(2, 4, seed=80)
    per_group = [[jnp.zeros((2, 4))] for _ in graph.hidden_groups]

    def through_evaluator(p):
        return jnp.sum(weights * jnp.sin(evaluator((x,), values_of(graph), p)[0]))

    def through_graph(p):
        return jnp.sum(weights * jnp.sin(graph.call_hidden_perturb((x,), p)[0]))

    signal = jax.grad(through_evaluator)(per_group)
    zero, eps = graph.hidden_perturb.init_perturb_data(), 1e-6
    for k in range(2):
        direction = models.random(2, 4, seed=81 + k)
        moved = [[p + s * eps * direction if i == k else p for i, p in enumerate(zero)]
                 for s in (1, -1)]  # fmt: skip
        slope = (through_graph(moved[0]) - through_graph(moved[1])) / (2 * eps)
        assert abs(slope) > 1e-4
        np.testing.assert_allclose(slope, jnp.vdot(signal[k][0], direction), rtol=1e-6)


def test_perturbation_of_states_with_units():
    class Membrane(models.Cell):
        def init_state(self):
            self.v = brainstate.HiddenState(jnp.zeros(4) * u.mV)

        def update(self, x):
            drive = matmul(x, self.W.value * u.mV)
            self.v.value = 0.9 * self.v.value + drive
            return self.v.value

    model = models.ready(Membrane())
    graph = compile_etrace_graph(model, models.random(3))
    out, _ = graph.call_hidden_perturb((models.random(3),), [jnp.ones(4) * u.mV])
    expected, _ = call_model(model, models.random(3))
    close((out - expected).to_decimal(u.mV), 1)


def test_perturbed_jaxpr_takes_arguments_states_and_perturbations():
    _, x, graph = example('LSTM, batch')
    jaxpr = graph.hidden_perturb.perturb_jaxpr
    count = 1 + len(graph.module_info.states) + 2
    assert len(jaxpr.jaxpr.invars) == count
    values = values_of(graph)
    flat = jax.tree.leaves(((x,), values, [jnp.zeros((2, 4))] * 2))
    out = jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *flat)
    np.testing.assert_array_equal(
        out[0], graph.call_hidden_perturb((x,), [jnp.zeros((2, 4))] * 2)[0]
    )


def test_graph_without_a_perturbed_step():
    model, x = models.build('LSTM, batch')
    graph = compile_etrace_graph(model, x, include_hidden_perturb=False)
    assert graph.hidden_perturb is None
    with pytest.raises(ValueError, match=r'`graph` has no perturbed step: .*\[ETC110\]'):
        graph.call_hidden_perturb((x,), [])


def test_a_wrong_number_of_perturbations_is_refused():
    _, x, graph = example('LSTM, batch')
    for count in (1, 3):
        with pytest.raises(
            ValueError, match=rf'`perturb_data` .* got {count}; expected 2, .*ETC113'
        ):
            graph.call_hidden_perturb((x,), [jnp.zeros((2, 4))] * count)


# ---------------------------------------------------------------- in words


class Mixed(models.Cell):
    """One of everything: a trace, a readout, a parameter without use, a counter."""

    def __init__(self):
        super().__init__((2,))
        self.out, self.unused = models.parameter(4, 2, seed=8), models.parameter(2, seed=9)
        self.decay = models.parameter(4, seed=5)

    def init_state(self):
        super().init_state()
        self.count = brainstate.ShortTermState(jnp.zeros((), int))

    def update(self, x):
        self.count.value = self.count.value + 1
        decay = jax.nn.sigmoid(element_wise(self.decay.value))
        self.h.value = decay * self.h.value + jnp.tanh(self.drive(x))
        return matmul(self.h.value, self.out.value)


def mixed_graph():
    return compile_etrace_graph(models.ready(Mixed()), models.random(2, 3))


def test_graph_in_words():
    assert describe_graph(mixed_graph()).splitlines() == [
        'Hidden groups:',
        '  0: h  [2, 4], S=1',
        'Dynamic (non-hidden) states:',
        '  count',
        'Weights with a trace:',
        '  decay -> group 0',
        '  W -> group 0',
        '  R -> group 0',
        '  b -> group 0',
        'Weights without a trace:',
        '  out: out reaches no hidden state; its one-step gradient is complete',
        '  unused: unused reaches neither an output nor a hidden state; its gradient is zero',
    ]


def test_words_name_every_group_that_a_weight_drives():
    class SideBySide(models.Cell):
        def init_state(self):
            self.u, self.v = models.hidden(4), models.hidden(4, seed=51)

        def update(self, x):
            y = matmul(x, self.W.value)
            self.u.value = 0.5 * self.u.value + y
            self.v.value = 0.9 * self.v.value + y
            return self.u.value * self.v.value

    graph = compile_etrace_graph(models.ready(SideBySide()), models.random(3))
    assert '  W -> groups 0, 1' in describe_graph(graph).splitlines()


def test_report():
    graph = mixed_graph()
    report = CompilationReport(graph)
    assert report.hidden_groups == (('h',),)
    assert report.etrace_weights == {'decay': (0,), 'W': (0,), 'R': (0,), 'b': (0,)}
    assert set(report.excluded_weights) == {'out', 'unused'}
    assert report.dynamic_states == ('count',)
    assert report.diagnostics is graph.diagnostics
    assert report.counts == {
        level: sum(r.level.value == level for r in graph.diagnostics)
        for level in ('info', 'warning', 'error')
    }
    assert report.counts['error'] == 1
    assert sum(report.counts.values()) == len(graph.diagnostics)


def test_report_lists_records_from_a_level_upwards():
    report = CompilationReport(mixed_graph())
    texts = {level: report.to_str(level) for level in ('info', 'warning', 'error')}
    assert report.to_str() == texts['warning']
    assert 'ETC200' in texts['info']
    assert 'ETC200' not in texts['warning']
    assert 'ETC210 warning' in texts['warning']
    assert 'ETC210 warning' not in texts['error']
    assert all('ETC208' in text for text in texts.values())
    file = io.StringIO()
    report.show('error', file=file)
    assert file.getvalue() == texts['error'] + '\n'


@pytest.mark.parametrize('name', models.EVERY)
def test_report_accounts_for_every_parameter_once(name):
    graph = example(name)[2]
    report = CompilationReport(graph)
    names = [path_key(p) for p in graph.module_info.parameter_paths]
    assert sorted([*report.etrace_weights, *report.excluded_weights]) == sorted(names)
    assert 'no marked operation' not in report.excluded_weights.values()


def test_example_of_the_linearisation():
    """The graph that a linearisation belongs to travels with it."""
    model, x, _ = example('LSTM, batch')
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(x)
    lin = executor.linearise(x)
    assert lin.graph is executor.graph
    assert lin.relations is executor.graph.hidden_param_op_relations
