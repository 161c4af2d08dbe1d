"""Hidden groups and cut operands: which states act on each other position by position."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    ETraceVjpGraphExecutor,
    add_hidden_perturbation_in_module,
    compile_etrace_graph,
    extract_module_info,
    find_hidden_groups_from_minfo,
    find_hidden_groups_from_module,
    find_hidden_param_op_relations_from_minfo,
    find_hidden_param_op_relations_from_module,
    path_key,
)
from etrace_compiler.analysis import groups

from . import models
from .oracle import text_at


def graph_of(name):
    model, x = models.build(name)
    return compile_etrace_graph(model, x)


def named(graph):
    return [sorted(path_key(p) for p in g.hidden_paths) for g in graph.hidden_groups]


def cut_names(graph, group=0):
    return [c.primitive for c in graph.hidden_groups[group].hidden_cuts]


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('LSTM, batch', [['c', 'h']]),
        ('LSTM without recurrence, batch', [['c', 'h']]),
        ('spiking chain', [['a', 'g', 'v']]),
        ('delay line', [['h0', 'h1', 'h2']]),
        ('never written', [['h'], ['target']]),
        ('reset every step', [['h']]),
        ('two shapes', [['h'], ['m']]),
        ('stacked states', [['s']]),
        ('stacked and plain', [['h', 's']]),
        ('tree states', [['s']]),
        ('skip connection', [['first.h', 'second.h']]),
        ('two layers', [['first.h'], ['second.h']]),
        ('collections', [['layers.0.h'], ['layers.1.h'], ['named.a.h'], ['named.b.h']]),
    ],
)
def test_groups(name, expected):
    assert named(graph_of(name)) == expected


@pytest.mark.parametrize(
    ('name', 'varshape', 'num_state'),
    [('LSTM, batch', (2, 4), 2), ('spiking chain', (4,), 3), ('stacked states', (4,), 2),
     ('stacked and plain', (2, 4), 3), ('tree states', (2, 4), 2),
     ('spiking chain, two batch axes', (2, 1, 4), 3)],
)  # fmt: skip
def test_shape_of_a_group(name, varshape, num_state):
    (group,) = graph_of(name).hidden_groups
    assert (group.varshape, group.num_state) == (varshape, num_state)
    assert group.positions == np.prod(varshape)
    values = [models.random(*s.leaves[0].shape, seed=i) for i, s in enumerate(group.hidden_states)]
    stacked = group.concat_hidden(values)
    assert stacked.shape == (*varshape, num_state)
    for a, b in zip(group.split_hidden(stacked), values, strict=True):
        np.testing.assert_array_equal(a, b)


def test_groups_know_which_others_they_act_on():
    graph = graph_of('two layers')
    assert [g.feeds for g in graph.hidden_groups] == [(1,), ()]
    assert [g.feeds for g in graph_of('LSTM, batch').hidden_groups] == [()]


def test_every_path_has_its_group():
    graph = graph_of('skip connection')
    assert graph.hid_path_to_group['first', 'h'] is graph.hidden_groups[0]
    assert graph.hid_path_to_group['second', 'h'] is graph.hidden_groups[0]


def test_states_that_read_old_values_only_share_a_group():
    """Coupled both ways through old values: an oscillator."""

    class Oscillator(models.Cell):
        def init_state(self):
            self.u, self.v = models.hidden(4), models.hidden(4, seed=51)

        def update(self, x):
            u, v = self.u.value, self.v.value
            self.u.value = u - 0.1 * v + models.matmul(x, self.W.value)
            self.v.value = v + 0.1 * u
            return self.u.value

    graph = compile_etrace_graph(models.ready(Oscillator()), models.random(3))
    assert named(graph) == [['u', 'v']]


def test_states_of_one_shape_that_ignore_each_other_are_two_groups():
    class SideBySide(models.Cell):
        def init_state(self):
            self.u, self.v = models.hidden(4), models.hidden(4, seed=51)

        def update(self, x):
            y = models.matmul(x, self.W.value)
            self.u.value = 0.5 * self.u.value + y
            self.v.value = 0.9 * self.v.value + y
            return self.u.value * self.v.value

    graph = compile_etrace_graph(models.ready(SideBySide()), models.random(3))
    assert named(graph) == [['u'], ['v']]
    assert [g.index for g in graph.relation('W').hidden_groups] == [0, 1]


def test_a_shared_gate_that_rolls_keeps_two_groups():
    """The one state acts on the other, but never at its own position."""

    class Rolled(models.Cell):
        def init_state(self):
            self.u, self.v = models.hidden(4), models.hidden(4, seed=51)

        def update(self, x):
            self.u.value = 0.5 * self.u.value + models.matmul(x, self.W.value)
            self.v.value = 0.5 * self.v.value + jnp.roll(self.u.value, 1)
            return self.v.value

    graph = compile_etrace_graph(models.ready(Rolled()), models.random(3))
    assert named(graph) == [['u'], ['v']]
    assert graph.hidden_groups[0].feeds == (1,)


def test_complex_and_real_states_do_not_share_a_group():
    class Phasor(models.Cell):
        def init_state(self):
            self.z = brainstate.HiddenState(jnp.ones(4, complex))
            self.h = models.hidden(4)

        def update(self, x):
            self.z.value = 0.9j * self.z.value + models.matmul(x, self.W.value)
            self.h.value = 0.5 * self.h.value + jnp.real(self.z.value)
            return self.h.value

    graph = compile_etrace_graph(models.ready(Phasor()), models.random(3))
    assert named(graph) == [['z'], ['h']]
    assert graph.hidden_groups[0].dtype == complex


def renamed(model_class, table):
    """The same model under other attribute names."""

    class Renamed(model_class):
        def __setattr__(self, name, value):
            super().__setattr__(table.get(name, name), value)

        def __getattribute__(self, name):
            return super().__getattribute__(table.get(name, name))

    return Renamed


@pytest.mark.parametrize('table', [{'h': 'zeta', 'c': 'alpha'}, {'h': 'a', 'c': 'z'},
                                   {'h': 'membrane', 'W': 'aaa', 'R': 'zzz'}])  # fmt: skip
def test_names_of_attributes_change_nothing(table):
    plain, other = models.ready(models.LSTM()), models.ready(renamed(models.LSTM, table)())
    x = models.random(3)
    a, b = compile_etrace_graph(plain, x), compile_etrace_graph(other, x)
    to_new = {k: table.get(k, k) for k in 'hcWRb'}
    assert [sorted(to_new[n] for n in g) for g in named(a)] == named(b)
    assert [to_new[r.key] for r in a.hidden_param_op_relations] == [
        r.key for r in b.hidden_param_op_relations
    ]
    for r, s in zip(a.hidden_param_op_relations, b.hidden_param_op_relations, strict=True):
        np.testing.assert_array_equal(r.positions[0], s.positions[0])
    assert [r.kind for r in a.diagnostics] == [r.kind for r in b.diagnostics]


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize(
    ('name', 'cuts'),
    [
        ('LSTM, batch', ['etp_matmul']),
        ('rolled tail', ['etp_matmul']),
        ('flipped tail', ['etp_matmul']),
        # the update gate and the candidate; nothing flows through the reset gate any more
        ('GRU, batch', ['etp_matmul'] * 2),
        ('spiking, recurrent', ['etp_matmul']),
        ('interleaved gates', ['etp_matmul']),
    ],
)
def test_only_the_recurrent_products_are_cut(name, cuts):
    assert cut_names(graph_of(name)) == cuts


@pytest.mark.parametrize(
    ('name', 'hidden', 'drive'),
    [
        ('neighbour leak', ['concatenate'], []),
        ('mean field', ['reduce_sum'], []),
        ('layer norm', ['etp_matmul'], ['reduce_sum', 'reduce_sum']),
        ('batch norm', ['etp_matmul'], ['reduce_sum']),
    ],
)
def test_a_cut_names_what_moves_elements(name, hidden, drive):
    """Not the elementwise operation that comes after it, where the derivative is stopped."""
    group = graph_of(name).hidden_groups[0]
    assert [c.primitive for c in group.hidden_cuts] == hidden
    assert sorted(c.primitive for c in group.drive_cuts) == drive


def test_only_the_roll_is_cut_in_a_neighbour_leak():
    graph = graph_of('neighbour leak')
    (cut,) = graph.hidden_groups[0].hidden_cuts
    assert cut.source.function.endswith('NeighbourLeak.update')
    assert '0.1 * jnp.roll(h, 1' in text_at(cut.source)


def test_a_forward_product_between_layers_is_not_cut():
    """What leads from one layer to the next leads back into neither."""
    graph = graph_of('two layers')
    equations = graph.module_info.program.equations
    for group, other in ((0, 1), (1, 0)):
        for cut in graph.hidden_groups[group].hidden_cuts:
            operand = equations[cut.equation].inputs[cut.operand]
            assert operand is graph.hidden_groups[group].hidden_invars[0]
            assert operand is not graph.hidden_groups[other].hidden_invars[0]


def test_a_width_of_one_is_not_cut():
    """A recurrent product of one unit is elementwise: nothing to cut, and the trace is exact."""

    class OneUnit(models.Cell):
        def __init__(self):
            super().__init__()
            self.W, self.R = models.parameter(3, 1), models.parameter(1, 1, seed=2)

        def init_state(self):
            self.h = models.hidden(1)

        def update(self, x):
            h = self.h.value
            y = models.matmul(x, self.W.value) + models.matmul(h, self.R.value)
            self.h.value = jnp.tanh(y)
            return self.h.value

    graph = compile_etrace_graph(models.ready(OneUnit()), models.random(3))
    assert cut_names(graph) == []
    assert all(r.exact for r in graph.hidden_param_op_relations)


def test_there_and_back_again_is_not_cut():
    """A permutation that is undone before the state is written mixes nothing."""

    class Undone(models.Cell):
        def update(self, x):
            turned = jnp.roll(self.h.value, 1)[::-1]
            turned = jnp.tanh(turned + models.matmul(x, self.W.value))
            self.h.value = jnp.roll(turned[::-1], -1)
            return self.h.value

    graph = compile_etrace_graph(models.ready(Undone()), models.random(3))
    assert cut_names(graph) == []
    (relation,) = graph.hidden_param_op_relations
    # y[k] is added to turned[k] = h[(2 - k) % 4], and lands where that came from
    assert relation.positions[0][0, 0].tolist() == [(2 - k) % 4 for k in range(4)]
    assert relation.exact


def test_heads_that_attend_within_themselves():
    """A product over a batch axis mixes only what is not on that axis."""

    class Heads(models.Cell):
        def init_state(self):
            self.h = models.hidden(2, 4)

        def update(self, x):
            h = self.h.value
            gain = jnp.einsum('bi,bi->b', h, h)
            self.h.value = 0.5 * h * gain[:, None] + models.matmul(x, self.W.value)
            return self.h.value

    graph = compile_etrace_graph(models.ready(Heads()), models.random(2, 3))
    assert len(graph.hidden_groups[0].hidden_cuts) >= 1
    assert 'etp_matmul' not in cut_names(graph)


def test_clashing_readers_keep_the_identity():
    """Of two readers that lead to different positions the one that stays at its own is kept."""

    class Clash(models.Cell):
        def update(self, x):
            h = jnp.tanh(self.h.value)
            self.h.value = h * 0.5 + 0.2 * h[::-1] + models.matmul(x, self.W.value)
            return self.h.value

    model = models.ready(Clash())
    graph = compile_etrace_graph(model, models.random(3))
    (cut,) = graph.hidden_groups[0].hidden_cuts
    assert '0.2 * h[::-1]' in text_at(cut.source)


def test_control_without_the_cut_the_neighbour_leaks_into_the_diagonal(monkeypatch):
    def leak(model, x):
        executor = ETraceVjpGraphExecutor(model)
        executor.compile_graph(x)
        return np.asarray(executor.linearise(x).D[0])

    model, x = models.build('neighbour leak')
    np.testing.assert_allclose(leak(model, x), 0.8)
    monkeypatch.setattr(groups, 'cut_edges', lambda program, cuts: ())
    np.testing.assert_allclose(leak(model, x), 0.9)


# ---------------------------------------------------------------- the passes one by one


def test_passes_alone_agree_with_the_whole():
    model, x = models.build('skip connection')
    graph = compile_etrace_graph(model, x)
    info = extract_module_info(model, x)
    for found, by_path in (
        find_hidden_groups_from_module(model, x),
        find_hidden_groups_from_minfo(info),
    ):
        assert [g.hidden_paths for g in found] == [g.hidden_paths for g in graph.hidden_groups]
        assert by_path['first', 'h'] is found[0]
    keys = [r.key for r in graph.hidden_param_op_relations]
    for relations in (
        find_hidden_param_op_relations_from_module(model, x),
        find_hidden_param_op_relations_from_minfo(info),
        find_hidden_param_op_relations_from_minfo(info, find_hidden_groups_from_minfo(info)[0]),
    ):
        assert [r.key for r in relations] == keys
    perturbation = add_hidden_perturbation_in_module(model, x)
    assert perturbation.perturb_hidden_paths == graph.hidden_perturb.perturb_hidden_paths


def test_twenty_layers_compile():
    """Depth meets neither a recursion limit nor a blow-up."""

    class Deep(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [models.GRU(n_in=3, n=3, seed=10 * i) for i in range(20)]

        def update(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    graph = compile_etrace_graph(models.ready(Deep()), models.random(3))
    assert len(graph.hidden_groups) == 20
    assert len(graph.hidden_param_op_relations) == 20 * 4  # not the two of the reset gate
    assert graph.hidden_groups[0].feeds == tuple(range(1, 20))


def test_compiling_inside_a_traced_function():
    """Shapes are all that is needed, so that a learner may be made inside `jit`."""

    def make(x):
        model, _ = models.build('permuted tail')
        compile_etrace_graph(model, x)
        return x

    jax.jit(make)(models.random(2, 3))
