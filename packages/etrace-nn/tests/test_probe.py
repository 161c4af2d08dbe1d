"""Every layer against backpropagation: a row each, one family of tests."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn
from etrace_algorithms.testing import (
    Facts,
    Probe,
    assert_gradients_close,
    gradient_alignment,
)
from etrace_compiler import Verdict
from etrace_nn.testing import LAYERS, LayerRow

STEPS, BATCH, WINDOW = 50, 2, 5

# one of each kind, since these take twice the time to compile; complex numbers have no 16 bits
COARSE = {row.layer.__module__: row.name for row in LAYERS if not row.is_complex}.values()


@dataclasses.dataclass
class Measured:
    row: LayerRow
    probe: Probe
    facts: Facts
    steps: Any
    outputs: Any
    whole: Any
    first: Any

    @property
    def exact(self):
        return self.facts.verdict is Verdict.EXACT


@pytest.fixture(scope='module', autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update('jax_enable_x64', True)
    with brainstate.environ.context(precision=64):
        yield
    jax.config.update('jax_enable_x64', before)


def probe_of(row, **options):
    brainstate.random.seed(0)
    return Probe(row.build(), row.inputs(STEPS, BATCH), **options)


@pytest.fixture(scope='module', params=LAYERS, ids=lambda row: row.name)
def measured(request, float64):
    """Compile what all tests of a layer share: the step engine, and backpropagation."""
    probe = probe_of(request.param)
    steps = probe.online()
    outputs, facts = probe.outputs, probe.facts()
    whole, first = probe.backpropagated(), probe.backpropagated(probe.first)
    return Measured(request.param, probe, facts, steps, outputs, whole, first)


def test_one_step_is_exact_by_the_step_engine(measured):
    probe = measured.probe
    assert_gradients_close(probe.online(mask=probe.first), measured.first)


def test_windows_are_steps_and_one_step_of_a_window_is_exact(measured):
    probe = measured.probe
    assert_gradients_close(probe.online(chunk_size=WINDOW), measured.steps)
    assert_gradients_close(probe.online(mask=probe.first, chunk_size=WINDOW), measured.first)


def test_batched_is_vmapped_and_one_step_of_automatic_differentiation_is_exact(measured):
    probe = measured.probe
    if measured.exact:
        # both at once: the gradient of this learner is that of the other for every length
        learner = probe.vmapped(vjp_method='multi-step')
        assert_gradients_close(probe.online(learner), measured.whole)
    else:
        learner = probe.another(vjp_method='multi-step')
        assert_gradients_close(probe.online(probe.vmapped()), measured.steps)
    assert_gradients_close(probe.online(learner, probe.first), measured.first)


def test_a_sequence_is_exact_where_nothing_mixes(measured):
    if measured.exact:
        assert_gradients_close(measured.steps, measured.whole)
    else:
        assert 0.5 < measured.facts.cosine < 1 - 1e-4


def test_is_alive(measured):
    for path, value in measured.steps.items():
        for leaf in jax.tree.leaves(value):
            assert jnp.linalg.norm(leaf) > 0, path
    outputs = u.get_mantissa(measured.outputs)
    if measured.row.spikes_out:
        assert set(np.unique(outputs)) == {0.0, 1.0}
        assert 0.01 < outputs.mean() < 0.9
    else:
        assert outputs.std() > 0.01


def test_in_bfloat16(measured):
    """Four steps in eight bits: a cosine of 0.98 at least, a norm within a tenth."""
    if measured.row.name not in COARSE:
        return
    coarse = probe_of(measured.row, dtype=jnp.bfloat16)
    four = jnp.zeros(STEPS).at[:4].set(1)
    found, wanted = coarse.online(mask=four), measured.probe.online(mask=four)
    assert {str(x.dtype) for x in jax.tree.leaves((found, coarse.outputs))} == {'bfloat16'}
    cosine, ratio = gradient_alignment(found, wanted)
    assert cosine > 0.98
    assert 0.9 < ratio < 1.1


def test_the_docstring_says_what_the_gradient_is_worth(measured):
    said = 'exact at every length' if measured.exact else 'approximate'
    assert f'**Exactness**: {said}' in measured.row.layer.__doc__


def test_the_page_of_the_layers_says_what_is_measured(measured, page):
    page.check_line(measured.row, measured.facts, BATCH)


@pytest.fixture(scope='module')
def page():
    hooks = str(Path(__file__).parents[3] / 'docs' / 'hooks')
    sys.path.insert(0, hooks)
    try:
        import layer_page

        yield layer_page
    finally:
        sys.path.remove(hooks)


def test_every_layer_has_a_row():
    layers = {
        value for name in etrace_nn.__all__ if isinstance(value := getattr(etrace_nn, name), type)
    }
    assert {row.layer for row in LAYERS} == layers
    assert len({row.name for row in LAYERS}) == len(LAYERS)
