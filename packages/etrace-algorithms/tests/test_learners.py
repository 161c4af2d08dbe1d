"""The learner as an object: calls, windows, transformations, and what must not happen."""

import functools
import warnings

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
import etrace_nn
from etrace_algorithms.testing import (
    DiagonalLSTM,
    LeakyIntegrator,
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
    assert_gradients_close,
    bptt_gradients,
    gradient_alignment,
    online_gradients,
)
from etrace_compiler import CompilationError, CompilationWarning, matmul


def inputs(steps, batch=3, seed=2):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, batch, 3)))


def loss(y):
    return jnp.sum(y**2 + jnp.sin(y))


def ready(model, name='d_rtrl', batch=3, **options):
    return ea.compile(model, name, inputs(1, batch)[0], batch_size=batch, **options)


def snapshot(learner):
    values = {k: s.value for k, s in learner.model.states().items()}
    return jax.tree.map(np.asarray, (values, learner.etrace.value, learner.running_index.value))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop', 'immediate', 'param_dim'])
def test_values_are_those_of_the_model(name):
    xs = inputs(5)
    options = {'decay_or_rank': 0.9} if name == 'pp_prop' else {}
    learner = ready(SpikingChain(), name, **options)
    model = SpikingChain()
    brainstate.nn.init_all_states(model, 3)
    for x in xs:
        np.testing.assert_allclose(learner(x), model(x), rtol=1e-12)
    for path, state in model.states().items():
        np.testing.assert_allclose(learner.model.states()[path].value, state.value, rtol=1e-12)
    assert int(learner.running_index.value) == 5


def pure(function, *args):
    """A function of states and arguments, for JAX's own transformations, and the states."""
    staged = brainstate.transform.StatefulFunction(function, return_only_write=False)
    staged.make_jaxpr(*args)
    states = staged.get_states(*args)
    return lambda values, *a: staged.jaxpr_call(values, *a), states


def test_jax_own_grad_jit_and_scan_through_a_learner_give_the_online_gradient():
    xs = inputs(4)
    learner = ready(DiagonalLSTM())
    expected = bptt_gradients(learner.model, xs, loss=loss)
    step, states = pure(lambda x: loss(learner(x)), xs[0])
    params = [i for i, s in enumerate(states) if isinstance(s, brainstate.ParamState)]

    def step_loss(weights, values, x):
        values = list(values)
        for i, w in zip(params, weights, strict=True):
            values[i] = w
        new, out = step(values, x)
        return out, list(new)

    def body(carry, x):
        values, total = carry
        weights = [values[i] for i in params]
        now, new = jax.grad(step_loss, has_aux=True)(weights, values, x)
        return (new, jax.tree.map(jnp.add, total, now)), None

    values = [s.value for s in states]
    zeros = [jnp.zeros_like(values[i]) for i in params]
    (_, total), _ = jax.jit(lambda c, xs: jax.lax.scan(body, c, xs))((values, zeros), xs)
    paths = {id(s): path for path, s in learner.param_states.items()}
    actual = {paths[id(states[i])]: g for i, g in zip(params, total, strict=True)}
    assert_gradients_close(actual, expected)


def test_jax_own_vmap_over_parameters_through_a_learner():
    xs = inputs(1)
    learner = ready(DiagonalLSTM())
    step, states = pure(lambda x: loss(learner(x)), xs[0])
    (where,) = [i for i, s in enumerate(states) if s is learner.model.w]

    def gradient(w, x):
        values = [s.value for s in states]
        return jax.grad(lambda w: step([*values[:where], w, *values[where + 1 :]], x)[1])(w)

    ws = jnp.stack([learner.model.w.value * k for k in (0.5, 1.0, 2.0)])
    got = jax.jit(jax.vmap(gradient, in_axes=(0, None)))(ws, xs[0])
    single = jax.jit(gradient)
    want = jnp.stack([single(w, xs[0]) for w in ws])
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_two_calls_inside_one_gradient_count_no_path_twice():
    xs = inputs(6)
    learner = ready(DiagonalLSTM())
    expected = bptt_gradients(learner.model, xs, loss=loss)

    def total():
        return jnp.sum(brainstate.transform.for_loop(lambda x: loss(learner(x)), xs))

    actual = brainstate.transform.grad(total, learner.param_states)()
    assert_gradients_close(actual, expected)


