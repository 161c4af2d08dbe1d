"""What `eprop` promises, against the formulas of the paper and against backpropagation."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms
from etrace_algorithms import MultiStepData, NotSupportedError
from etrace_algorithms.feedback import Feedback
from etrace_algorithms.plugins import get_learner
from etrace_algorithms.rules import DiagonalRTRL, HybridRule, RulePart
from etrace_algorithms.testing import (
    LeakyIntegrator,
    PlainRNN,
    SpikingChain,
    assert_gradients_close,
    bptt_gradients,
    online_gradients,
)
from etrace_algorithms.testing.models import surrogate_spike
from etrace_compiler import matmul
from etrace_eprop import EProp, RateRegulariser

STEPS, BATCH, KAPPA = 6, 2, 0.6


@pytest.fixture(autouse=True)
def _float64():
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', False)


def inputs(steps=STEPS, batch=BATCH):
    shape = (steps, batch, 3) if batch else (steps, 3)
    return jnp.asarray(np.random.default_rng(1).normal(size=shape))


def loss(y):
    return jnp.sum(jnp.sin(y + jnp.linspace(0, 1, y.shape[-1])))


def learn(rule, model, steps=STEPS, batch=BATCH, chunk_size=1, **options):
    xs = inputs(steps)
    learner = etrace_algorithms.compile(model, rule, xs[0], batch_size=batch, **options)
    return online_gradients(learner, xs, loss=loss, chunk_size=chunk_size)


def backpropagate(model, steps=STEPS):
    brainstate.nn.init_all_states(model, BATCH)
    return bptt_gradients(model, inputs(steps), loss=loss)


class Spiking(brainstate.nn.Module):
    """A network of the paper: spikes are a state, the reset has no derivative."""

    def __init__(self, recurrent=True, inside=False):
        super().__init__()
        random = np.random.default_rng(0)
        w, u, out = (
            brainstate.ParamState(jnp.asarray(random.normal(size=size)))
            for size in ((3, 4), (4, 4), (4, 2))
        )
        self.w, self.u, self.out = w, u if recurrent else None, out
        self.inside = inside

    def init_state(self, batch_size=None):
        for name, size in (('v', 4), ('z', 4), ('y', 2)):
            if name != 'y' or self.inside:
                shape = (size,) if batch_size is None else (batch_size, size)
                setattr(self, name, brainstate.HiddenState(jnp.zeros(shape)))

    def reset_state(self, batch_size=None):
        for state in self.states(brainstate.HiddenState).values():
            state.value = jnp.zeros_like(state.value)

    def update(self, x):
        z = self.z.value
        current = matmul(x, self.w.value)
        if self.u is not None:
            current = current + matmul(z, self.u.value)
        self.v.value = 0.8 * self.v.value + current - jax.lax.stop_gradient(z)
        self.z.value = surrogate_spike(self.v.value - 1)
        if self.inside:
            self.y.value = KAPPA * self.y.value + matmul(self.z.value, self.out.value)
            return self.y.value
        return self.z.value @ self.out.value


def eligibility(model, xs):
    """Return the paper's `e` of the two weights: `(T, B, I, N)`, and the spikes `(T, B, N)`."""
    v = z = jnp.zeros((BATCH, 4))
    traces = [jnp.zeros((BATCH, 3)), jnp.zeros((BATCH, 4))]
    found, spikes = ([], []), []
    for x in xs:
        traces = [0.8 * trace + now for trace, now in zip(traces, (x, z), strict=True)]
        current = x @ model.w.value + (z @ model.u.value if model.u is not None else 0)
        v = 0.8 * v + current - z
        slope = 1 / (1 + jnp.abs(v - 1)) ** 2
        z = (v > 1).astype(v.dtype)
        for trace, kept in zip(traces, found, strict=True):
            kept.append(trace[:, :, None] * slope[:, None])
        spikes.append(z)
    return [jnp.stack(kept) for kept in found], jnp.stack(spikes)


