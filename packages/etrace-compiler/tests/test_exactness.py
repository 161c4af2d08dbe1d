"""The exactness contract as data, in `explain` and in the report.

What the verdicts say is measured in the tests of `etrace-algorithms`.
"""

import dataclasses
import inspect
import io
import pickle
from functools import partial

import brainstate
import jax
import jax.numpy as jnp
import pytest

import etrace_compiler.analysis.exactness as exactness_module
from etrace_compiler import (
    CompilationReport,
    DiagnosticKind,
    Verdict,
    compile_etrace_graph,
    element_wise,
    find_hidden_groups_from_minfo,
    matmul,
    path_key,
)
from etrace_compiler._jax import bodies, custom_rule_owner
from etrace_compiler.analysis.derivatives import DerivativeKind, derivative_kind
from etrace_compiler.flatten import program_of
from etrace_compiler.program import Var
from etrace_compiler.terminal import is_coloured, paint

from . import models

K = DiagnosticKind
EXACT, WITHIN, APPROXIMATE, ZERO = (
    Verdict.EXACT,
    Verdict.WITHIN_LAYER,
    Verdict.APPROXIMATE,
    Verdict.ZERO,
)


def graph_of(model, *shape):
    return compile_etrace_graph(models.ready(model), models.random(*(shape or (3,))))


def verdicts(graph):
    return {key: weight.verdict for key, weight in graph.exactness.items()}


def line_of(model_class):
    lines, start = inspect.getsourcelines(model_class.update)
    return next(start + i for i, text in enumerate(lines) if text.rstrip().endswith('# here'))


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize('name', models.EVERY)
def test_every_parameter_has_a_verdict(name):
    model, x = models.build(name)
    graph = compile_etrace_graph(model, x)
    paths = graph.module_info.parameter_paths
    assert set(graph.exactness) == set(map(path_key, paths))
    for path in paths:
        weight = graph.exactness[path_key(path)]
        assert weight.weight_path == path
        unused = graph.explain(weight_path=path, kind='parameter_unused')
        assert (weight.verdict is ZERO) == bool(unused)
        assert bool(weight.dropped) is (weight.verdict in (WITHIN, APPROXIMATE))


@pytest.mark.parametrize('name', models.POSITION_DIAGONAL)
def test_nothing_is_lost_where_positions_stay_apart(name):
    model, x = models.build(name)
    found = set(verdicts(compile_etrace_graph(model, x)).values())
    assert EXACT in found
    assert found <= {EXACT, ZERO}


@pytest.mark.parametrize('name', models.EVERY)
def test_an_exact_weight_stands_in_exact_relations(name):
    model, x = models.build(name)
    graph = compile_etrace_graph(model, x)
    for relation in graph.hidden_param_op_relations:
        if not relation.exact:
            for path in relation.trainable_paths:
                assert graph.exactness[path_key(path)].verdict in (WITHIN, APPROXIMATE)


def test_two_layers_without_recurrence():
    found = verdicts(graph_of(models.TwoLayers(models.Leaky, models.Leaky)))
    assert found == {
        'first.W': WITHIN,
        'first.decay': WITHIN,
        'between': APPROXIMATE,  # it meets another marked operation before a state
        'second.W': EXACT,
        'second.decay': EXACT,
    }


def test_the_plain_data_of_one_weight():
    class Cut(models.Cell):
        def update(self, x):
            y = matmul(x, self.W.value)
            y = y + matmul(self.h.value, self.R.value)  # here
            self.h.value = jnp.tanh(y)
            return self.h.value

    weight = graph_of(Cut()).exactness['W']
    assert (weight.weight_path, str(weight.verdict)) == (('W',), 'approximate')
    (group,) = weight.groups
    assert (group.index, group.hidden_paths, group.verdict) == (0, (('h',),), APPROXIMATE)
    (dropped,) = weight.dropped
    assert group.dropped == weight.dropped
    assert (dropped.reason, dropped.primitive) == (K.RECURRENCE_CUT, 'etp_matmul')
    assert (dropped.source.file, dropped.source.line) == (__file__, line_of(Cut))
    assert dropped.hidden_paths == (('h',),)
    assert dropped.message == '`etp_matmul` mixes positions on the way from h to h'
    assert str(dropped) == f'{dropped.message}\n    at {dropped.source}'
    with pytest.raises(dataclasses.FrozenInstanceError):
        dropped.message = ''
    assert pickle.loads(pickle.dumps(weight)) == weight


def test_the_words_of_the_verdicts():
    assert [str(v) for v in Verdict] == ['exact', 'exact within the layer', 'approximate', 'zero']


class MarkedInScan(models.Cell):
    def update(self, x):
        def body(h, _):
            return jnp.tanh(h @ self.R.value), None  # here

        h, _ = jax.lax.scan(body, self.h.value, None, length=3)
        self.h.value = h + matmul(x, self.W.value)
        return self.h.value