def test_a_loss_may_read_the_new_hidden_states():
    xs = inputs(6)
    learner = ready(DiagonalLSTM())

    def step(model, x):
        return loss(model(x)) + jnp.sum(learner.model.h.value**2) + jnp.sum(learner.model.c.value)

    before = snapshot(learner)[0]

    def total():
        return jnp.sum(brainstate.transform.for_loop(lambda x: step(learner.model, x), xs))

    expected = brainstate.transform.grad(total, learner.param_states)()
    for path, value in before.items():
        learner.model.states()[path].value = jnp.asarray(value)
    actual = learner.etrace_grad(xs, step_fn=lambda x: step(learner, x), reduction='sum')
    assert_gradients_close(actual, expected)


@pytest.mark.parametrize('transform', ['eager', 'jit', 'for_loop', 'scan'])
def test_steps_under_any_transformation_give_the_same_states_and_traces(transform):
    xs = inputs(5)
    reference = ready(RecurrentLSTM())
    for x in xs:
        want = reference(x)
    learner = ready(RecurrentLSTM())
    if transform == 'eager':
        out = learner.etrace_evolve(xs, return_outputs=True)[-1]
    elif transform == 'jit':
        step = brainstate.transform.jit(learner.update)
        for x in xs:
            out = step(x)
    elif transform == 'for_loop':
        out = brainstate.transform.for_loop(learner.update, xs)[-1]
    else:
        _, outs = brainstate.transform.scan(lambda c, x: (c, learner(x)), 0, xs)
        out = outs[-1]
    np.testing.assert_allclose(out, want, rtol=1e-12)
    a, b = snapshot(learner), snapshot(reference)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), a, b)


@pytest.mark.parametrize('method', ['single-step', 'multi-step'])
@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_batched_equals_the_vmap_of_unbatched(name, method):
    xs = inputs(5)
    options = {'decay_or_rank': 0.9} if name == 'pp_prop' else {}
    batched = ready(RecurrentLSTM(), name, vjp_method=method, **options)
    mapped = ready(RecurrentLSTM(), name, vjp_method=method, vmap=True, **options)
    assert mapped.graph.hidden_groups[0].varshape == (4,)
    a = online_gradients(batched, xs, loss=loss)
    b = online_gradients(mapped, xs, loss=loss)
    assert_gradients_close(b, a)
    np.testing.assert_allclose(mapped.model.h.value, batched.model.h.value, rtol=1e-10)
    # and of single samples, one after the other
    single = ea.compile(RecurrentLSTM(), name, xs[0, 0], vjp_method=method, **options)
    total = jax.tree.map(jnp.zeros_like, a)
    for i in range(3):
        single.reset_state()
        one = online_gradients(single, xs[:, i], loss=loss)
        total = jax.tree.map(jnp.add, total, one)
    assert_gradients_close(total, a)


class Noisy(LeakyIntegrator):
    def __init__(self):
        super().__init__()
        self.drop = brainstate.nn.Dropout(0.5)

    def update(self, x):
        with brainstate.environ.context(fit=True):
            return super().update(self.drop(x))


def test_vmap_gives_every_sample_its_own_random_numbers():
    learner = ready(Noisy(), vmap=True)
    out = learner(jnp.ones((3, 3)))
    again = learner(jnp.ones((3, 3)))
    assert len(np.unique(np.asarray(learner.model.h.value), axis=0)) > 1
    assert out.shape == again.shape == (3, 2)


@pytest.mark.parametrize('method', ['single-step', 'multi-step'])
def test_vmap_carries_random_keys_through_windows(method):
    learner = ready(Noisy(), vmap=True, vjp_method=method)
    (key,) = learner.other_states.values()
    before = jax.random.key_data(key.value)
    grads = online_gradients(learner, inputs(5), loss=loss, chunk_size=2)
    assert all(np.isfinite(np.asarray(g)).all() for g in grads.values())
    assert key.value.shape == ()
    assert (jax.random.key_data(key.value) != before).any()


# ---------------------------------------------------------------- windows


def entry_oracle(learner, xs):
    """One window by hand: autodiff inside, and its entry signal against the traces."""
    model, graph = learner.model, learner.graph
    trace = learner.etrace.value
    kept = {k: s.value for k, s in model.states().items()}
    entries = {**learner.param_states, **learner.hidden_states}

    def total():
        return jnp.sum(brainstate.transform.for_loop(lambda x: loss(model(x)), xs))

    found = brainstate.transform.jit(brainstate.transform.grad(total, entries))()
    for path, value in kept.items():
        model.states()[path].value = value
    inside = {path: found[path] for path in learner.param_states}
    signal = {path[-1]: found[path] for path in learner.hidden_states}
    for r in graph.hidden_param_op_relations:
        (group,) = r.hidden_groups
        stacked = np.stack([signal[s.path[-1]] for s in group.hidden_states], -1)
        flat = stacked.reshape(-1, stacked.shape[-1])[r.take(0, r.positions[0])]
        block = np.einsum('ghos,sghio->hio', flat, np.stack(trace[r.key][0]))
        block = r.place(0, jnp.asarray(block))[0]
        inside[r.path] = inside[r.path] + (block if r.operator.has_input else block[0])
    return inside


