"""Step functions that can only be run step by step, and those that look as if they were."""

import warnings

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import etrace_algorithms as ea
from etrace_algorithms.testing import LeakyIntegrator
from etrace_algorithms.windows import WindowEngine
from etrace_compiler import CompilationWarning, matmul

from .measured import parameter
from .window_models import assert_same, check_windows, inputs, loss, outcome, ready

#: `(learner, its own states) -> step function`, by why it is run step by step.
REFUSED = {}
#: The same for those that are run by windows.
TAKEN = {}


def into(steps, reason=None, **states):
    def add(make):
        steps[make.__name__] = make, reason, states
        return make

    return add


def own(states):
    return {name: make() for name, make in states.items()}


@jax.custom_vjp
def clipped(w):
    """The identity, whose cotangents are clipped."""
    return w


clipped.defvjp(lambda w: (w, None), lambda _, c: (jnp.clip(c, -0.1, 0.1),))


@jax.custom_vjp
def doubled(w):
    """The identity, whose cotangents are doubled: a rule that is linear."""
    return w


doubled.defvjp(lambda w: (w, None), lambda _, c: (2 * c,))


def square():
    return parameter(2, 2, seed=51)


# ---------------------------------------------------------------- step by step


@into(REFUSED, 'it calls the learner more than once')
def twice(learner):
    return lambda x: loss(learner(x)) + loss(learner(2 * x))


@into(REFUSED, 'it does not call the learner for one step')
def never(learner):
    return lambda x: jnp.sum(learner.model.w.value**2) * x.sum()


@into(REFUSED, 'a loop, a branch or a function with a derivative')
def in_a_loop_of_two_steps(learner):
    def step(x):
        outs = brainstate.transform.for_loop(learner, jnp.stack([x, 2 * x]))
        return loss(outs)

    return step


@into(REFUSED, 'a loop, a branch or a function with a derivative')
def in_multi_step_data(learner):
    return lambda x: loss(learner(ea.MultiStepData(jnp.stack([x, 2 * x]))))


@into(REFUSED, 'a loop, a branch or a function with a derivative')
def in_a_branch(learner):
    def step(x):
        return brainstate.transform.cond(x.sum() > 0, lambda: loss(learner(x)), lambda: 0.0)

    return step


@into(REFUSED, 'it reads the trace')
def reads_the_trace(learner):
    def step(x):
        size = sum(jnp.sum(e**2) for e in jax.tree.leaves(learner.etrace.value))
        return loss(learner(x)) + size * jnp.sum(learner.model.readout.value)

    return step


@into(REFUSED, 'it changes the trace')
def forgets_the_trace_before(learner):
    def step(x):
        trace = jax.tree.map(lambda e: jnp.where(x[0, 0] > 0, 0.0, e), learner.etrace.value)
        learner.etrace.value = trace
        return loss(learner(x))

    return step


@into(REFUSED, 'it changes the trace')
def halves_the_trace_after(learner):
    def step(x):
        out = learner(x)
        learner.etrace.value = jax.tree.map(lambda e: 0.5 * e, learner.etrace.value)
        return loss(out)

    return step


@into(REFUSED, 'it writes a parameter')
def writes_a_parameter(learner):
    def step(x):
        found = loss(learner(x))
        learner.model.w.value = 0.9 * learner.model.w.value
        return found

    return step


@into(REFUSED, 'it writes a parameter', r=square)
def writes_a_parameter_of_its_own(learner, r):
    def step(x):
        r.value = 0.9 * r.value
        return loss(learner(x) @ r.value)

    return step


@into(REFUSED, 'a derivative rule that is not linear', r=square)
def clips_a_gradient(learner, r):
    return lambda x: loss(learner(x) @ clipped(r.value))


@into(REFUSED, 'a derivative rule that is not linear', r=square)
def clips_a_gradient_inside_a_function(learner, r):
    read = jax.jit(lambda y, w: y @ clipped(2 * w))
    return lambda x: loss(read(learner(x), r.value))


@into(REFUSED, 'a derivative rule that is not linear', r=square)
def clips_a_gradient_inside_a_loop(learner, r):
    def step(x):
        mix = lambda y, _: (jnp.tanh(y @ clipped(r.value)), None)  # noqa: E731
        return loss(jax.lax.scan(mix, learner(x), None, length=2)[0])

    return step


@into(REFUSED, 'cannot be told from what it computes')
def calls_the_host(learner):
    def step(x):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return loss(learner(io_callback(lambda v: 2 * np.asarray(v), like, x)))

    return step


@into(REFUSED, 'cannot be evaluated side by side')
def calls_the_host_for_one_step(learner):
    def step(x):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return loss(learner(jax.pure_callback(lambda v: 2 * np.asarray(v), like, x)))

    return step


