"""Wiring of states and weights: which states share a group, and what the gradients are worth."""

import functools

import brainstate
import jax.numpy as jnp
import pytest

import etrace_algorithms as ea
from etrace_algorithms.testing import assert_gradients_close
from etrace_compiler import DiagnosticKind, matmul, path_key

from .delay_models import DELAYS
from .measured import (
    N,
    check_case,
    check_first_step,
    compiled,
    hidden,
    inputs,
    one_step,
    online,
    parameter,
)
from .wiring_models import WIRING

K = DiagnosticKind
#: The models have parameters that some steps do not use.
pytestmark = pytest.mark.filterwarnings('ignore:.*ETC208')


@pytest.mark.parametrize('case', [*WIRING.values(), *DELAYS.values()], ids=str)
def test_values_and_gradients(case):
    check_case(case)


#: Several weights, states, positions or operators for one of the others.
SOME = (
    'four_gates_split used_twice state_from_a_parameter two_populations stacked_states '
    'states_with_units_in_a_tree outer_products OneCellTwice '
    'ring_that_feeds_back line_after_line delayed_recurrence'
)


@pytest.mark.parametrize('name', SOME.split())
def test_pp_prop_of_one_step(name):
    case = {**WIRING, **DELAYS}[name]
    check_first_step(case, one_step(compiled(case, 'pp_prop', None), case.xs[0]))


# ---------------------------------------------------------------- groups

GROUPS = {
    'four_gates_split': 'g h',
    'halves_of_two_products': 'h',
    'chain_of_new_values': 'g h',
    'crossed': 'g h',
    'copy_of_the_old': 'g h',
    'copy_of_the_new': 'g h',
    'never_written': 'g h',
    'latched_drive': 'g h',
    'latched_input': 'held | h',
    'skip_beside_a_product': 'g h',
    'two_populations': 'h | i',
    'two_populations_of_one_size': 'g h',
    'one_number_beside_neurons': 's | h',
    'channels_beside_neurons': 's | h',
    'ListsAndDicts': 'cells.0.h | after.a.h | after.b.h',
    'OneCellTwice': 'one.h',
    'TiedCells': 'a.h | b.h',
    'put_in_front': 'h line',
    'line_after_line': 'h line more',
    'register_of_inputs': 'line | h',
    'too_long': 'line | h',
}


def groups_of(graph):
    return {frozenset(map(path_key, g.hidden_paths)) for g in graph.hidden_groups}


@pytest.mark.parametrize('name', GROUPS)
def test_states_that_act_on_each_other_position_by_position_share_a_group(name):
    graph = compiled({**WIRING, **DELAYS}[name], 'd_rtrl', None).graph
    assert groups_of(graph) == {frozenset(g.split()) for g in GROUPS[name].split('|')}


@pytest.mark.parametrize(
    ('name', 'states'), [('stacked_states', 3), ('states_with_units_in_a_tree', 2)]
)
def test_states_of_one_position(name, states):
    (group,) = compiled(WIRING[name], 'd_rtrl', None).graph.hidden_groups
    assert (group.varshape, group.num_state) == ((2, N), states)


@pytest.mark.parametrize('case', DELAYS.values(), ids=str)
def test_the_slots_of_a_delay_line_are_states_of_one_position(case):
    graph = compiled(case, 'd_rtrl', None).graph
    kind = K.DELAY_LINE_TOO_LONG if case.name == 'too_long' else K.DELAY_LINE_STACKED
    found = graph.explain(kind=kind)
    assert [path_key(r.hidden_paths[0]) for r in found] == (
        ['line', 'more'] if case.name == 'line_after_line' else ['line']
    )
    assert all(case.owns(r.source) for r in found)
    (group,) = [g for g in graph.hidden_groups if ('line',) in g.hidden_paths]
    width = 3 if case.name == 'register_of_inputs' else N
    lines = {'line_after_line': 5, 'register_of_inputs': 3, 'too_long': 1}
    assert group.num_state == lines.get(case.name, 4)
    assert group.varshape == ((40, 2, N) if case.name == 'too_long' else (2, width))


# ---------------------------------------------------------------- names do not matter


class Renamed(brainstate.nn.Module):
    """Three states in two groups and three weights, under any names."""

    def __init__(self, states='pqr', weights='uvw', kind='attributes'):
        super().__init__()
        self.kind = kind
        made = [parameter(3, N, seed=1), parameter(N, N, seed=2), parameter(3, N, seed=3)]
        self.weights = self.store(weights, made, 'weights')
        self.names = states

    def store(self, names, made, where):
        if self.kind == 'list':
            return list(made)
        if self.kind == 'dict':
            return dict(zip(names, made, strict=True))
        for name, state in zip(names, made, strict=True):
            setattr(self, name, state)
        return names

    def read(self, held, i):
        if self.kind == 'list':
            return held[i]
        return list(held.values())[i] if self.kind == 'dict' else getattr(self, held[i])

    def init_state(self, *args, **kwargs):
        self.held = self.store(self.names, [hidden(2, N, seed=s) for s in (5, 6, 7)], 'held')

    def update(self, x):
        p, q, r = (self.read(self.held, i) for i in range(3))
        u, v, w = (self.read(self.weights, i).value for i in range(3))
        p.value = 0.6 * p.value + matmul(x, u) + 0.1 * q.value
        q.value = 0.7 * q.value + jnp.tanh(p.value) * matmul(x, w)
        r.value = 0.5 * r.value + matmul(q.value, v)
        return r.value * p.value


@functools.cache
def facts(**options):
    """Groups, verdicts and gradients with states and weights numbered, not named."""
    model, xs = Renamed(**options), inputs()
    learner = ea.compile(model, 'd_rtrl', xs[0])
    number = {}
    for held in (model.held, model.weights):
        for i in range(3):
            state = model.read(held, i)
            (path,) = [k for k, s in model.states().items() if s is state]
            number[path] = i
    graph = learner.graph
    groups = {frozenset(number[p] for p in g.hidden_paths) for g in graph.hidden_groups}
    verdicts = {number[e.weight_path]: e.verdict for e in graph.exactness.values()}
    gradients = online(learner, xs).whole.gradients
    return groups, verdicts, {(number[k],): v for k, v in gradients.items()}


@pytest.mark.parametrize(
    'options',
    [
        {'states': 'qrp'},
        {'states': 'rqp', 'weights': 'wvu'},
        {'states': ('zeta', 'Alpha', '_x1'), 'weights': ('b', 'a', 'c')},
        {'kind': 'list'},
        {'kind': 'dict', 'states': 'rqp'},
    ],
    ids=str,
)
def test_names_and_containers_do_not_matter(options):
    plain = facts()
    assert plain[0] == {frozenset({0, 1}), frozenset({2})}
    assert plain[1] == {0: 'exact within the layer', 1: 'exact', 2: 'exact within the layer'}
    groups, verdicts, gradients = facts(**options)
    assert (groups, verdicts) == plain[:2]
    assert_gradients_close(gradients, plain[2], rtol=1e-12)