@pytest.mark.parametrize('window', [1, 2, 5])
@pytest.mark.parametrize('model', [PlainRNN, RecurrentLSTM])
def test_a_window_is_autodiff_inside_and_the_trace_at_its_entry(model, window):
    xs = inputs(max(2 * window, 3))
    learner = ready(model(), vjp_method='multi-step')

    @brainstate.transform.jit
    def online(chunk):
        def window_loss():
            out = learner(ea.MultiStepData(chunk))
            assert out.shape == (window, 3, 2)
            return loss(out)

        return brainstate.transform.grad(window_loss, learner.param_states)()

    total = None
    for start in range(0, len(xs), window):
        chunk = xs[start : start + window]
        expected = entry_oracle(learner, chunk)
        actual = online(chunk)
        assert_gradients_close(actual, expected)
        total = actual if total is None else jax.tree.map(jnp.add, total, actual)
    # the same through etrace_grad, whose step function sees one step at a time
    again = ready(model(), vjp_method='multi-step')
    assert_gradients_close(online_gradients(again, xs, loss=loss, chunk_size=window), total)
    # and it is neither truncated nor full backpropagation
    truncated = bptt_gradients(ready(model()).model, xs, loss=loss, stop_at=window)
    assert gradient_alignment(total, truncated)[0] < 0.999999


def test_the_last_window_may_be_shorter():
    xs = inputs(7)
    learner = ready(DiagonalLSTM(), vjp_method='multi-step')
    expected = bptt_gradients(learner.model, xs, loss=loss)
    assert_gradients_close(online_gradients(learner, xs, loss=loss, chunk_size=3), expected)
    assert int(learner.running_index.value) == 7


def test_one_window_over_everything_is_backpropagation_for_every_rule():
    """Why a claim about a rule needs a finite window."""
    xs = inputs(6)
    learner = ready(PlainRNN(), 'immediate', vjp_method='multi-step')
    expected = bptt_gradients(learner.model, xs, loss=loss)
    assert_gradients_close(online_gradients(learner, xs, loss=loss, chunk_size=6), expected)


def test_windows_run_by_vmap_as_well():
    xs = inputs(6)
    a = online_gradients(ready(PlainRNN(), vjp_method='multi-step'), xs, loss=loss, chunk_size=4)
    learner = ready(PlainRNN(), vjp_method='multi-step', vmap=True)
    assert_gradients_close(online_gradients(learner, xs, loss=loss, chunk_size=4), a)


@pytest.mark.parametrize('method', ['single-step', 'multi-step'])
def test_single_and_multi_step_data_in_any_mix(method):
    class Scaled(PlainRNN):
        def update(self, x, gain, shift):
            return super().update(x * gain['a'] + shift)

    def make():
        example = (inputs(1)[0], {'a': jnp.ones(())}, jnp.zeros(3))
        return ea.compile(Scaled(), 'd_rtrl', *example, batch_size=3, vjp_method=method)

    xs = inputs(5)
    gains, shift = jnp.linspace(0.5, 1.5, 5), jnp.asarray([0.1, -0.2, 0.3])
    reference = make()
    want = jnp.stack([reference(x, {'a': g}, shift) for x, g in zip(xs, gains, strict=True)])
    for one in (shift, ea.SingleStepData(shift)):
        learner = make()
        out = learner(ea.MultiStepData(xs), ea.MultiStepData({'a': gains}), one)
        np.testing.assert_allclose(out, want, rtol=1e-12)
        assert_same_traces(learner, reference)
    learner = make()
    out = learner(ea.SingleStepData(xs[0]), {'a': gains[0]}, shift)
    np.testing.assert_allclose(out, want[0], rtol=1e-12)


def assert_same_traces(a, b):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-13),
        a.etrace.value,
        b.etrace.value,
    )


# ---------------------------------------------------------------- sequences