def test_a_parameter_inside_a_loop():
    dropped = graph_of(MarkedInScan()).exactness['R'].dropped
    assert (K.PARAMETER_UNMARKED, 'dot_general') in [(d.reason, d.primitive) for d in dropped]
    assert {d.source.line for d in dropped} == {line_of(MarkedInScan)}


class BehindWhile(models.Cell):
    """What a weight does passes a loop that has no reverse derivative."""

    def update(self, x):
        y = matmul(x, self.W.value)
        y = y + jax.lax.while_loop(lambda y: jnp.all(jnp.abs(y) < 3), lambda y: 2 * y, y)  # here
        self.h.value = 0.5 * self.h.value + y + element_wise(self.b.value)
        return self.h.value


def test_a_while_loop_passes_no_derivative():
    graph = graph_of(BehindWhile())
    assert verdicts(graph) == {'W': APPROXIMATE, 'b': EXACT, 'R': ZERO}
    (dropped,) = graph.exactness['W'].dropped
    assert (dropped.reason, dropped.primitive) == (K.CONTROL_FLOW_OPAQUE_FWD, 'while')
    assert dropped.source.line == line_of(BehindWhile)
    (record,) = graph.explain(weight_path='W', kind=K.CONTROL_FLOW_OPAQUE_FWD)
    assert (record.message, record.source) == (dropped.message, dropped.source)


class HiddenThroughWhile(models.Cell):
    def update(self, x):
        h = jax.lax.while_loop(lambda h: jnp.all(jnp.abs(h) < 3), lambda h: 2 * h, self.h.value)
        self.h.value = 0.5 * self.h.value + 0.1 * h + matmul(x, self.W.value)
        return self.h.value


def test_what_another_pass_has_recorded_is_not_recorded_again():
    graph = graph_of(HiddenThroughWhile())
    assert verdicts(graph)['W'] is APPROXIMATE
    (record,) = graph.explain(kind=K.CONTROL_FLOW_OPAQUE_FWD)
    assert record.message == 'a hidden state passes a `while`'


class Unread(BehindWhile):
    """The result of the loop carries no derivative on."""

    def update(self, x):
        y = matmul(x, self.W.value)
        steps = jax.lax.while_loop(
            lambda s: jnp.all(jnp.abs(s[0]) < 3), lambda s: (2 * s[0], s[1] + 1), (y, 0)
        )[1]
        self.h.value = 0.5 * self.h.value + y + steps
        return self.h.value


def test_a_while_loop_that_counts_costs_nothing():
    assert verdicts(graph_of(Unread()))['W'] is EXACT


def test_a_weight_of_zero_gradient_lists_no_groups():
    graph = graph_of(models.LSTM(recurrent=False))
    assert graph.exactness['R'] == dataclasses.replace(graph.exactness['R'], groups=(), dropped=())
    assert graph.exactness['R'].verdict is ZERO


def test_control_without_the_states_beside_the_groups_the_verdict_is_wrong(monkeypatch):
    """The case of the record, as it would be judged by hidden states alone."""
    from .test_records import NotHidden

    assert verdicts(graph_of(NotHidden()))['W'] is APPROXIMATE
    monkeypatch.setattr(exactness_module, '_lost_aside', lambda *_: ())
    assert verdicts(graph_of(NotHidden()))['W'] is EXACT


