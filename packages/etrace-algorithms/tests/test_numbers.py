"""Precisions, complex numbers, units, integers, and parameters of several arrays."""

import functools

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
from etrace_algorithms.testing import assert_gradients_close
from etrace_compiler import ControlFlowPolicy, DiagnosticKind, element_wise, matmul

from .loop_models import LOOPS
from .measured import (
    LEARNERS,
    Model,
    backpropagated,
    check_case,
    check_first_step,
    compiled,
    inputs,
    one_step,
    online,
)
from .number_models import NUMBER_LOOPS, NUMBERS, Precise

K = DiagnosticKind
#: The models have parameters that some steps do not use.
pytestmark = pytest.mark.filterwarnings('ignore:.*ETC208')
INSIDE = ControlFlowPolicy(scan_unroll_limit=0)


@pytest.mark.parametrize('case', [*NUMBERS.values(), *NUMBER_LOOPS.values()], ids=str)
def test_values_and_gradients(case):
    check_case(case)


@pytest.mark.parametrize('case', NUMBER_LOOPS.values(), ids=str)
def test_loops_followed_inside(case):
    check_case(case, INSIDE)


@pytest.mark.parametrize(
    'name', ['ComplexDiagonal', 'ComplexLoop', 'UnitNeuronsInALoop', 'Nested', 'WeightPerMember']
)
def test_pp_prop_of_one_step(name):
    case = {**NUMBERS, **NUMBER_LOOPS}[name]
    check_first_step(case, one_step(compiled(case, 'pp_prop', INSIDE), case.xs[0]))


def test_a_complex_state_that_is_taken_apart_is_recorded():
    case = NUMBERS['ComplexTakenApart']
    graph = compiled(case, 'd_rtrl', None).graph
    (found,) = graph.explain(kind=K.RECURRENCE_CUT)
    assert (found.primitive, case.owns(found.source)) == ('abs', True)


@pytest.mark.parametrize(
    ('name', 'states'), [('integers_and_booleans', {'n', 'flag'}), ('refractory_period', set())]
)
def test_states_of_integers_are_carried_along_with_a_record(name, states):
    found = compiled(NUMBERS[name], 'd_rtrl', None).graph.explain(kind=K.HIDDEN_NOT_DIFFERENTIABLE)
    assert {r.hidden_paths[0][0] for r in found} == states


# ---------------------------------------------------------------- precisions


def errors(got, wanted):
    """Relative errors, in norm, of the gradients that are not zero."""
    pairs = {k: (np.asarray(got[k], float), np.asarray(v, float)) for k, v in wanted.items()}
    return {k: np.linalg.norm(a - b) / np.linalg.norm(b) for k, (a, b) in pairs.items() if b.any()}


@functools.cache
def in_float64(dtype):
    """Backpropagation in float64 on numbers that the dtype can hold."""
    model = Precise(dtype, 'float64')
    brainstate.nn.init_all_states(model)
    return backpropagated(model, inputs().astype(dtype).astype(float))


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_a_step_in_one_precision_stays_in_it(dtype):
    """A few roundings away from float64, and nothing is held in more digits than it is given."""
    xs, expected, eps = inputs().astype(dtype), in_float64(dtype), float(jnp.finfo(dtype).eps)
    learner = ea.compile(Precise(dtype), 'd_rtrl', xs[0], control_flow=INSIDE)
    assert {k for k, e in learner.graph.exactness.items() if e.verdict == 'exact'} == set('Wab')
    found = online(learner, xs)
    for ours, theirs in ((found.first, expected.first), (found.whole, expected.whole)):
        relative = errors(ours.gradients, theirs.gradients)
        assert set(relative) == {('W',), ('a',), ('b',)}
        assert max(relative.values()) < 8 * eps
        np.testing.assert_allclose(ours.outputs.astype(float), theirs.outputs, atol=8 * eps)
    held = (found.whole.gradients, found.whole.states, learner._get_etrace_data())
    assert {str(x.dtype) for x in jax.tree.leaves(held)} == {dtype}


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_pp_prop_of_one_step_in_one_precision(dtype):
    xs = inputs().astype(dtype)
    learner = ea.compile(Precise(dtype), 'pp_prop', xs[0], **LEARNERS['pp_prop'])
    relative = errors(one_step(learner, xs[0]), in_float64(dtype).first.gradients)
    assert len(relative) == 3
    assert max(relative.values()) < 8 * float(jnp.finfo(dtype).eps)


def test_control_the_precision_shows():
    """In half precision the gradient is not that of float64 to more digits than there are."""
    xs = inputs().astype('float16')
    learner = ea.compile(Precise('float16'), 'd_rtrl', xs[0])
    relative = errors(one_step(learner, xs[0]), in_float64('float16').first.gradients)
    assert max(relative.values()) > 1e-5


def mixed(m, x):
    """A state of single precision beside one of double precision."""
    y = matmul(x, m.W.value)
    m.h.value = (0.5 * m.h.value + y).astype(jnp.float32)
    m.g.value = 0.9 * m.g.value + m.h.value * jax.nn.sigmoid(element_wise(m.a.value))
    return m.g.value


def test_states_of_two_precisions_in_one_group():
    def single(m):
        m.h.value = m.h.value.astype(jnp.float32)

    models = [Model(mixed, single) for _ in range(2)]
    learner = ea.compile(models[0], 'd_rtrl', inputs()[0])
    (group,) = learner.graph.hidden_groups
    assert group.num_state == 2
    brainstate.nn.init_all_states(models[1])
    expected = backpropagated(models[1], inputs()).whole
    found = online(learner, inputs()).whole
    assert_gradients_close(found.gradients, expected.gradients, rtol=1e-6)
    assert found.states['h',].dtype == jnp.float32
    assert found.gradients['W',].dtype == jnp.float64


def test_the_default_precision_of_jax():
    """Without float64, as most programs run: weak types, loops, counters and all."""
    jax.config.update('jax_enable_x64', False)
    case = LOOPS['several_carries']
    with brainstate.environ.context(precision=32):
        learner, model = compiled.__wrapped__(case, 'd_rtrl', INSIDE), case.make()
        brainstate.nn.init_all_states(model)
        found, expected = online(learner, case.xs), backpropagated(model, case.xs)
    assert_gradients_close(found.first.gradients, expected.first.gradients, rtol=1e-5)
    path = ('R',)
    got, wanted = found.whole.gradients[path], expected.whole.gradients[path]
    assert got.dtype == jnp.float32
    assert_gradients_close({path: got}, {path: wanted}, rtol=1e-5)
