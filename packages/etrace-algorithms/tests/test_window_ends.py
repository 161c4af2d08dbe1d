"""What a learner may say of windows: before they are run, and at their ends."""

import brainstate
import jax
import jax.numpy as jnp
import pytest

import etrace_algorithms as ea
from etrace_algorithms.rules import ImmediateDerivatives
from etrace_algorithms.testing import PlainRNN, assert_gradients_close

from .window_models import inputs, loss


class Constant(ea.RuleLearner):
    """Expects the same signal at the end of every window, and refuses windows of five steps."""

    def __init__(self, model, vjp_method='multi-step'):
        super().__init__(model, ImmediateDerivatives(), vjp_method=vjp_method)
        self.signal = brainstate.LongTermState(jnp.zeros(()))

    def check_windows(self, step_fn, sequences, window):
        if window == 5:
            raise ValueError(f'not {len(jax.tree.leaves(sequences)[0])} steps by {window}')

    def end_window(self, loss):
        h = self.model.h.value
        return loss + self.signal.value * jnp.sum(h - jax.lax.stop_gradient(h))


def run(signals, reduction='mean', method='multi-step', window=1):
    """Gradients and losses for each of some signals."""
    learner = ea.compile(PlainRNN(), Constant, inputs(1)[0], batch_size=2, vjp_method=method)
    options = {'chunk_size': window, 'reduction': reduction, 'return_value': True}

    def step(x):
        return loss(learner(x))

    for signal in signals:
        learner.signal.value = jnp.asarray(signal)
        learner.reset_state(2)
        yield learner.etrace_grad(inputs(4), step_fn=step, **options)


@pytest.mark.parametrize('window', [1, 3])
def test_what_is_expected_enters_the_gradient_and_not_the_value(window):
    (none, losses), (once, same), (twice, _) = run([0.0, 1.0, 2.0], window=window)
    assert (losses == same).all()
    added = jax.tree.map(jnp.subtract, once, none)
    assert all(jnp.any(x) for path, x in added.items() if path != ('readout',))
    assert_gradients_close(jax.tree.map(lambda a, b: 2 * a + b, added, none), twice)
    ((total, _),) = run([1.0], 'sum', window=window)
    assert_gradients_close(jax.tree.map(lambda g: 4 * g, once), total)


def test_a_step_that_is_credited_alone_has_no_end():
    (none, _), (once, _) = run([0.0, 1.0], method='single-step')
    assert_gradients_close(once, none)


def test_windows_may_be_refused():
    with pytest.raises(ValueError, match='not 4 steps by 5'):
        list(run([0.0], window=5))
