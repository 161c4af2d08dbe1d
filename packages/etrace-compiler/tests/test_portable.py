"""Graphs as plain data: stored and brought back, compared, and known by a fingerprint."""

import pickle
import subprocess
import sys
import threading

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    CompilationReport,
    ControlFlowPolicy,
    compile_etrace_graph,
    element_wise,
    matmul,
)
from etrace_compiler.evaluate import effective_weights
from etrace_compiler.linearise import Lineariser

from . import models
from .oracle import values_of


@jax.custom_vjp
def spike_by_vjp(v):
    return (v > 0).astype(v.dtype)


spike_by_vjp.defvjp(lambda v: (spike_by_vjp(v), v), lambda v, c: (c / (1 + 9 * v**2),))

#: Leaves every loop and branch one operation, so that their bodies have to be stored.
OPAQUE = ControlFlowPolicy(cond='opaque', scan_unroll_limit=0, scan_descent='off')


class Everything(models.Cell):
    """Rules of both kinds, a branch, loops of every kind, random numbers, an index."""

    def init_state(self, *args, **kwargs):
        super().init_state()
        self.key = brainstate.ShortTermState(jax.random.key(3))
        self.count = brainstate.ShortTermState(jnp.int32(0))

    def update(self, x):
        jax.debug.print('{}', x[0])
        self.key.value, key = jax.random.split(self.key.value)
        h = self.h.value + 0.1 * jax.random.normal(key, (4,)) * models.spike(self.h.value)
        h = h + 0.3 * spike_by_vjp(h) + jax.nn.relu(0.1 * h)
        h = jax.lax.cond(x[0] > 0, jnp.sin, lambda a: 0.5 * a, h)
        h = jax.lax.fori_loop(0, 30, lambda i, a: 0.99 * a + 0.001 * i, h)
        h = jax.lax.while_loop(lambda a: jnp.sum(a**2) > 100, lambda a: 0.5 * a, h)
        self.count.value = self.count.value + 1
        gain = jax.nn.sigmoid(element_wise(self.b.value))
        self.h.value = gain * h + matmul(x, self.W.value * jnp.arange(4)[None])
        return self.h.value[::-1].at[self.count.value % 4].add(1.0)


MODELS = {
    'GRU': (models.GRU, None),
    'LSTM': (models.LSTM, None),
    'spiking': (lambda: models.SpikingChain(recurrent=True), None),
    'layers': (models.TwoLayers, None),
    'everything': (Everything, None),
    'everything, opaque': (Everything, OPAQUE),
}


def compiled(name):
    make, policy = MODELS[name]
    model = models.ready(make())
    return model, compile_etrace_graph(model, models.random(3), control_flow=policy)


@pytest.mark.parametrize('name', MODELS)
def test_two_compilations_are_identical(name):
    (_, one), (_, other) = compiled(name), compiled(name)
    assert one is not other
    assert one.fingerprint == other.fingerprint
    assert one.diagnostics == other.diagnostics
    assert one == other
    assert hash(one) == hash(other)
    assert CompilationReport(one) == CompilationReport(other)


def test_control_other_models_have_other_fingerprints():
    graphs = [compiled(name)[1] for name in MODELS]
    assert len({g.fingerprint for g in graphs}) == len(MODELS)
    assert all(a != b for i, a in enumerate(graphs) for b in graphs[:i])


@pytest.mark.parametrize(
    'change',
    [
        lambda h: jnp.tanh(h) * 0.5,
        lambda h: jnp.tanh(h) * 0.25,
        lambda h: jnp.roll(h, 1),
        lambda h: jnp.roll(h, 2),
        models.spike,
        spike_by_vjp,
        lambda h: jax.lax.fori_loop(0, 20, lambda _, a: 0.9 * a, h),
        lambda h: jax.lax.fori_loop(0, 21, lambda _, a: 0.9 * a, h),
    ],
)
def test_a_fingerprint_sees_what_a_step_does(change):
    class Changed(models.Cell):
        def update(self, x):
            self.h.value = change(self.h.value) + matmul(x, self.W.value)
            return self.h.value

    graph = compile_etrace_graph(models.ready(Changed()), models.random(3))
    _SEEN.setdefault(graph.fingerprint, []).append(change)
    assert len(_SEEN[graph.fingerprint]) == 1


_SEEN: dict = {}


def test_a_surrogate_is_part_of_the_fingerprint():
    """Only the derivative differs: the value is the same step."""

    def graph_of(slope):
        @jax.custom_jvp
        def step(v):
            return (v > 0).astype(v.dtype)

        step.defjvp(lambda p, t: (step(*p), t[0] * slope))

        class Spiking(models.Cell):
            def update(self, x):
                self.h.value = 0.5 * step(self.h.value) + matmul(x, self.W.value)
                return self.h.value

        return compile_etrace_graph(models.ready(Spiking()), models.random(3))

    assert graph_of(1.0) == graph_of(1.0)
    assert graph_of(1.0).fingerprint != graph_of(2.0).fingerprint


