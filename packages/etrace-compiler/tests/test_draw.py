"""The picture of a graph says what the graph says: nothing is missing, nothing is invented."""

import inspect

import brainstate
import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings

from etrace_compiler import compile_etrace_graph, draw, matmul, path_key
from etrace_compiler.analysis.flow import Reach
from etrace_compiler.drawing import Cut, describe
from etrace_compiler.drawing._legs import Anchor, find_legs, place_of

from . import drawn, models
from .test_random_models import Scripted, scripts


def reached(legs, start):
    """All anchors that a derivative with respect to one of them flows to, over any number."""
    found, waiting = {start}, [start]
    while waiting:
        a = waiting.pop()
        for (b, c), leg in legs.direct.items():
            if b == a and leg.passes and c not in found:
                found.add(c)
                waiting.append(c)
    return found


def ways_lead_to_the_groups_that_the_compiler_says_are_fed(graph):
    legs = find_legs(graph)
    for group in graph.hidden_groups:
        found = reached(legs, Anchor('group', group.index, delayed=True))
        groups = {a.index for a in found if a.kind == 'group'}
        assert groups - {group.index} == set(group.feeds)


def every_relation_is_shown_once_and_drives_its_groups(graph):
    picture, relations = describe(graph), graph.hidden_param_op_relations
    where = [(item.key, node.id) for node in picture.nodes for item in node.items if item.key]
    assert sorted(key for key, _ in where) == sorted(r.key for r in relations)
    where = dict(where)
    drives = {(e.source, e.target) for e in picture.edges if e.kind == 'drive'}
    assert drives == {
        (where[r.key], f'group:{g.index}') for r in relations for g in r.hidden_groups
    }
    shown = {item.key: item for node in picture.nodes for item in node.items}
    for r in relations:
        assert shown[r.key].block == r.block_shape
        verdicts = {str(graph.exactness[path_key(p)].verdict) for p in r.trainable_paths}
        assert shown[r.key].exactness in verdicts
        assert len(verdicts) == 1 or shown[r.key].exactness == 'approximate'
        assert shown[r.key].place == place_of(r.source)


def every_hidden_state_is_in_the_box_of_its_group(graph):
    picture = describe(graph)
    for group in graph.hidden_groups:
        names = [item.name for item in picture.node(f'group:{group.index}').items]
        assert names == [path_key(path) for path in group.hidden_paths]
    assert sum(node.kind == 'group' for node in picture.nodes) == len(graph.hidden_groups)


def a_recurrence_is_drawn_where_a_derivative_of_the_past_is_left(graph):
    drawn_loops = {e.source for e in describe(graph).edges if e.kind == 'recurrence'}
    for group in graph.hidden_groups:
        cut = {c.edge for c in group.hidden_cuts}
        left = Reach(graph.module_info.program, [group.hidden_invars], cut)
        if any(left(0, v) for v in group.hidden_outvars):
            assert f'group:{group.index}' in drawn_loops


def no_parameter_is_missing(graph):
    items = [item for node in describe(graph).nodes for item in node.items]
    shown = {name for item in items for name in (item.name, *item.parameters)}
    assert {path_key(path) for path in graph.module_info.parameter_paths} <= shown


def everything_cut_on_the_way_of_a_state_is_on_an_edge(graph):
    shown = {
        (cut.primitive, cut.place, g)
        for edge in describe(graph).edges
        for cut in edge.cuts
        for g in cut.groups
    }
    cuts = {(c, g.index) for g in graph.hidden_groups for c in g.hidden_cuts}
    assert {(c.primitive.removeprefix('etp_'), place_of(c.source), g) for c, g in cuts} <= shown


def a_weight_without_a_trace_carries_the_code_of_a_record_about_it(graph):
    codes = {(path_key(r.weight_path), r.code) for r in graph.diagnostics if r.weight_path}
    for node in describe(graph).nodes:
        if node.code not in (None, 'ETC201'):
            names = {n for item in node.items for n in (item.parameters or (item.name,))}
            assert {(name, node.code) for name in names} <= codes


def what_has_no_gradient_is_told_and_nothing_else(graph):
    zero = {path_key(r.weight_path) for r in graph.explain(kind='parameter_unused')}
    unused = [node for node in describe(graph).nodes if node.kind == 'unused']
    assert {item.name for node in unused for item in node.items} == zero


