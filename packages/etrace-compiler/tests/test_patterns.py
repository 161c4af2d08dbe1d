"""Which derivatives can be other than zero: what does not depend on what, and nothing else."""

import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_compiler as ec
import etrace_nn

from . import models
from .test_linearise import compiled


def check_zeros(graph, lin):
    """No derivative is other than zero that the patterns say is."""
    for group, d in zip(graph.hidden_groups, lin.D, strict=True):
        assert not np.any(np.asarray(d)[..., ~ec.transition_pattern(graph, group)])
    for r in lin.relations:
        for i, f in enumerate(lin.f[r.key]):
            assert not np.any(np.asarray(f)[..., ~ec.drive_pattern(graph, r, i)])


@pytest.mark.parametrize('name', models.EVERY)
def test_what_is_left_out_is_zero(name):
    model, x = models.build(name)
    _, graph, lin = compiled(model, x)
    check_zeros(graph, lin)
    for group in graph.hidden_groups:
        assert ec.transition_pattern(graph, group).shape == (group.num_state,) * 2


def patterns(layer, *args):
    """Patterns of a layer's only group, by name of its states; and of what drives it."""
    with brainstate.environ.context(dt=1 * u.ms):
        _, graph, lin = compiled(layer, *args)
    check_zeros(graph, lin)
    (group,) = graph.hidden_groups
    names = [path[-1] for path in group.hidden_paths]
    found = ec.transition_pattern(graph, group)
    acts = {s: {names[r] for r in np.flatnonzero(row)} for s, row in zip(names, found, strict=True)}
    first, *rest = (ec.drive_pattern(graph, r, 0) for r in lin.relations)
    assert all((first == other).all() for other in rest)
    return acts, {names[s] for s in np.flatnonzero(first)}


def test_a_synapse_acts_on_a_neuron_and_not_the_other_way_round():
    synapse = etrace_nn.spiking.Expon(3, tau=5 * u.ms)
    neuron = etrace_nn.spiking.ALIF(3, tau=10 * u.ms)
    net = brainstate.nn.Sequential(etrace_nn.Linear(2, 3), lambda x: x * u.mA, synapse, neuron)
    brainstate.nn.init_all_states(net)
    acts, driven = patterns(net, jnp.ones(2))
    assert acts == {'V': {'V', 'a', 'g'}, 'a': {'V', 'a'}, 'g': {'g'}}
    assert driven == {'V', 'g'}  # the threshold rises with spikes, of the old potential


def test_the_output_of_an_lstm_depends_on_its_old_cell_alone():
    cell = etrace_nn.LSTMCell(2, 3)
    brainstate.nn.init_all_states(cell)
    acts, driven = patterns(cell, jnp.ones(2))
    assert acts == {'h': {'c'}, 'c': {'c'}}
    assert driven == {'h', 'c'}


class Stacked(brainstate.nn.Module):
    """Two states of a position in one array, and a third beside that they act on."""

    def init_state(self):
        self.w = brainstate.ParamState(jnp.ones((2, 3)))
        self.pair = brainstate.HiddenGroupState(jnp.ones((3, 2)))
        self.sum = brainstate.HiddenState(jnp.ones(3))

    def update(self, x):
        drive = ec.matmul(x, self.w.value)
        self.pair.value = 0.5 * self.pair.value + drive[..., None]
        self.sum.value = 0.5 * self.sum.value + self.pair.value.sum(-1)
        return self.sum.value


def test_states_of_one_array_are_not_told_apart():
    model = Stacked()
    brainstate.nn.init_all_states(model)
    _, graph, lin = compiled(model, jnp.ones(2))
    check_zeros(graph, lin)
    (group,) = graph.hidden_groups
    assert [spec.num_state for spec in group.hidden_states] == [2, 1]
    want = [[True, True, False], [True, True, False], [True, True, True]]
    assert ec.transition_pattern(graph, group).tolist() == want


def test_the_carried_part_has_patterns_of_its_own():
    cell = etrace_nn.LSTMCell(2, 3)
    brainstate.nn.init_all_states(cell)
    _, graph, _ = compiled(cell, jnp.ones(2))
    part = ec.carried_part(graph)
    assert ec.transition_pattern(graph, graph.hidden_groups[0]).shape == (2, 2)
    assert ec.transition_pattern(part, part.hidden_groups[0]).tolist() == [[True]]
    assert ec.drive_pattern(part, part.hidden_param_op_relations[0], 0).tolist() == [True]


def test_control_a_pattern_with_a_hole_is_found(monkeypatch):
    model, x = models.build('LSTM, batch')
    _, graph, lin = compiled(model, x)
    (group,) = graph.hidden_groups
    found = ec.transition_pattern(graph, group).copy()
    found[tuple(np.argwhere(found)[0])] = False
    monkeypatch.setitem(graph.memo, f'transition pattern {group.index}', found)
    with pytest.raises(AssertionError):
        check_zeros(graph, lin)