def filtered(e, kappa):
    held, out = jnp.zeros_like(e[0]), []
    for now in e:
        held = kappa * held + now
        out.append(held)
    return jnp.stack(out)


@pytest.mark.parametrize('model', [PlainRNN, SpikingChain])
def test_without_a_filter_it_is_d_rtrl(model):
    assert_gradients_close(learn(EProp(), model()), learn(etrace_algorithms.D_RTRL, model()))


def test_the_formula_of_the_paper():
    model, xs = Spiking(), inputs()
    ours = learn(EProp(kappa=KAPPA), model)
    traces, spikes = eligibility(model, xs)
    assert 5 < spikes.sum() < spikes.size - 5
    deltas = jax.vmap(jax.grad(loss))(spikes @ model.out.value)
    signal = deltas @ model.out.value.T
    for name, e in zip('wu', traces, strict=True):
        expected = jnp.einsum('tbj,tbij->ij', signal, filtered(e, KAPPA))
        assert_gradients_close({name: ours[(name,)]}, {name: expected})
        unfiltered = jnp.einsum('tbj,tbij->ij', signal, e)
        with pytest.raises(AssertionError):
            assert_gradients_close({name: ours[(name,)]}, {name: unfiltered})


def test_the_filter_completes_a_leaky_readout_inside_the_model():
    """Nothing recurrent but the leaks: then e-prop is backpropagation at every length."""
    expected = backpropagate(Spiking(recurrent=False, inside=True))
    named = Feedback(readout='out')
    ours = learn(EProp(KAPPA, named), Spiking(recurrent=False, inside=True))
    assert_gradients_close(ours, expected)
    for wrong in (EProp(KAPPA), EProp(0.0, named)):
        with pytest.raises(AssertionError):
            assert_gradients_close(learn(wrong, Spiking(recurrent=False, inside=True)), expected)


def test_the_filter_completes_a_leaky_readout_outside_of_the_model():
    model, xs = Spiking(recurrent=False), inputs()
    learner = etrace_algorithms.compile(model, EProp(KAPPA), xs[0], batch_size=BATCH)
    y = brainstate.ShortTermState(jnp.zeros((BATCH, 2)))

    def step(x):
        y.value = KAPPA * y.value + learner(x)
        return loss(y.value)

    ours = learner.etrace_grad(xs, step_fn=step, reduction='sum')
    expected = backpropagate(Spiking(recurrent=False, inside=True))
    assert_gradients_close(ours, {('w',): expected[('w',)]})


def test_random_feedback_by_the_formula_of_the_paper():
    model, xs = Spiking(), inputs()
    rule = EProp(KAPPA, Feedback('random', observable='z'))
    assert not rule.exact_at_one_step
    learner = etrace_algorithms.compile(model, rule, xs[0], batch_size=BATCH)
    matrix = learner.etrace.value['feedback']['B'][0][0]
    ours = online_gradients(learner, xs, loss=loss)
    traces, spikes = eligibility(model, xs)
    deltas = jax.vmap(jax.grad(loss))(spikes @ model.out.value)
    for name, e in zip('wu', traces, strict=True):
        expected = jnp.einsum('tbj,tbij->ij', deltas @ matrix, filtered(e, KAPPA))
        assert_gradients_close({name: ours[(name,)]}, {name: expected})
    expected = jnp.einsum('tbj,tbk->jk', spikes, deltas)
    assert_gradients_close({'out': ours[('out',)]}, {'out': expected})


def test_adaptive_feedback_keeps_what_it_has_learned():
    rule, x = EProp(feedback=Feedback('adaptive', observable='z', readout='out')), inputs()[0]
    learner = etrace_algorithms.compile(Spiking(), rule, x, batch_size=BATCH)
    before = learner.etrace.value['feedback']['B'][0][0]
    learner(x)
    learner.model.out.value += 0.5
    learner(x)
    learner.reset_state(BATCH)
    assert jnp.allclose(learner.etrace.value['feedback']['B'][0][0], before + 0.5)
    assert not jnp.any(jax.tree.leaves(learner.etrace.value['e'])[0])