def ids_are_unique_and_edges_join_boxes(graph):
    picture = describe(graph)
    ids = [node.id for node in picture.nodes]
    assert len(set(ids)) == len(ids)
    assert {end for e in picture.edges for end in (e.source, e.target)} <= set(ids)
    keys = [(e.source, e.target, e.kind) for e in picture.edges]
    assert len(set(keys)) == len(keys)
    assert all((edge.kind == 'cut') == bool(edge.cuts) for edge in picture.edges)


CHECKS = (
    ways_lead_to_the_groups_that_the_compiler_says_are_fed,
    every_relation_is_shown_once_and_drives_its_groups,
    every_hidden_state_is_in_the_box_of_its_group,
    a_recurrence_is_drawn_where_a_derivative_of_the_past_is_left,
    no_parameter_is_missing,
    everything_cut_on_the_way_of_a_state_is_on_an_edge,
    a_weight_without_a_trace_carries_the_code_of_a_record_about_it,
    what_has_no_gradient_is_told_and_nothing_else,
    ids_are_unique_and_edges_join_boxes,
)


@pytest.mark.parametrize('name', drawn.GRAPHS)
def test_the_picture_says_what_the_graph_says(name):
    graph, again = drawn.GRAPHS[name](), drawn.GRAPHS[name]()
    for check in CHECKS:
        check(graph)
    assert describe(graph) == describe(again)
    for format in ('svg', 'dot', 'mermaid', 'json'):
        assert draw(graph, format) == draw(again, format)


@given(scripts)
@example([('tail', 'flip', 0), ('write', 0, 1)])  # a result that is itself a new state
@settings(max_examples=15)
def test_the_picture_of_a_random_model(script):
    model = models.ready(Scripted(script))
    graph = compile_etrace_graph(model, models.random(2, 3), include_hidden_perturb=False)
    for check in CHECKS:
        check(graph)


@pytest.mark.parametrize('name', models.POSITION_DIAGONAL)
def test_where_everything_is_followed_nothing_is_cut(name):
    picture = describe(drawn.GRAPHS[name]())
    assert 'cut' not in {edge.kind for edge in picture.edges}
    assert 'approximate' not in {node.trace for node in picture.nodes}


def edges_of(graph):
    """The edges of a picture as (source, target) -> kinds."""
    found = {}
    for edge in describe(graph).edges:
        found.setdefault((edge.source, edge.target), set()).add(edge.kind)
    return found


# Single models


def test_a_stack_of_layers():
    assert edges_of(drawn.compiled(drawn.Stack())) == {
        ('input', 'operator:rnn1'): {'flow'},
        ('operator:rnn1', 'group:0'): {'drive'},
        ('group:0', 'operator:rnn1'): {'cut'},
        ('group:0', 'group:0'): {'recurrence'},
        ('group:0', 'operator:rnn2'): {'feed'},
        ('operator:rnn2', 'group:1'): {'drive'},
        ('group:1', 'operator:rnn2'): {'cut'},
        ('group:1', 'group:1'): {'recurrence'},
        ('group:1', 'operator:out'): {'flow'},
        ('operator:out', 'output'): {'flow'},
    }


def test_gates_of_one_cell_share_a_box():
    picture = describe(drawn.compiled(drawn.Stack()))
    assert [item.name for item in picture.node('operator:rnn1').items] == [
        'rnn1.W',
        'rnn1.R',
        'rnn1.b',
    ]
    picture = describe(drawn.compiled(drawn.Deep()))
    box = picture.node('operator:layers.1')
    assert [item.name.rsplit('.')[-1] for item in box.items] == ['Wz', 'Rz', 'Wc', 'Rc']
    reset = picture.node('operator:layers.1#2')
    assert ([i.name.rsplit('.')[-1] for i in reset.items], reset.code) == (['Wr', 'Rr'], 'ETC203')


def test_a_recurrence_that_is_cut_names_the_operation_and_the_line():
    class Recurrent(models.Cell):
        def update(self, x):
            y = matmul(x, self.W.value)
            y = y + matmul(self.h.value, self.R.value)  # here
            self.h.value = jnp.tanh(y)
            return self.h.value

    lines, start = inspect.getsourcelines(Recurrent)
    line = start + next(i for i, text in enumerate(lines) if '# here' in text)
    graph = drawn.compiled(Recurrent((2,)))
    (edge,) = (edge for edge in describe(graph).edges if edge.kind == 'cut')
    assert (edge.source, edge.target, edge.delayed) == ('group:0', 'operator:model', True)
    assert edge.cuts == (Cut('matmul', f'test_draw.py:{line}', 1, (0,)),)
    assert ('group:0', 'group:0') not in edges_of(graph)