def rbg_key():
    return brainstate.ShortTermState(jax.random.key(0, impl='rbg'))


@into(REFUSED, 'keys of `rbg`', key=rbg_key)
def draws_other_numbers_for_a_batch(learner, key):
    def step(x):
        key.value, now = jax.random.split(key.value)
        return loss(learner(x + jax.random.normal(now, x.shape)))

    return step


# ---------------------------------------------------------------- window by window


@into(TAKEN)
def in_a_function_under_jit(learner):
    return lambda x: loss(brainstate.transform.jit(lambda x: learner(x))(x))


@into(TAKEN)
def in_a_checkpoint(learner):
    return lambda x: brainstate.transform.checkpoint(lambda x: loss(learner(x)))(x)


@into(TAKEN, r=square)
def a_linear_rule_on_a_weight(learner, r):
    read = jax.jit(lambda y, w: y @ doubled(w))
    return lambda x: loss(read(learner(x), r.value)) + loss(clipped(learner.model.h.value))


@into(TAKEN)
def differentiates_inside(learner):
    def step(x):
        out = learner(x)
        return jnp.sum(out * jax.grad(loss)(out))

    return step


@into(TAKEN)
def changes_hidden_states(learner):
    def step(x):
        h = learner.model.h
        h.value = jnp.where(x[:, :1] > 0, 0.0, h.value)
        out = learner(x) * learner.running_index.value
        h.value = 0.9 * h.value
        return loss(out) + loss(h.value)

    return step


@into(TAKEN, r=square)
def a_branch_beside_the_learner(learner, r):
    def step(x):
        out = learner(x)
        return jax.lax.cond(x.sum() > 0, lambda: loss(out @ r.value), lambda: jnp.sum(out))

    return step


# ---------------------------------------------------------------- what they give


@pytest.mark.parametrize('name', REFUSED)
def test_run_step_by_step(name):
    """The same result, and a reason at the user's line where windows were asked for."""
    make, reason, states = REFUSED[name]
    learner = ready(LeakyIntegrator(), 'd_rtrl' if 'trace' in reason else 'immediate')
    mine = own(states)
    step, beside = make(learner, **mine), list(mine.values())
    weights = [*learner.param_states.values()]
    weights += [s for s in beside if isinstance(s, brainstate.ParamState)]
    expected = outcome(learner, inputs(4), step_fn=step, chunk_size=1, beside=beside,
                       weights=weights)  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        asked = outcome(learner, inputs(4), step_fn=step, chunk_size=2, beside=beside,
                        weights=weights)  # fmt: skip
    assert_same(asked, expected)
    (warning,) = [w for w in caught if issubclass(w.category, CompilationWarning)]
    assert str(warning.message).startswith('chunk_size=2: the steps are run one by one')
    assert reason in str(warning.message)
    assert '[ETA111]' in str(warning.message)
    assert warning.filename.endswith('window_models.py')


@pytest.mark.parametrize('name', TAKEN)
def test_run_window_by_window(name):
    make, _, states = TAKEN[name]
    learner, mine = ready(LeakyIntegrator(), 'd_rtrl'), own(states)
    weights = [*learner.param_states.values(), *mine.values()]
    step = make(learner, **mine)
    check_windows(learner, inputs(4), step_fn=step, beside=list(mine.values()), weights=weights)


def test_the_default_falls_back_in_silence():
    learner = ready(LeakyIntegrator(), 'immediate')
    step = REFUSED['twice'][0](learner)
    expected = outcome(learner, inputs(4), step_fn=step, chunk_size=1)
    for chunk in (None, 'auto'):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert_same(outcome(learner, inputs(4), step_fn=step, chunk_size=chunk), expected)


def test_control_a_clipped_sum_is_no_sum_of_clipped_gradients(monkeypatch):
    """Without the check the results are not the same."""
    monkeypatch.setattr('etrace_compiler.replay._bends', lambda eqn: False)
    learner, r = ready(LeakyIntegrator(), 'immediate'), square()
    step = clips_a_gradient_inside_a_function(learner, r)
    with pytest.raises(AssertionError, match='Not equal to tolerance'):
        check_windows(learner, inputs(4), step_fn=step, beside=[r], weights=[r])


def test_a_weight_that_is_clipped_inside_the_model():
    class Clipped(LeakyIntegrator):
        def update(self, x):
            self.h.value = 0.9 * self.h.value + matmul(x, clipped(self.w.value), self.b.value)
            return self.read(self.h.value)

    learner = ready(Clipped())
    step = lambda x: loss(learner(x))  # noqa: E731
    expected = outcome(learner, inputs(4), step_fn=step, chunk_size=1)
    with pytest.warns(CompilationWarning, match='ETA111'):
        assert_same(outcome(learner, inputs(4), step_fn=step, chunk_size=2), expected)