def test_mask_reduction_and_loss_output():
    xs = inputs(6)
    mask = jnp.asarray([0.0, 1, 1, 0, 1, 1])

    def run(**options):
        learner = ready(DiagonalLSTM())
        return learner.etrace_grad(
            xs, step_fn=lambda x: loss(learner(x)), return_value=True, **options
        )

    _, per_step = run()
    grads, masked = run(mask=mask, loss_output='masked', reduction='sum')
    mean, scalar = run(mask=mask, loss_output='scalar')
    np.testing.assert_allclose(masked, per_step * mask, rtol=1e-12)
    np.testing.assert_allclose(scalar, (per_step * mask).sum() / 4, rtol=1e-12)
    assert_gradients_close(jax.tree.map(lambda g: 4 * g, mean), grads)

    model = DiagonalLSTM()
    brainstate.nn.init_all_states(model, 3)

    def total():
        out = brainstate.transform.for_loop(lambda x, m: m * loss(model(x)), xs, mask)
        return jnp.sum(out)

    expected = brainstate.transform.grad(total, model.states(brainstate.ParamState))()
    assert_gradients_close(grads, expected)


def test_a_mask_of_samples_is_a_batch_of_sequences_of_unequal_length():
    xs = inputs(6)
    mask = jnp.asarray(np.arange(6)[:, None] < np.array([2, 6, 4]), float)
    learner = ready(DiagonalLSTM())
    grads = learner.etrace_grad(
        xs, step_fn=lambda x: jnp.sum(learner(x) ** 2, -1), mask=mask, reduction='sum'
    )
    total = jax.tree.map(jnp.zeros_like, grads)
    for i, length in enumerate((2, 6, 4)):
        single = ea.compile(DiagonalLSTM(), 'd_rtrl', xs[0, 0])
        one = online_gradients(single, xs[:length, i], loss=lambda y: jnp.sum(y**2))
        total = jax.tree.map(jnp.add, total, one)
    assert_gradients_close(grads, total)


def test_auxiliary_outputs_and_a_choice_of_weights():
    xs = inputs(4)
    learner = ready(DiagonalLSTM())
    readout = {'r': learner.model.readout}
    grads, losses, aux = learner.etrace_grad(
        xs,
        step_fn=lambda x: (loss(y := learner(x)), {'y': y}),
        has_aux=True,
        return_value=True,
        weights=readout,
    )
    assert set(grads) == {'r'}
    assert losses.shape == (4,)
    assert aux['y'].shape == (4, 3, 2)


def test_evolve_returns_outputs_only_when_asked():
    learner = ready(PlainRNN())
    assert learner.etrace_evolve(inputs(3)) is None
    out = learner.etrace_evolve(inputs(3), step_fn=lambda x: learner(x) * 2, return_outputs=True)
    assert out.shape == (3, 3, 2)
    assert int(learner.running_index.value) == 6


def test_a_trace_is_updated_in_place_and_a_copy_can_be_put_back():
    learner, xs = ready(PlainRNN()), inputs(4)

    def step(x):
        return loss(learner(x))

    gone, copied = learner.etrace.value, jax.tree.map(jnp.copy, learner.etrace.value)
    states = {path: s.value for path, s in learner.model.states().items()}
    first = learner.etrace_grad(xs, step_fn=step)
    for path, value in states.items():
        learner.model.states()[path].value = value
    learner.etrace.value = gone
    with pytest.raises(ValueError, match=r'is gone.*ETA112'):
        learner.etrace_grad(xs, step_fn=step)
    learner.etrace.value = copied
    assert_gradients_close(learner.etrace_grad(xs, step_fn=step), first, rtol=1e-12)


