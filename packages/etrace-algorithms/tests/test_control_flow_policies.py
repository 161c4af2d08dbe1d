"""What is decided about branches and loops, what is refused, and what it costs."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import etrace_algorithms as ea
from etrace_algorithms.testing import assert_gradients_close
from etrace_compiler import (
    CompilationError,
    ControlFlowPolicy,
    DiagnosticKind,
    MultiStepData,
    matmul,
)
from etrace_compiler.canonical import control_flow

from . import branch_models, loop_models
from .branch_models import BRANCHES, SAFE
from .loop_models import LOOPS, SPECIAL
from .measured import (
    LEARNERS,
    Model,
    N,
    check_case,
    check_first_step,
    compiled,
    hidden,
    inputs,
    loss,
    one_step,
    online,
    oracle,
    parameter,
)

K = DiagnosticKind
#: The models have parameters that some steps do not use.
pytestmark = pytest.mark.filterwarnings('ignore:.*ETC208')
INSIDE = ControlFlowPolicy(scan_unroll_limit=0)
EXCLUDE = ControlFlowPolicy(etp_in_control_flow='exclude')


def graph_of(step, policy=None, **options):
    options = {**LEARNERS['d_rtrl'], 'control_flow': policy, **options}
    return ea.compile(Model(step), 'd_rtrl', inputs()[0], **options).graph


# ---------------------------------------------------------------- records


@pytest.mark.parametrize('case', [*BRANCHES.values(), *SAFE.values(), *LOOPS.values()], ids=str)
def test_every_rewrite_names_the_users_line(case):
    rewrites = {K.COND_IF_CONVERTED} if case in LOOPS.values() else {K.SCAN_UNROLLED}
    found = [set(), set()]
    for policy, kinds in zip((None, INSIDE), found, strict=True):
        for record in compiled(case, 'd_rtrl', policy).graph.diagnostics:
            if record.code.startswith('ETC30'):
                kinds.add(record.kind)
                assert case.owns(record.source) or 'wrapped' in record.source.function
    if case in LOOPS.values():
        assert found[0] - rewrites == {K.SCAN_UNROLLED}
        assert found[1] - rewrites <= {K.SCAN_DESCENT_APPLIED, K.SCAN_VECTORISED}
        assert found[1] - rewrites
    else:
        expected = set() if case.name == 'elementwise_selection' else {K.COND_IF_CONVERTED}
        assert found == [expected, expected]


@pytest.mark.parametrize(
    ('step', 'kind'),
    [
        (loop_models.substeps(16), K.SCAN_UNROLLED),
        (loop_models.substeps(17), K.SCAN_DESCENT_APPLIED),
        (loop_models.mapped(16), K.SCAN_UNROLLED),
        (loop_models.mapped(17), K.SCAN_VECTORISED),
    ],
)
def test_the_length_decides(step, kind):
    graph = graph_of(step)
    assert {r.kind for r in graph.diagnostics if r.code.startswith('ETC30')} == {kind}
    assert graph.exactness['W'].verdict == 'exact'


def test_the_gradient_of_a_long_loop_by_default():
    check_case(SPECIAL['long_loop'])


# ---------------------------------------------------------------- policies


def test_a_branch_that_is_left_as_it_is():
    case = BRANCHES['tails_in_branches']
    policy = ControlFlowPolicy(cond='opaque', etp_in_control_flow='exclude')
    check_case(case, policy, exact=set())
    graph = compiled(case, 'd_rtrl', policy).graph
    kinds = {r.kind for r in graph.diagnostics}
    assert {K.COND_CONVERSION_SKIPPED, K.CONTROL_FLOW_RECURRENT_MIXING} <= kinds


def test_a_loop_that_is_left_as_it_is():
    case = LOOPS['sequences_in_and_out']
    policy = ControlFlowPolicy(
        scan_unroll_limit=0, scan_descent='off', etp_in_control_flow='exclude'
    )
    check_case(case, policy, exact=set())
    graph = compiled(case, 'd_rtrl', policy).graph
    kinds = {r.kind for r in graph.diagnostics}
    assert {K.SCAN_DESCENT_SKIPPED, K.CONTROL_FLOW_RECURRENT_MIXING} <= kinds


@pytest.mark.parametrize(
    ('case', 'policy'),
    [
        (BRANCHES['operators_in_branches'], ControlFlowPolicy(cond='opaque')),
        (LOOPS['euler'], ControlFlowPolicy(scan_unroll_limit=0, scan_descent='off')),
        (SPECIAL['operator_with_a_rule'], None),
    ],
    ids=str,
)
def test_an_operator_that_is_left_inside_is_refused(case, policy):
    with pytest.raises(CompilationError, match=r'etp_\w+ stands inside a `\w+`') as caught:
        compiled(case, 'd_rtrl', policy)
    (found,) = [r for r in caught.value.records if r.kind is K.PRIMITIVE_INSIDE_CONTROL_FLOW]
    assert found.code == 'ETC301'
    assert case.owns(found.source)
    assert f'at {found.source.file}:{found.source.line}' in str(caught.value)


def test_an_operator_with_a_rule_of_its_own_can_be_excluded():
    """Its own derivative rule counts, in the gradient of one step."""
    case = SPECIAL['operator_with_a_rule']
    check_case(case, EXCLUDE)
    graph = compiled(case, 'd_rtrl', EXCLUDE).graph
    assert graph.explain(kind=K.PRIMITIVE_INSIDE_CONTROL_FLOW)
    assert graph.explain(weight_path='W', kind=K.PARAMETER_UNMARKED)


def test_while_on_the_way_of_a_state_passes_no_derivative():
    case = SPECIAL['halving']
    check_case(case)
    graph = compiled(case, 'd_rtrl', None).graph
    (found,) = graph.explain(kind=K.CONTROL_FLOW_OPAQUE_FWD)
    assert found.primitive == 'while'


@pytest.mark.parametrize('name', ['weight_in_while', 'bounds_from_data'])
def test_a_weight_in_a_while_is_refused(name):
    case = SPECIAL[name]
    with pytest.raises(
        CompilationError, match=r'ETC302 error: a parameter is used in a `while`'
    ) as e:
        compiled(case, 'd_rtrl', EXCLUDE)
    assert 'a parameter is used in a `while`\n    Use a loop with a fixed number of' in str(e.value)
    (found,) = [r for r in e.value.records if r.kind is K.WEIGHT_IN_WHILE]
    assert case.owns(found.source)


def test_a_weight_of_its_own_for_every_substep():
    """Exact where the loop is written out; otherwise it gets its one-step gradient."""
    case = SPECIAL['weight_by_substep']
    check_case(case)
    check_case(case, INSIDE, exact={'V'})
    (found,) = compiled(case, 'd_rtrl', INSIDE).graph.explain(kind=K.SCAN_DESCENT_SKIPPED)
    assert (found.code, found.weight_path) == ('ETC310', ('S',))
    assert case.owns(found.source)


# ---------------------------------------------------------------- controls


@pytest.mark.parametrize('case', SAFE.values(), ids=str)
def test_control_without_gates_derivatives_leave_branches_that_are_not_taken(case, monkeypatch):
    monkeypatch.setattr(control_flow, '_gate', lambda flat, index, number, v, source: v)
    learner = compiled.__wrapped__(case, 'd_rtrl', None)
    gradients = one_step(learner, case.xs[0])
    assert not all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(gradients))


def test_control_without_a_trace_the_history_is_missing():
    """The oracle tells a learner without a trace from one with a trace."""
    case = LOOPS['euler']
    found = online(compiled(case, 'immediate', INSIDE), case.xs)
    check_first_step(case, found.first.gradients)
    for path in (('W',), ('a',)):
        with pytest.raises(AssertionError):
            assert_gradients_close(
                {path: found.whole.gradients[path]},
                {path: oracle(case).whole.gradients[path]},
                rtol=1e-2,
            )


# ---------------------------------------------------------------- memory


def trace_shapes(learner):
    data = learner._get_etrace_data()
    return sorted((x.shape, str(x.dtype)) for x in jax.tree.leaves(data))


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_traces_do_not_grow_with_the_number_of_substeps(name):
    def shapes(count, policy=None):
        model = Model(loop_models.substeps(count))
        options = {**LEARNERS[name], 'control_flow': policy}
        return trace_shapes(ea.compile(model, name, inputs()[0], **options))

    assert shapes(4, INSIDE) == shapes(20) == shapes(40)
    # control: written out there is one trace per substep, where the input changes
    assert len(shapes(8)) > len(shapes(4)) > len(shapes(20))


# ---------------------------------------------------------------- other ways to run a learner


def test_a_window_of_a_multi_step_learner_is_backpropagated_through_loops():
    """Nothing is cut inside the window, so that a recurrent loop is exact as well."""
    case = LOOPS['recurrent_substeps']
    learner = compiled(case, 'd_rtrl', INSIDE, vjp_method='multi-step')
    states = {k: s.value for k, s in learner.states().items()}
    params = learner.param_states

    def run(xs):
        grad = brainstate.transform.grad(
            lambda: sum(loss(out) for out in learner(MultiStepData(xs))),
            params,
            check_states=False,
        )
        return grad()

    gradients = brainstate.transform.jit(run)(case.xs)
    assert_gradients_close(gradients, oracle(case).whole.gradients, rtol=1e-9)
    for key, state in learner.states().items():
        state.value = states[key]


def test_single_windows_of_a_multi_step_learner_are_exact_where_the_loop_is():
    case = LOOPS['loop_in_a_loop']
    learner = compiled(case, 'd_rtrl', INSIDE, vjp_method='multi-step')
    found = online(learner, case.xs)
    assert_gradients_close(found.whole.gradients, oracle(case).whole.gradients, rtol=1e-9)


class OneSample(brainstate.nn.Module):
    """A loop and a branch on one sample."""

    def __init__(self):
        super().__init__()
        self.W, self.a = parameter(3, N, seed=1), parameter(N, seed=4)

    def init_state(self, batch_size=None):
        self.h = hidden(N, seed=11)
        self.batch_size = batch_size
        if batch_size:
            self.h.value = jnp.broadcast_to(self.h.value, (batch_size, N))

    def update(self, x):
        def body(i, h):
            return branch_models.leak(self) * h + 0.1 * matmul(x * jnp.cos(i), self.W.value)

        h = lax.fori_loop(0, 4, body, self.h.value)
        self.h.value = jnp.where(x.sum(-1, keepdims=True) > 0, jnp.tanh(h), h)
        return self.h.value


def test_a_learner_that_runs_one_sample_by_vmap():
    xs = inputs()
    found = [
        online(
            ea.compile(OneSample(), 'd_rtrl', xs[0], batch_size=2, vmap=vmap, control_flow=INSIDE),
            xs,
        ).whole
        for vmap in (False, True)
    ]
    assert_gradients_close(found[1].gradients, found[0].gradients, rtol=1e-9)
    np.testing.assert_allclose(found[1].outputs, found[0].outputs, rtol=1e-12)


# ---------------------------------------------------------------- printing


def printing(report, count=4):
    """A loop and two branches, one of which is not taken, that tell what they compute."""

    def step(m, x):
        def body(h, t):
            h = 0.9 * h + 0.1 * matmul(x * t, m.W.value)
            report('substep', h)
            return h, None

        def taken(h):
            report('taken', h)
            return lax.scan(body, h, jnp.linspace(0.1, 1, count))[0]

        def skipped(h):
            report('skipped', h)
            return lax.scan(lambda h, _: (report('never', h), (h, None))[1], h, None, length=3)[0]

        h = lax.cond(x.sum() > -1e3, taken, skipped, m.h.value)
        lax.cond(h.sum() > 1e3, lambda: report('large', h), lambda: None)
        lax.cond(h.sum() < 1e3, lambda: report('small', h), lambda: None)
        m.h.value = h
        return h

    return step


@pytest.mark.parametrize('policy', [None, INSIDE], ids=['written out', 'inside'])
@pytest.mark.parametrize('method', ['single-step', 'multi-step'])
def test_what_the_model_reports_is_reported_once(method, policy):
    seen = []

    def report(name, h):
        jax.debug.callback(lambda total: seen.append((name, round(float(total), 12))), h.sum())

    model = Model(printing(report))
    brainstate.nn.init_all_states(model)
    model(inputs()[0])
    jax.effects_barrier()
    alone = sorted(seen)
    assert [name for name, _ in alone] == ['small', *['substep'] * 4, 'taken']
    learner = ea.compile(
        Model(printing(report)), 'd_rtrl', inputs()[0], vjp_method=method, control_flow=policy
    )
    assert learner.graph.exactness['W'].verdict == 'exact'
    kinds = {r.kind for r in learner.graph.diagnostics}
    assert not {K.COND_CONVERSION_SKIPPED, K.CONTROL_FLOW_RECURRENT_MIXING} & kinds
    for run in (learner, lambda x: one_step(learner, x)):
        for key, state in model.states().items():
            learner.model.states()[key].value = state.value
        learner.model.h.value = hidden(2, N, seed=11).value
        jax.effects_barrier()
        seen.clear()
        run(inputs()[0])
        jax.effects_barrier()
        assert sorted(seen) == alone


def test_debug_print_in_a_loop(capfd):
    def report(name, h):
        jax.debug.print(name + ' {}', h.sum().round(3))

    learner = ea.compile(Model(printing(report)), 'd_rtrl', inputs()[0])
    capfd.readouterr()
    learner(inputs()[0])
    jax.effects_barrier()
    words = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert sorted(words) == ['small', *['substep'] * 4, 'taken']


def test_a_branch_that_calls_back_for_a_result_is_left_as_it_is():
    def step(m, x):
        def ask(h):
            shape = jax.ShapeDtypeStruct((), float)
            return h * jax.experimental.io_callback(lambda: np.float64(0.5), shape)

        m.h.value = lax.cond(x.sum() > 0, ask, lambda h: 0.4 * h, m.h.value)
        m.h.value = m.h.value + matmul(x, m.W.value)
        return m.h.value

    (found,) = graph_of(step).explain(kind=K.COND_CONVERSION_SKIPPED)
    assert 'a branch calls back for a result' in found.message
