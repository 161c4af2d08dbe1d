"""A trace of what carries alone gives the gradient of the whole one."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_algorithms.memory import array_bytes
from etrace_algorithms.rules import DiagonalRTRL
from etrace_algorithms.testing import assert_gradients_close
from etrace_compiler import matmul
from etrace_nn import LSTMCell, ValinaRNNCell

from .window_models import BATCH, inputs, loss, ready


class Mixed(brainstate.nn.Module):
    """An LSTM, a plain recurrence and a leaky one, each with a weight that drives two of them."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.cell = LSTMCell(3, 4)
        self.w, self.v = (
            brainstate.ParamState(jnp.asarray(rng.normal(size=size))) for size in ((4, 8), (4, 4))
        )

    def init_state(self, batch_size=None, **_):
        self.h, self.k = (brainstate.HiddenState(jnp.zeros((batch_size, 4))) for _ in range(2))

    def update(self, x):
        left, right = jnp.split(matmul(self.cell(x), self.w.value), 2, axis=-1)
        self.h.value = jnp.tanh(left + matmul(self.h.value, self.v.value))
        self.k.value = 0.7 * self.k.value + right
        return self.h.value + self.k.value


MODELS = {'mixed': Mixed, 'lstm': lambda: LSTMCell(3, 4), 'plain': lambda: ValinaRNNCell(3, 4)}


def learner_of(model, **options):
    return ready(model, DiagonalRTRL(**options))


def gradients(learner, chunk):
    brainstate.nn.init_all_states(learner.model, BATCH)
    learner.init_etrace_state()
    return learner.etrace_grad(
        inputs(5), step_fn=lambda x: loss(learner(x)), chunk_size=chunk, reduction='sum'
    )


@pytest.mark.parametrize('name', MODELS)
def test_the_gradient_is_that_of_the_whole_trace(name):
    model = MODELS[name]()
    expected = gradients(learner_of(model), 1)
    kept = {}
    for options in ({}, {'fast_solve': False}):
        learner = learner_of(model, carried_only=True, **options)
        kept[str(options)] = array_bytes(learner.etrace.value)
        for chunk in (1, 2):
            assert_gradients_close(gradients(learner, chunk), expected, rtol=1e-9)
    assert max(kept.values()) < array_bytes(learner_of(model).etrace.value)


def test_control_a_trace_that_misses_a_state_is_found(monkeypatch):
    """Of the LSTM, the output alone: what carries would be missing."""
    from etrace_compiler.analysis import carried

    model = Mixed()
    expected = gradients(learner_of(model), 1)
    real = carried._acts
    monkeypatch.setattr(carried, '_acts', lambda *args: not real(*args))
    found = gradients(learner_of(model, carried_only=True), 1)
    with pytest.raises(AssertionError):
        assert_gradients_close(found, expected, rtol=1e-3)


def test_the_bytes_by_hand():
    """Three of four gates drive the cell of an LSTM; its output needs no trace."""
    learner = ready(LSTMCell(3, 4), 'd_rtrl')
    weights, bias = BATCH * (3 + 4) * 12, BATCH * 12
    itemsize = learner.hidden_states['h',].value.dtype.itemsize
    assert array_bytes(learner.etrace.value) == (weights + bias) * itemsize
    shapes = {x.shape for x in jax.tree.leaves(learner.etrace.value)}
    assert shapes == {(BATCH, 1, 7, 12), (BATCH, 1, 1, 12)}


def test_the_entry_of_a_window_needs_all_states():
    """Inside a window ordinary differentiation follows the product that a trace does not."""
    model = ValinaRNNCell(3, 4)
    one = ready(model, 'd_rtrl')
    many = ready(model, 'd_rtrl', vjp_method='multi-step')
    assert array_bytes(one.etrace.value) == 0
    assert array_bytes(many.etrace.value) > 0
    found = gradients(many, 2)
    other = gradients(ready(model, 'immediate', vjp_method='multi-step'), 2)
    different = jax.tree.map(lambda a, b: bool(jnp.any(jnp.abs(a - b) > 1e-6)), found, other)
    assert any(jax.tree.leaves(different))


def test_where_nothing_carries_it_is_the_immediate_rule():
    model = ValinaRNNCell(3, 4)
    learner = ready(model, 'd_rtrl')
    expected = gradients(ready(model, 'immediate'), 1)
    assert_gradients_close(gradients(learner, 1), expected, rtol=1e-12)
    assert learner.get_etrace_of(('W', 'weight')) == {}