class Rounded(ea.D_RTRL):
    """A learner that keeps its trace rounded: every step begins with what was kept."""

    def _assign_etrace_data(self, data):
        super()._assign_etrace_data(jax.tree.map(lambda e: jnp.round(e, 1), data))


def test_a_trace_that_is_kept_in_another_form():
    learner = ready(LeakyIntegrator(), Rounded)
    step = lambda x: loss(learner(x))  # noqa: E731
    expected = outcome(learner, inputs(4), step_fn=step, chunk_size=1)
    with pytest.warns(CompilationWarning, match='it changes the trace'):
        assert_same(outcome(learner, inputs(4), step_fn=step, chunk_size=2), expected)


class Own(ea.D_RTRL):
    """A learner that keeps its trace in a state of its own."""

    def _get_etrace_data(self):
        return self.kept.value

    def _assign_etrace_data(self, data):
        if not hasattr(self, 'kept'):
            self.kept = brainstate.ShortTermState(data)
        self.kept.value = data


@pytest.mark.parametrize('carry_trace', [True, False])
def test_a_trace_that_is_kept_elsewhere(carry_trace):
    found = []
    for chunk in (1, 2):
        learner = ready(LeakyIntegrator(), Own)
        before = learner.kept.value
        step = lambda x, learner=learner: loss(learner(x))  # noqa: E731
        gradients = learner.etrace_grad(
            inputs(4), step_fn=step, chunk_size=chunk, carry_trace=carry_trace
        )
        found.append((gradients, learner.kept.value))
    assert_same(found[1], found[0])
    after = found[1][1]
    same = [bool(jnp.all(before[key][0][0] == after[key][0][0])) for key in before]
    assert same == [not carry_trace] * 2


def test_a_second_learner_is_a_part_of_the_step():
    """The one whose gradients are asked for runs by windows; the other by its own steps."""
    learner = ready(LeakyIntegrator())
    other = ready(LeakyIntegrator(2, 3, 2, seed=5), x=jnp.zeros((2, 2)))
    weights = {'one': learner.model.w, 'other': other.model.w}
    beside = list(other.states().values())
    step = lambda x: loss(other(learner(x)))  # noqa: E731
    check_windows(learner, inputs(4), step_fn=step, weights=weights, beside=beside)


@pytest.mark.parametrize('chunk', [1, 2, 3])
def test_printing_happens_once_per_step(chunk, capsys):
    class Loud(LeakyIntegrator):
        def update(self, x):
            jax.debug.print('model {}', x[0, 0])
            return super().update(x)

    learner = ready(Loud(), 'immediate')

    def step(x):
        jax.debug.print('step {}', 2 * x[0, 0])
        return loss(learner(x))

    capsys.readouterr()
    xs = inputs(5).at[:, 0, 0].set(jnp.arange(5.0))
    learner.etrace_grad(xs, step_fn=step, chunk_size=chunk)
    jax.effects_barrier()
    lines = capsys.readouterr().out.split('\n')
    assert sorted(line for line in lines if 'model' in line) == [f'model {i}.0' for i in range(5)]
    assert sorted(line for line in lines if 'step' in line) == [f'step {2 * i}.0' for i in range(5)]


@pytest.mark.parametrize('chunk', [2, 4])
def test_what_cannot_stand_side_by_side_prints_once_as_well(chunk, capsys):
    """The refusal comes before anything has been recorded."""
    learner = ready(LeakyIntegrator())

    def step(x):
        jax.debug.print('step {}', x[0, 0])
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return loss(learner(jax.pure_callback(lambda v: 2 * np.asarray(v), like, x)))

    capsys.readouterr()
    xs = inputs(4).at[:, 0, 0].set(jnp.arange(4.0))
    with pytest.warns(CompilationWarning, match='side by side'):
        learner.etrace_grad(xs, step_fn=step, chunk_size=chunk)
    jax.effects_barrier()
    lines = capsys.readouterr().out.split('\n')
    assert sorted(line for line in lines if 'step' in line) == [f'step {i}.0' for i in range(4)]


def test_what_fails_leaves_everything_as_it_was(monkeypatch):
    def fail(*args):
        raise RuntimeError('no window')

    learner = ready(LeakyIntegrator())
    before = [s.value for s in learner.states().values()]
    monkeypatch.setattr(WindowEngine, '_probe_steps', fail)
    with pytest.raises(RuntimeError, match='no window'):
        learner.etrace_grad(inputs(4), step_fn=lambda x: loss(learner(x)))
    assert_same([s.value for s in learner.states().values()], before)