def test_values_of_parameters_are_not_part_of_it():
    model, graph = compiled('GRU')
    model.Wz.value = model.Wz.value + 1
    assert compile_etrace_graph(model, models.random(3)).fingerprint == graph.fingerprint


def test_another_process_finds_the_same_fingerprint():
    code = (
        'import brainstate, etrace_compiler as ec, jax.numpy as jnp\n'
        'class M(brainstate.nn.Module):\n'
        '    def __init__(self):\n'
        '        super().__init__()\n'
        '        self.W = brainstate.ParamState(jnp.ones((3, 4)))\n'
        '        self.h = brainstate.HiddenState(jnp.ones(4))\n'
        '    def update(self, x):\n'
        '        self.h.value = 0.5 * self.h.value + ec.matmul(x, self.W.value)\n'
        '        return self.h.value\n'
        'print(ec.compile_etrace_graph(M(), jnp.ones(3)).fingerprint)\n'
    )
    runs = [
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 32


@pytest.mark.parametrize('name', MODELS)
def test_a_stored_graph_says_the_same(name):
    _, graph = compiled(name)
    again = pickle.loads(pickle.dumps(graph))
    assert again.fingerprint == graph.fingerprint
    assert again == graph
    assert pickle.dumps(again)
    report = CompilationReport(graph)
    stored = pickle.loads(pickle.dumps(report))
    assert stored == report
    assert stored.to_str('info') == report.to_str('info')
    assert again.explain(weight_path='W') == graph.explain(weight_path='W')
    assert again.hid_path_to_group.keys() == graph.hid_path_to_group.keys()
    for relation in again.hidden_param_op_relations:
        assert all(g in again.hidden_groups for g in relation.hidden_groups)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if not jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('name', MODELS)
def test_a_stored_graph_computes_the_same(name):
    """Values, linearisation and gradients; the derivative rules of the user's functions too."""
    _, graph = compiled(name)
    again = pickle.loads(pickle.dumps(graph))
    values, x = values_of(graph), models.random(3, seed=7)

    def facts(graph):
        out, new, lin = Lineariser(graph)((x,), values)
        new = {k: v for k, v in new.items() if k != 'key'}
        weights = effective_weights(graph, values)
        return out, new, dict(lin.x), dict(lin.f), lin.D, weights

    assert_same(jax.jit(lambda: facts(again))(), jax.jit(lambda: facts(graph))())
    floats = {k: v for k, v in values.items() if k not in ('key', 'count')}

    def loss(graph, floats):
        zeros = graph.hidden_perturb.init_perturb_data()
        states = [{**values, **floats}[s.key] for s in graph.module_info.states]
        out, new = graph.call_hidden_perturb((x,), zeros, states)
        smooth = [v for v in jax.tree.leaves(new) if jnp.issubdtype(v.dtype, jnp.floating)]
        return jnp.sum(out**2) + sum(jnp.sum(v**2) for v in smooth)

    gradients = [jax.jit(jax.grad(lambda w, g=g: loss(g, w)))(floats) for g in (again, graph)]
    assert_same(*gradients)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[0]))


def test_threads_compile_side_by_side():
    """No state is shared: graphs made at the same time are those made one after another."""
    jobs = [(name, *MODELS[name]) for name in ('GRU', 'LSTM', 'layers', 'everything')] * 2
    prepared = [(name, models.ready(make()), policy) for name, make, policy in jobs]
    expected = {name: compiled(name)[1].fingerprint for name, _, _ in jobs}
    found, x = [], models.random(3)

    def work(name, model, policy):
        graph = compile_etrace_graph(model, x, control_flow=policy)
        found.append((name, graph.fingerprint))

    threads = [threading.Thread(target=work, args=job) for job in prepared]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((name, expected[name]) for name, _, _ in jobs)


def test_an_operation_made_of_functions_of_jax_is_refused():
    class Reduced(models.Cell):
        def update(self, x):
            largest = jax.lax.reduce(x, -jnp.inf, lambda a, b: jnp.where(a > b, a, b), (0,))
            self.h.value = 0.5 * self.h.value + largest * matmul(x, self.W.value)
            return self.h.value

    graph = compile_etrace_graph(models.ready(Reduced()), models.random(3))
    with pytest.raises(pickle.PicklingError, match=r'`reduce` cannot be stored.*ETC116') as caught:
        pickle.dumps(graph)
    assert f'at {__file__}:' in str(caught.value)