def test_many_layers_take_time_that_grows_little_faster_than_their_number():
    """Every layer is looked at by itself: the parts of the program that belong to it."""
    from etrace_compiler.analysis.layers import Layer, StepFlows

    class Deep(brainstate.nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.layers = [models.TwoLayers(models.Leaky, models.Leaky) for _ in range(depth)]
            self.back = models.parameter(4, 3, seed=8)

        def update(self, x):
            for layer in self.layers:
                x = matmul(layer(x), self.back.value)
            return x

    sizes = []
    for depth in (2, 6):
        info = graph_of(Deep(depth)).module_info
        groups, _ = find_hidden_groups_from_minfo(info)
        flows = StepFlows(info, groups)
        sizes.append(max(len(Layer(flows, group).equations) for group in groups))
    assert sizes[0] == sizes[1]


# ---------------------------------------------------------------- derivative rules


def with_rule(function, backward):
    made = jax.custom_vjp(function)
    made.defvjp(lambda x: (function(x), x), lambda x, g: (backward(x, g),))
    return made


RULES = {
    'surrogate': (models.spike, DerivativeKind.POSITIONWISE),
    'identity': (with_rule(jnp.sign, lambda x, g: g), DerivativeKind.POSITIONWISE),
    'gated': (
        with_rule(jnp.sign, lambda x, g: jnp.where(x > 0, g, -g / (1 + x**2))),
        DerivativeKind.POSITIONWISE,
    ),
    'relu': (jax.nn.relu, DerivativeKind.POSITIONWISE),
    'softplus': (jax.nn.softplus, DerivativeKind.POSITIONWISE),
    'turned': (with_rule(jnp.sin, lambda x, g: g[::-1]), DerivativeKind.LINEAR),
    'centred': (with_rule(jnp.sin, lambda x, g: g - g.mean()), DerivativeKind.LINEAR),
    'product': (with_rule(jnp.sin, lambda x, g: jnp.eye(4) @ g), DerivativeKind.LINEAR),
    'loop': (
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x), x),
        DerivativeKind.LINEAR,
    ),
    'clipped': (with_rule(jnp.sin, lambda x, g: jnp.clip(g, -1, 1)), DerivativeKind.UNKNOWN),
    'squared': (with_rule(jnp.sin, lambda x, g: g * g), DerivativeKind.UNKNOWN),
    'scaled': (with_rule(jnp.sin, lambda x, g: x / g), DerivativeKind.UNKNOWN),
    'signed': (with_rule(jnp.sin, lambda x, g: jnp.where(g > 0, x, g)), DerivativeKind.UNKNOWN),
    'rule in a loop': (
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: models.spike(x), x),
        DerivativeKind.UNKNOWN,
    ),
}


@pytest.mark.parametrize('name', RULES)
def test_kinds_of_derivative_rules(name):
    function, kind = RULES[name]
    program = program_of(function, jax.ShapeDtypeStruct((4,), float))
    (eqn,) = [e for e in program.equations if bodies(e)]
    operands = [k for k, v in enumerate(eqn.inputs) if isinstance(v, Var) and v.dtype == float]
    assert {derivative_kind(eqn, k) for k in operands} == {kind}


def test_one_function_has_one_rule_however_often_it_is_called():
    def owner_of(function, *args):
        program = program_of(function, *args)
        return [custom_rule_owner(e) for e in program.equations if e.name == 'custom_jvp_call']

    x = jax.ShapeDtypeStruct((4,), float)
    (relu,), (again,) = owner_of(jax.nn.relu, x), owner_of(lambda x: jax.nn.relu(2 * x), x)
    (spike,) = owner_of(models.spike, x)
    assert relu is again is not None
    assert spike is not relu

    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def scaled(x, factor):
        return jnp.sin(x)

    scaled.defjvp(lambda factor, p, t: (scaled(*p, factor), factor * t[0]))
    assert owner_of(lambda x: scaled(x, 2.0), x) == [None]  # its rule depends on the call


def test_a_rule_that_mixes_is_recorded():
    class Centred(models.Cell):
        def update(self, x):
            y = RULES['centred'][0](matmul(x, self.W.value))  # here
            self.h.value = 0.5 * self.h.value + y + element_wise(self.b.value)
            return self.h.value

    graph = graph_of(Centred())
    assert verdicts(graph) == {'W': APPROXIMATE, 'b': EXACT, 'R': ZERO}
    (record,) = graph.explain(weight_path='W', kind=K.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT)
    assert 'only through `custom_vjp_call`, which mixes positions' in record.message
    (dropped,) = graph.exactness['W'].dropped
    assert dropped.source.line == line_of(Centred)


# ---------------------------------------------------------------- explain


def kinds(records):
    return [r.kind for r in records]


def test_explain_names_what_is_cut_in_the_groups_that_a_weight_drives():
    graph = graph_of(models.TwoLayers())
    assert kinds(graph.explain(weight_path='first.W')) == [
        K.RELATION_INCLUDED,
        K.RECURRENCE_CUT,
        K.HISTORY_LEAVES_GROUP,
    ]
    (cut,) = graph.explain(weight_path='second.W', kind=K.RECURRENCE_CUT)
    assert cut.hidden_paths == (('second', 'h'),)
    assert not graph.explain(weight_path='second.W', kind=K.HISTORY_LEAVES_GROUP)


def test_explain_names_the_state_that_is_not_hidden():
    from .test_records import NotHidden

    graph = graph_of(NotHidden())
    (found,) = graph.explain(weight_path='W', kind=K.STATE_NOT_HIDDEN)
    assert graph.explain(hidden_path='mean') == (found,)
    assert dict(found.context)['weights'] == ('W',)
    assert not graph.explain(weight_path='b', kind=K.STATE_NOT_HIDDEN)