@pytest.mark.parametrize(
    ('node', 'code', 'edges'),
    [
        ('operator:before', 'ETC203', {('group:0', 'cut')}),
        ('parameter:plain', 'ETC206', {('group:0', 'flow')}),
        ('parameter:readout', 'ETC207', {('output', 'flow')}),
        ('operator:marked_readout', 'ETC202', {('output', 'flow')}),
        ('operator:dynamic', 'ETC205', {('group:0', 'flow')}),
        ('operator:constant of matmul', 'ETC201', {('group:0', 'flow')}),
        ('unused', 'ETC208', set()),
    ],
)
def test_every_fate_of_a_weight_is_told(node, code, edges):
    picture = describe(drawn.compiled(drawn.EveryFate()))
    assert picture.node(node).code == code
    assert picture.node(node).trace in ('none', None)
    assert {(e.target, e.kind) for e in picture.edges if e.source == node} == edges
    unused = {item.name for item in picture.node('unused').items}
    assert unused == {'stopped', 'forgotten'}


def test_a_way_without_derivative_is_no_way_of_a_trace():
    found = edges_of(drawn.compiled(drawn.Detached()))
    assert found['group:0', 'operator:second'] == {'value'}


def test_the_same_state_may_be_followed_and_cut():
    found = edges_of(drawn.GRAPHS['neighbour leak']())
    assert found['group:0', 'group:0'] == {'recurrence', 'cut'}
    found = edges_of(drawn.GRAPHS['layer norm']())
    assert found['operator:model', 'group:0'] == {'drive', 'cut'}


def test_one_weight_in_two_places_has_two_boxes():
    picture = describe(drawn.GRAPHS['collections']())
    assert [node.id for node in picture.nodes if node.title == 'between'] == [
        'operator:between',
        'operator:between#2',
    ]


def test_states_arguments_outputs_and_units():
    picture = describe(drawn.fed())
    assert [item.name for item in picture.node('input:0').items] == ['unused', 'x']
    assert [item.name for item in picture.node('output').items] == ['h', 'mean']
    (state,) = picture.node('group:0').items
    assert (state.shape, state.dtype, state.unit) == ((2, 4), 'float64', 'mV')
    found = edges_of(drawn.fed())
    assert found['state:mean', 'operator:model'] == {'flow'}
    assert found['group:0', 'state:mean'] == {'flow'}
    assert 'state:calls' not in {node.id for node in picture.nodes}  # touches nothing else


def test_a_step_without_hidden_states():
    picture = describe(drawn.compiled(drawn.Feedforward()))
    assert [node.id for node in picture.nodes] == [
        'input',
        'operator:first',
        'operator:second',
        'output',
    ]
    assert {edge.kind for edge in picture.edges} == {'flow'}


def test_a_value_of_the_last_step_is_told_from_one_of_this_step():
    class Feedback(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high = models.Elman((2,)), models.Elman((2,))
            self.low.W.value = models.random(models.N_IN + models.N, models.N)
            self.high.W.value = models.random(models.N, models.N)

        def update(self, x):
            low = self.low(jnp.concatenate([x, self.high.h.value], -1))
            return self.high(low)

    picture = describe(drawn.compiled(Feedback()))
    feeds = {(e.source, e.target): e.delayed for e in picture.edges if e.kind == 'feed'}
    cuts = {(e.source, e.target): e.cuts for e in picture.edges if e.kind == 'cut'}
    ids = {item.name: node.id for node in picture.nodes for item in node.items}
    low, high = ids['low.h'], ids['high.h']
    assert feeds == {(low, 'operator:high'): False, (high, 'operator:low'): True}
    # the past of the upper layer comes back through the lower one, and is cut behind it
    (through,) = cuts[low, 'operator:high']
    assert through.groups == (int(high.removeprefix('group:')),)


# Wrong arguments


def test_an_unknown_format_is_named():
    graph = compile_etrace_graph(drawn.Nothing())
    with pytest.raises(ValueError, match=r"`format` is unknown: got 'png'; .*'svg'.*\[ETC115\]"):
        draw(graph, 'png')


def test_something_else_than_a_graph_is_named():
    with pytest.raises(TypeError, match=r'`graph` is not a compiled graph: got Nothing; .*ETC114'):
        draw(drawn.Nothing())
