"""Layers in a row, our own and those of `brainstate.nn`."""

import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.nn import init

import etrace_nn
from etrace_algorithms.testing import Probe, assert_gradients_close, bptt_gradients
from etrace_algorithms.testing.probe import loss_of
from etrace_compiler import DiagnosticKind, Verdict
from etrace_compiler.diagnostics import TABLE

pytestmark = pytest.mark.usefixtures('x64', 'one_ms')

PLAIN, MARKED = ('layers', 0, 'weight'), ('layers', 1, 'W', 'weight')


def probe_of(*layers, xs):
    return Probe(brainstate.nn.Sequential(*layers), xs)


def test_many_kinds_in_a_row_are_exact_at_one_step(random):
    probe = probe_of(
        etrace_nn.Linear(3, 4),
        etrace_nn.LRUCell(4, 5),
        etrace_nn.GRUCell(4, 4),
        jnp.tanh,
        etrace_nn.LSTMCell(4, 3),
        etrace_nn.Linear(3, 4, w_init=init.KaimingNormal(unit=u.mA), b_init=None),
        etrace_nn.Expon(4),
        etrace_nn.LIF(4, V_th=0.2 * u.mV, spk_fun=etrace_nn.surrogate.sigmoid_grad),
        etrace_nn.LeakyRateReadout(4, 2),
        xs=random(2, 2, 3),
    )
    first = probe.backpropagated(probe.first)
    assert len(first) == 12
    assert all(
        np.abs(u.get_mantissa(g)).max() > 0 for g in first.values() if not isinstance(g, dict)
    )
    assert_gradients_close(probe.online(mask=probe.first), first)


def test_a_plain_layer_gets_its_one_step_gradient_and_a_record_says_so(random):
    probe = probe_of(brainstate.nn.Linear(3, 4), etrace_nn.MiniGRU(4, 4), xs=random(6, 2, 3))
    graph = probe.learner.graph
    records = graph.explain(weight_path=PLAIN, kind=DiagnosticKind.PARAMETER_UNMARKED)
    assert {record.code for record in records} == {'ETC206'}
    assert 'one-step gradient' in TABLE[DiagnosticKind.PARAMETER_UNMARKED].meaning
    assert graph.exactness['layers.0.weight'].verdict is Verdict.APPROXIMATE
    assert graph.exactness['layers.1.W.weight'].verdict is Verdict.EXACT

    online, whole = probe.online(), probe.backpropagated()
    probe.restart(probe.learner)
    detached = bptt_gradients(probe.model, probe.xs, loss=loss_of, stop_at=1)
    assert_gradients_close({PLAIN: online[PLAIN]}, {PLAIN: detached[PLAIN]})
    assert_gradients_close({MARKED: online[MARKED]}, {MARKED: whole[MARKED]})
    with pytest.raises(AssertionError):
        assert_gradients_close({PLAIN: online[PLAIN]}, {PLAIN: whole[PLAIN]})