def test_a_long_list_of_weights_is_shortened_in_the_sentence_alone():
    class Many(models.Cell):
        def init_state(self):
            super().init_state()
            self.mean = brainstate.ShortTermState(jnp.zeros(4))

        def update(self, x):
            self.h.value = 0.5 * self.h.value + self.drive(x) + element_wise(self.b.value)
            self.h.value = self.h.value * jax.nn.sigmoid(element_wise(self.a.value))
            self.mean.value = 0.9 * self.mean.value + self.h.value
            return self.mean.value

    model = Many()
    model.a = models.parameter(4, seed=9)
    (found,) = graph_of(model).explain(kind=K.STATE_NOT_HIDDEN)
    assert 'what W, R, b and 1 more did to it' in found.message
    assert dict(found.context)['weights'] == ('W', 'R', 'b', 'a')


# ---------------------------------------------------------------- the report


class Terminal(io.StringIO):
    def isatty(self):
        return True


class ThreeLayers(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = [models.GRU(3 if i == 0 else 4, seed=10 * i) for i in range(3)]
        self.out, self.spare = models.parameter(4, 2, seed=40), models.parameter(2, seed=41)

    def update(self, x):
        for cell in self.cells:
            x = cell(x)
        return matmul(x, self.out.value)


def test_the_report_shows_the_verdicts_of_three_layers_in_few_lines():
    report = CompilationReport(graph_of(ThreeLayers()))
    assert report.exactness is not None
    text = report.to_str('error')
    lines = text.splitlines()
    start = lines.index('Exactness, learning with D_RTRL:')
    assert lines[start + 1 : start + 6] == [
        '  approximate             cells.0: Wz, Rz, Wr, Rr, Wc, Rc  (ETC203, ETC210, ETC214)',
        '  approximate             cells.1: Wz, Rz, Wr, Rr, Wc, Rc  (ETC203, ETC210, ETC214)',
        '  approximate             cells.2: Wz, Rz, Wr, Rr, Wc, Rc  (ETC203, ETC210)',
        '  exact                   out',
        '  zero                    spare',
    ]


def test_the_report_tells_once_what_holds_for_one_line():
    report = CompilationReport(graph_of(ThreeLayers()))
    once, everything = report.to_str('warning'), report.to_str('info')
    count = report.counts['warning']
    assert once.count('ETC210 warning') < 4
    assert everything.count(' warning: ') == count > once.count(' warning: ')
    assert 'more like this at this line' in once
    assert 'more like this at this line' not in everything


def test_colours_are_for_terminals(monkeypatch):
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    report = CompilationReport(graph_of(ThreeLayers()))
    plain, shown = io.StringIO(), Terminal()
    report.show(file=plain)
    report.show(file=shown)
    assert '\x1b' not in plain.getvalue()
    assert '\x1b[33mapproximate' in shown.getvalue()
    assert '\x1b[31mETC208 error\x1b[0m:' in shown.getvalue()
    monkeypatch.setenv('NO_COLOR', '1')
    shown = Terminal()
    report.show(file=shown)
    assert shown.getvalue() == plain.getvalue()


def test_when_a_file_is_coloured(monkeypatch):
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    assert is_coloured(Terminal())
    assert not is_coloured(io.StringIO())
    for name, value in (('NO_COLOR', '1'), ('TERM', 'dumb')):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not is_coloured(Terminal())
    monkeypatch.setenv('NO_COLOR', '')  # as good as not set
    assert is_coloured(Terminal())


def test_paint():
    assert paint('a', 'red') == '\x1b[31ma\x1b[0m'
    assert paint('a', 'red', coloured=False) == 'a'


def test_nothing_is_printed_unless_asked(capsys):
    CompilationReport(graph_of(ThreeLayers())).to_str()
    assert capsys.readouterr() == ('', '')


def test_a_weight_that_reaches_another_state_alone_is_not_called_complete():
    class OtherAlone(models.Cell):
        def init_state(self, *args, **kwargs):
            super().init_state()
            self.kept = brainstate.ShortTermState(jnp.ones(4))

        def update(self, x):
            self.kept.value = 0.9 * self.kept.value + matmul(x, self.W.value) + self.b.value
            self.h.value = 0.5 * self.h.value
            return self.kept.value

    graph = graph_of(OtherAlone())
    assert verdicts(graph)['W'] == verdicts(graph)['b'] == APPROXIMATE
    for weight, kind in (('W', K.RELATION_EXCLUDED_NON_TEMPORAL), ('b', K.PARAMETER_ONE_STEP)):
        (record,) = graph.explain(weight_path=weight, kind=kind)
        assert record.message == f'{weight} reaches no hidden state, but others that live on'


def test_a_state_behind_a_while_is_alive():
    class Behind(models.Cell):
        def update(self, x):
            h = jax.lax.while_loop(lambda h: jnp.sum(h**2) > 9, lambda h: h / 2, self.h.value)
            self.h.value = h + matmul(x, self.W.value)
            return self.h.value

    assert verdicts(graph_of(Behind()))['W'] == APPROXIMATE
