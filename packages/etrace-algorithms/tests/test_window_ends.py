"""What a learner may say of windows: before they are run, and at their ends."""

import jax
import jax.numpy as jnp
import pytest

import etrace_algorithms as ea
from etrace_algorithms.rules import ImmediateDerivatives
from etrace_algorithms.testing import PlainRNN, assert_gradients_close

from .window_models import inputs, loss


class Constant(ea.RuleLearner):
    """Expects the same signal at the end of every window, and refuses windows of five steps."""

    signal = 0.0

    def __init__(self, model, vjp_method='multi-step'):
        super().__init__(model, ImmediateDerivatives(), vjp_method=vjp_method)

    def check_windows(self, step_fn, sequences, window):
        if window == 5:
            raise ValueError(f'not {len(jax.tree.leaves(sequences)[0])} steps by {window}')

    def end_window(self, loss):
        h = self.model.h.value
        return loss + self.signal * jnp.sum(h - jax.lax.stop_gradient(h))


def run(signal, **options):
    learner = ea.compile(PlainRNN(), Constant, inputs(1)[0], batch_size=2)
    learner.signal = signal
    return learner.etrace_grad(
        inputs(4), step_fn=lambda x: loss(learner(x)), return_value=True, **options
    )


@pytest.mark.parametrize('window', [1, 3])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_what_is_expected_enters_the_gradient_and_not_the_value(window, reduction):
    options = {'chunk_size': window, 'reduction': reduction}
    (none, losses), (once, same), (twice, _) = (run(s, **options) for s in (0.0, 1.0, 2.0))
    assert (losses == same).all()
    added = jax.tree.map(jnp.subtract, once, none)
    assert all(jnp.any(x) for path, x in added.items() if path != ('readout',))
    assert_gradients_close(jax.tree.map(lambda a, b: 2 * a + b, added, none), twice)
    if reduction == 'mean':
        total = run(1.0, chunk_size=window, reduction='sum')[0]
        assert_gradients_close(jax.tree.map(lambda g: 4 * g, once), total)


def test_a_step_that_is_credited_alone_has_no_end():
    learner = ea.compile(PlainRNN(), Constant, inputs(1)[0], batch_size=2, vjp_method='single-step')
    found = []
    for learner.signal in (1.0, 0.0):
        learner.reset_state(2)
        gradients = learner.etrace_grad(inputs(2), step_fn=lambda x: loss(learner(x)), chunk_size=1)
        found.append(gradients)
    assert_gradients_close(*found)


def test_windows_may_be_refused():
    with pytest.raises(ValueError, match='not 4 steps by 5'):
        run(0.0, chunk_size=5)