@pytest.mark.parametrize('chunk', [1, 3, None])
@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop', 'immediate'])
def test_a_trace_that_is_not_carried_stays_as_it_was(name, chunk):
    xs = inputs(7)
    options = {'decay_or_rank': 0.9} if name == 'pp_prop' else {}
    model = PlainRNN()
    learners = [ready(model, name, **options), ready(model, name, **options)]
    found = []
    for learner, carried in zip(learners, (True, False), strict=True):
        step = functools.partial(lambda learner, x: loss(learner(x)), learner)
        learner.reset_state(3)
        learner.etrace_grad(xs, step_fn=step)
        before = jax.tree.map(jnp.copy, learner.etrace.value)
        gradients = learner.etrace_grad(xs, step_fn=step, chunk_size=chunk, carry_trace=carried)
        found.append(gradients)
        same = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (
            before, learner.etrace.value)), strict=True)]  # fmt: skip
        assert all(same) == (not carried or name == 'immediate')
    assert_gradients_close(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_what_is_held_after_a_sequence_is_what_was_planned(name):
    options = {'decay_or_rank': 0.9} if name == 'pp_prop' else {}
    learner = ready(PlainRNN(), name, **options)
    learner.etrace_grad(inputs(5), step_fn=lambda x: loss(learner(x)))
    plan = learner.memory_plan()
    states = {id(s): s.value for s in (*learner.states().values(), learner.etrace)}
    held = sum(x.nbytes for x in jax.tree.leaves(states))
    planned = plan.total_bytes(plan.learners[0].name)
    assert abs(held - planned) <= 0.1 * planned


@pytest.mark.parametrize('chunk', [1, 8, '8 kB'])
def test_memory_of_a_long_sequence_does_not_grow_with_its_length(chunk):
    learner = ready(PlainRNN())

    def peak(steps):
        def run(xs):
            return learner.etrace_grad(xs, step_fn=lambda x: loss(learner(x)), chunk_size=chunk)

        function = brainstate.transform.StatefulFunction(run).make_jaxpr(inputs(steps))
        states = tuple(s.value for s in function.get_states(inputs(steps)))
        jitted = jax.jit(lambda s, x: function.jaxpr_call(s, x))
        compiled = jitted.lower(states, inputs(steps)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(1024) < 1.5 * peak(16) + 3 * 1024 * 8


# ---------------------------------------------------------------- no recompilation


def test_the_second_call_of_anything_compiles_nothing():
    xs = inputs(5)
    learner = ready(PlainRNN())
    learner(xs[0])
    learner(xs[1])
    assert learner._jitted._cache_size() == 1
    learner(ea.MultiStepData(xs))
    learner(ea.MultiStepData(xs + 1))
    assert learner._jitted._cache_size() == 2

    traces = []

    @brainstate.transform.jit
    def train(xs):
        traces.append(1)
        return learner.etrace_grad(xs, step_fn=lambda x: loss(learner(x)))

    train(xs)
    once = len(traces)
    for k in range(3):
        train(xs * k)
    assert len(traces) == once

    def step_fn(x):
        traces.append(1)
        return loss(learner(x))

    for name in ('grad', 'evolve'):
        run = getattr(learner, f'etrace_{name}')
        run(xs, step_fn=step_fn)
        once = len(traces)
        run(xs * 2, step_fn=step_fn)
        assert len(traces) == once
    run(xs[:3], step_fn=step_fn)  # another length is another program
    assert len(traces) > once
    learner.compile_graph(xs[0])
    once = len(traces)
    run(xs, step_fn=step_fn)
    assert len(traces) > once


# ---------------------------------------------------------------- life cycle


def test_reset_begins_again():
    xs = inputs(4)
    learner = ready(RecurrentLSTM())
    fresh = snapshot(learner)
    first = online_gradients(learner, xs, loss=loss)
    learner.reset_state(3)
    assert_same(snapshot(learner), fresh)
    assert_gradients_close(online_gradients(learner, xs, loss=loss), first, rtol=1e-12)


def test_states_by_role_and_traces_by_weight():
    learner = ready(DiagonalLSTM())
    model = learner.model
    assert set(learner.param_states) == set(model.states(brainstate.ParamState))
    assert set(learner.hidden_states) == {('h',), ('c',)}
    assert learner.other_states == {}
    assert learner.is_compiled
    assert set(learner.get_etrace_of(model.w)) == {'w'}
    assert set(learner.get_etrace_of(('b',))) == {'b'}
    assert [e.shape for e in learner.get_etrace_of('w')['w'][0]] == [(3, 1, 3, 16)] * 2
    with pytest.raises(ValueError, match=r'`readout` has no eligibility trace: .*ETA102'):
        learner.get_etrace_of(model.readout)
    assert 'Weights with a trace' in learner.show_graph(verbose=False, return_msg=True)


def test_a_factored_trace_is_picked_by_weight_too():
    learner = ready(PlainRNN(), 'pp_prop', decay_or_rank=0.9)
    found = learner.get_etrace_of('w')
    assert set(found) == {'x', 'f'}
    assert set(found['x']) == {'w'}


def test_hooks_can_be_overridden_one_by_one():
    """The four hooks of the class interface, without a rule."""
    calls = []

    class Decayed(ea.ETraceVjpAlgorithm):
        def init_etrace_state(self, *args, **kwargs):
            self._assign_etrace_data({'n': jnp.zeros(())})

        def _update_etrace_data(self, data, lin):
            calls.append('update')
            return {'n': data['n'] + 1}

        def _solve_weight_gradients(self, before, after, lin, signal, bypass):
            calls.append('solve')
            return {r.key: jnp.zeros(r.block_shape[1:]) for r in signal.graph
                    .hidden_param_op_relations}  # fmt: skip

        def _get_etrace_data(self):
            calls.append('get')
            return super()._get_etrace_data()

        def _assign_etrace_data(self, data):
            calls.append('assign')
            super()._assign_etrace_data(data)

    xs = inputs(3)
    learner = ready(PlainRNN(), Decayed)
    grads = online_gradients(learner, xs, loss=loss)
    assert set(calls) == {'update', 'solve', 'get', 'assign'}
    assert float(learner.etrace.value['n']) == 3
    none = online_gradients(ready(PlainRNN(), 'immediate'), xs, loss=loss)
    assert_gradients_close(grads, none)


def test_a_rule_or_its_class_is_an_algorithm():
    from etrace_algorithms.rules import DiagonalRTRL, IODimTrace

    xs = inputs(3)
    want = online_gradients(ready(PlainRNN(), 'd_rtrl'), xs, loss=loss)
    for algorithm in (DiagonalRTRL, DiagonalRTRL(), ea.D_RTRL, 'D-RTRL'):
        assert_gradients_close(online_gradients(ready(PlainRNN(), algorithm), xs, loss=loss), want)
    learner = ready(PlainRNN(), IODimTrace, decay_x=0.5, decay_f=0.9, vjp_method='multi-step')
    assert (learner.rule.decay_x, learner.vjp_method) == (0.5, 'multi-step')


def test_a_seed_makes_initial_states_reproducible():
    class Random(PlainRNN):
        def init_state(self, batch_size=None, **kwargs):
            self.h = brainstate.HiddenState(brainstate.random.randn(batch_size, 4))

    a = ready(Random(), seed=3).model.h.value
    b = ready(Random(), seed=3).model.h.value
    c = ready(Random(), seed=4).model.h.value
    np.testing.assert_array_equal(a, b)
    assert np.abs(np.asarray(a - c)).max() > 0


# ---------------------------------------------------------------- bad input


def test_what_is_not_a_module_is_refused():
    with pytest.raises(TypeError, match=r'`model` is not a model: got function; .*ETC101'):
        ea.D_RTRL(lambda x: x)


def test_a_graph_that_is_not_compiled_is_named():
    learner = ea.D_RTRL(PlainRNN())
    with pytest.raises(ValueError, match=r'`graph` is not compiled yet: .*ETC111'):
        learner(inputs(1)[0])
    assert not learner.is_compiled


def test_states_that_are_not_initialised_are_named():
    model = PlainRNN()
    with pytest.raises(CompilationError, match=r'(?s)`PlainRNN.h` does not exist .*ETC102'):
        ea.D_RTRL(model).compile_graph(inputs(1)[0])


@pytest.mark.parametrize(
    'bad',
    [
        lambda x: x[:2],
        lambda x: x[0],
        lambda x: x[None],
        lambda x: x[:, :2],
        lambda x: x.astype(jnp.float32),
        lambda x: ea.MultiStepData(x[0]),
    ],
)
def test_wrong_shapes_are_refused_and_nothing_changes(bad):
    learner = ready(RecurrentLSTM())
    learner(inputs(1)[0])
    before = snapshot(learner)
    with pytest.raises(ValueError, match=r'does not fit the compiled graph: got .*; expected '
                                         r'float64\[3, 3\].*ETA105'):  # fmt: skip
        learner(bad(inputs(1)[0]))
    assert_same(snapshot(learner), before)
    learner(inputs(1)[0])


def test_states_of_another_batch_size_are_refused():
    learner = ready(RecurrentLSTM())
    brainstate.nn.init_all_states(learner.model, 5)
    text = (
        r'`h` does not fit the compiled graph: got shape \[5, 4\]; expected shape \[3, 4\].*ETA105'
    )
    with pytest.raises(ValueError, match=text):
        learner(inputs(1)[0])


def test_states_may_be_initialised_again_after_compiling():
    xs = inputs(4)
    learner = ready(RecurrentLSTM())
    first = learner(xs[0])
    learner(xs[1])
    brainstate.nn.init_all_states(learner.model, 3)  # new state objects in the model
    learner.init_etrace_state()
    np.testing.assert_array_equal(learner(xs[0]), first)
    assert learner.hidden_states[('h',)] is learner.model.h
    assert learner.executor.state_id_to_path[id(learner.model.h)] == ('h',)


def test_a_loop_that_was_compiled_follows_states_that_are_made_anew():
    xs = inputs(4)
    learner = ready(RecurrentLSTM())

    def step_fn(x):
        return loss(learner(x))

    first = learner.etrace_grad(xs, step_fn=step_fn)
    brainstate.nn.init_all_states(learner.model, 3)
    learner.init_etrace_state()
    assert_gradients_close(learner.etrace_grad(xs, step_fn=step_fn), first, rtol=1e-12)
    assert float(jnp.abs(learner.model.h.value).max()) > 0


def test_a_learner_may_be_compiled_again_for_another_batch_and_another_structure():
    class Switch(PlainRNN):
        gated = False

        def update(self, x):
            if self.gated:
                self.b.value  # noqa: B018  (read, so that the step still knows it)
                self.h.value = 0.5 * self.h.value + matmul(x, self.w.value[:3])
                return self.read(self.h.value)
            return super().update(x)

    learner = ready(Switch())
    learner(inputs(1)[0])
    learner.model.gated = True
    brainstate.nn.init_all_states(learner.model, 5)
    learner.compile_graph(inputs(1, 5)[0])
    xs = inputs(4, 5)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    assert_gradients_close(online_gradients(learner, xs, loss=loss), expected)
    assert set(learner.etrace.value) == {'w'}


def test_a_model_whose_init_state_takes_no_arguments():
    class Bare(PlainRNN):
        def init_state(self):
            self.h = brainstate.HiddenState(jnp.zeros(4))

        def reset_state(self):
            self.h.value = jnp.zeros(4)

    learner = ea.compile(Bare(), 'd_rtrl', inputs(1)[0, 0])
    learner(inputs(1)[0, 0])
    learner.reset_state()
    assert float(jnp.abs(learner.model.h.value).max()) == 0


def test_a_model_without_hidden_states_learns_by_its_one_step_gradients():
    class Feed(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = etrace_nn.Linear(3, 2)

        def update(self, x):
            return self.layer(x)

    xs = inputs(4)
    learner = ready(Feed())
    expected = bptt_gradients(learner.model, xs, loss=loss)
    assert_gradients_close(online_gradients(learner, xs, loss=loss), expected)


def test_a_step_that_fails_leaves_states_and_traces_as_they_were(monkeypatch):
    learner = ready(RecurrentLSTM())
    learner(inputs(1)[0])
    before = snapshot(learner)

    def broken(data, lin):
        raise RuntimeError('the rule failed')

    monkeypatch.setattr(learner, '_update_etrace_data', broken)
    learner._jitted.clear_cache()
    with pytest.raises(RuntimeError, match='the rule failed'):
        learner(inputs(1)[0])
    assert_same(snapshot(learner), before)
    with pytest.raises(RuntimeError, match='the rule failed'):
        online_gradients(learner, inputs(3), loss=loss)
    assert_same(snapshot(learner), before)


def test_nan_passes_through_without_a_crash():
    learner = ready(RecurrentLSTM())
    out = learner(jnp.full((3, 3), jnp.nan))
    assert np.isnan(np.asarray(out)).all()
    grads = online_gradients(learner, inputs(2), loss=loss)
    assert np.isnan(np.asarray(grads[('w',)])).any()
    learner.reset_state(3)
    assert np.isfinite(np.asarray(learner(inputs(1)[0]))).all()


def test_an_unknown_or_misspelt_name_gets_the_nearest_match():
    with pytest.raises(ValueError, match=r'(?s)d_rtlr.*d_rtrl'):
        ready(PlainRNN(), 'd_rtlr')


@pytest.mark.parametrize('bad', [None, 3, print, PlainRNN])
def test_what_is_no_algorithm_is_refused(bad):
    with pytest.raises(TypeError, match=r'`algorithm` is not a learning algorithm: .*ETA110'):
        ready(PlainRNN(), bad)


def test_an_unknown_vjp_method_is_refused():
    with pytest.raises(ValueError, match=r"`vjp_method` is unknown: got 'bptt'; .*ETA103"):
        ea.D_RTRL(PlainRNN(), vjp_method='bptt')


def test_a_parameter_that_can_never_learn_is_warned_of_once():
    class Dead(LeakyIntegrator):
        def __init__(self):
            super().__init__()
            self.unused = brainstate.ParamState(jnp.ones(3))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        for _ in range(3):
            ea.compile(Dead(), 'd_rtrl', jnp.ones((2, 3)), batch_size=2)
    (warning,) = [w for w in caught if issubclass(w.category, CompilationWarning)]
    assert str(warning.message) == (
        'unused: the gradient is zero [ETC208]; learner.show_graph() tells why.'
    )
    assert warning.filename == __file__


def test_a_model_that_learns_altogether_is_silent(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ea.compile(LeakyIntegrator(), 'd_rtrl', jnp.ones((2, 3)), batch_size=2)
    assert capsys.readouterr() == ('', '')


def test_a_model_with_nothing_to_train_is_refused():
    class Fixed(brainstate.nn.Module):
        def init_state(self, batch_size=None):
            self.h = brainstate.HiddenState(jnp.zeros((batch_size, 3)))

        def update(self, x):
            self.h.value = 0.9 * self.h.value + x
            return self.h.value

    with pytest.raises(CompilationError, match=r'(?s)`model` has nothing to train.*ETA104'):
        ready(Fixed())


def test_a_learner_that_failed_to_compile_again_keeps_its_graph():
    learner = ready(PlainRNN())
    graph = learner.graph
    before = snapshot(learner)
    with pytest.raises(TypeError):
        learner.compile_graph()
    assert learner.graph is graph
    assert_same(snapshot(learner), before)
    learner(inputs(1)[0])


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ({'mask': jnp.ones(3)}, r'`sequences` do not agree .*ETA106'),
        ({'reduction': 'max'}, r"`reduction` is unknown: got 'max'.*ETA107"),
        ({'loss_output': 'all'}, r'`loss_output` is unknown.*ETA107'),
        ({'chunk_size': 0}, r'`chunk_size` is out of range: got 0; .*ETA108'),
    ],
)
def test_bad_options_of_etrace_grad(options, text):
    learner = ready(PlainRNN(), vjp_method='multi-step')
    before = snapshot(learner)
    with pytest.raises(ValueError, match=text):
        learner.etrace_grad(inputs(4), step_fn=lambda x: loss(learner(x)), **options)
    assert_same(snapshot(learner), before)


def test_vmap_needs_a_batch_size():
    with pytest.raises(ValueError, match=r'`batch_size` is needed with vmap=True.*ETA109'):
        ea.compile(PlainRNN(), 'd_rtrl', inputs(1)[0], vmap=True)


def test_multi_step_data_must_agree_on_the_number_of_steps():
    learner = ready(PlainRNN())
    with pytest.raises(ValueError, match=r'`MultiStepData` does not say how many.*ETC112'):
        learner(ea.MultiStepData({'x': jnp.ones((2, 3)), 'y': jnp.ones((3, 3))}))


# ---------------------------------------------------------------- the documents' own examples


def test_example_of_the_input_data():
    class Two(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = etrace_nn.GRUCell(10, 4)

        def update(self, a, b):
            return self.cell(a + b)

    def learner():
        model = Two()
        brainstate.nn.init_all_states(model)
        made = ea.D_RTRL(model, vjp_method='multi-step')
        made.compile_graph(jnp.ones((10,)), jnp.zeros((10,)))
        return made

    assert learner()(*[jnp.ones((10,)), jnp.zeros((10,))]).shape == (4,)
    data = [ea.SingleStepData(jnp.ones((10,))), ea.SingleStepData(jnp.zeros((10,)))]
    assert learner()(*data).shape == (4,)
    data = [ea.MultiStepData(jnp.ones((5, 10))), jnp.zeros((10,))]
    assert learner()(*data).shape == (5, 4)
    data = [ea.MultiStepData(jnp.ones((5, 10))), ea.SingleStepData(jnp.zeros((10,)))]
    assert learner()(*data).shape == (5, 4)


def test_example_of_the_graph():
    import etrace_compiler

    gru = etrace_nn.GRUCell(3, 4)
    _ = brainstate.nn.init_all_states(gru)
    inputs = brainstate.random.randn(3)
    graph = etrace_compiler.compile_etrace_graph(gru, inputs)
    assert isinstance(graph, etrace_compiler.ETraceGraph)


def test_example_of_pp_prop():
    class RNN(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = etrace_nn.ValinaRNNCell(1, 20, activation='tanh')
            self.out = etrace_nn.Linear(20, 1)

        def update(self, x):
            return x >> self.cell >> self.out

    model = RNN()
    _ = brainstate.nn.init_all_states(model)
    learner = ea.pp_prop(model, decay_or_rank=0.9)  # or rank: decay_or_rank=19
    x0 = brainstate.random.randn(1)
    learner.compile_graph(x0)
    y = learner(x0)
    assert y.shape == (1,)