def test_several_steps_at_once_are_the_step_engine():
    rule, steps = EProp(KAPPA), learn(EProp(KAPPA), PlainRNN())
    xs, model = inputs(), PlainRNN()
    learner = etrace_algorithms.compile(model, rule, xs[0], batch_size=BATCH)
    states = learner.param_states
    grad = brainstate.transform.grad(
        lambda: jnp.sum(jax.vmap(loss)(learner(MultiStepData(xs)))), states, check_states=False
    )
    assert_gradients_close(grad(), steps)


def test_a_window_of_several_steps_takes_no_filter():
    with pytest.raises(NotSupportedError, match=r"got 'multi-step' and kappa=0.6.*expected kappa"):
        learn(EProp(KAPPA), PlainRNN(), vjp_method='multi-step')
    ours = learn(EProp(), PlainRNN(), vjp_method='multi-step', chunk_size=3)
    theirs = learn('d_rtrl', PlainRNN(), vjp_method='multi-step', chunk_size=3)
    assert_gradients_close(ours, theirs)


def test_rates_are_regularised_by_the_formula_of_the_paper():
    model, xs = Spiking(), inputs()
    learner = etrace_algorithms.compile(model, EProp(), xs[0], batch_size=BATCH)
    regulariser = RateRegulariser(4, target=0.2, strength=0.5, decay=0.7)

    def step(x):
        learner(x)
        return regulariser(model.z.value)

    ours, values = learner.etrace_grad(xs, step_fn=step, reduction='sum', return_value=True)
    traces, spikes = eligibility(model, xs)
    rates, rate = [], jnp.full(4, 0.2)
    for now in spikes:
        rate = 0.7 * rate + 0.3 * now.mean(0)
        rates.append(rate)
    excess = jnp.stack(rates) - 0.2
    for name, e in zip('wu', traces, strict=True):
        expected = 0.5 * jnp.einsum('tj,tbij->ij', excess, e) / BATCH
        assert_gradients_close({name: ours[(name,)]}, {name: expected})
    assert jnp.allclose(jnp.sum(values), 0.25 * jnp.sum(excess**2))
    regulariser.reset_state()
    assert jnp.allclose(regulariser.rate.value, 0.2)


def test_the_learner_is_found_by_name():
    assert get_learner('etrace-eprop:eprop').load() is EProp
    by_name = learn('e_prop', LeakyIntegrator(), kappa=KAPPA)
    assert_gradients_close(by_name, learn(EProp(KAPPA), LeakyIntegrator()), rtol=0)


@pytest.mark.parametrize('kappa', [-0.1, 1.0, float('nan')])
def test_a_filter_out_of_range_is_refused(kappa):
    with pytest.raises(ValueError, match=r'`kappa` is out of range: got .*; expected 0 <= kappa'):
        EProp(kappa)


def test_other_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`feedback` does not fit: got 'direct'; expected one of"):
        EProp(feedback='direct')
    with pytest.raises(ValueError, match=r'`decay` is out of range: got 1.0; expected 0 <= decay'):
        RateRegulariser(2, decay=1.0)


def test_of_several_rules_the_readout_may_have_its_own():
    """Naming the readout, and giving it to another rule, are the same."""
    parts = {'out': DiagonalRTRL(), '*': EProp(KAPPA)}
    rule = HybridRule(tuple(RulePart(name, part, (name,)) for name, part in parts.items()))
    ours = learn(rule, Spiking(inside=True))
    named = EProp(KAPPA, {'readout': 'out'})
    assert_gradients_close(ours, learn(named, Spiking(inside=True)))
