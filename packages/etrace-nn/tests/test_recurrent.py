"""The cells do what the cells of `brainstate.nn` do."""

import inspect

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn

STATES = {
    'ValinaRNNCell': {'h'},
    'GRUCell': {'h'},
    'MGUCell': {'h'},
    'LSTMCell': {'h', 'c'},
    'URLSTMCell': {'h', 'c'},
}
CELLS = list(STATES)

pytestmark = pytest.mark.usefixtures('x64')


def both(name, *args, **options):
    """Build our cell and brainstate's from the same random numbers."""
    cells = []
    for module in (etrace_nn, brainstate.nn):
        brainstate.random.seed(3)
        cells.append(getattr(module, name)(*args, **options))
    return cells


@pytest.mark.parametrize('name', CELLS)
@pytest.mark.parametrize('batch_size', [None, 4])
@pytest.mark.parametrize('options', [{}, {'activation': jnp.sin}])
def test_equals_brainstate(name, batch_size, options, random):
    uniform = brainstate.nn.init.Uniform(-0.5, 0.5)
    options = {'state_init': brainstate.nn.init.Constant(0.3), **options}
    if name != 'URLSTMCell':
        options['b_init'] = uniform
    ours, theirs = both(name, 3, 5, **options)
    shape = (6, 3) if batch_size is None else (6, batch_size, 3)
    for cell in (ours, theirs):
        cell.init_state(batch_size)
    mine, their_states = ours.states(), theirs.states()
    assert mine.keys() == their_states.keys()
    out = brainstate.transform.for_loop(lambda x: (ours(x), theirs(x)), random(*shape))
    np.testing.assert_allclose(*out, rtol=1e-12)
    for path, state in their_states.items():
        assert type(mine[path]) is type(state)
        jax.tree.map(np.testing.assert_allclose, mine[path].value, state.value)


@pytest.mark.parametrize('name', CELLS)
def test_has_the_arguments_and_defaults_of_brainstate(name):
    ours, theirs = (
        inspect.signature(getattr(module, name)).parameters for module in (etrace_nn, brainstate.nn)
    )
    assert list(ours) == list(theirs)
    for key in ours:
        assert repr(ours[key].default) == repr(theirs[key].default)


@pytest.mark.parametrize('name', CELLS)
def test_default_weights_are_those_of_brainstate(name):
    ours, theirs = both(name, 3, 5)
    jax.tree.map(
        np.testing.assert_array_equal,
        {path: state.value for path, state in ours.states().items()},
        {path: state.value for path, state in theirs.states().items()},
    )


@pytest.mark.parametrize('name', CELLS)
@pytest.mark.parametrize('batch', [(), (4,), (2, 4)])
def test_any_leading_axes(name, batch, random):
    cell = getattr(etrace_nn, name)(3, 5)
    x = random(6, *batch, 3)
    cell.init_state(batch or None)
    hidden = cell.states(brainstate.HiddenState)
    assert {path[-1] for path in hidden} == STATES[name]
    assert {state.value.shape for state in hidden.values()} == {(*batch, 5)}
    whole = brainstate.transform.for_loop(cell, x)
    assert whole.shape == (6, *batch, 5)
    if batch == (2, 4):
        cell.init_state()
        alone = brainstate.transform.for_loop(cell, x[:, 1, 2])
        np.testing.assert_allclose(whole[:, 1, 2], alone, rtol=1e-12)


@pytest.mark.parametrize('name', CELLS)
def test_reset_state(name, random):
    cell = getattr(etrace_nn, name)(3, 5, state_init=0.5)
    cell.init_state(2)
    states = cell.states(brainstate.HiddenState)
    x = random(2, 3)
    first, second = cell(x), cell(x)
    assert not np.allclose(first, second)
    cell.reset_state(2)
    assert all((state.value == 0.5).all() for state in states.values())
    np.testing.assert_array_equal(cell(x), first)
    cell.reset_state(4)
    assert cell(random(4, 3)).shape == (4, 5)


def test_a_bare_initial_number_keeps_its_type_in_a_loop():
    cell = etrace_nn.GRUCell(3, 5, state_init=0.5)
    cell.init_state()
    assert not cell.h.value.weak_type
    assert cell.h.value.dtype == brainstate.environ.dftype()


def test_both_spellings():
    assert etrace_nn.VanillaRNNCell is etrace_nn.ValinaRNNCell


@pytest.mark.parametrize('name', CELLS)
def test_errors(name):
    cls = getattr(etrace_nn, name)
    cell = cls(3, 5)
    with pytest.raises(AttributeError, match="'h'"):
        cell(jnp.ones(3))
    cell.init_state(2)
    with pytest.raises(ValueError, match=rf'`{name} input` has the wrong size: got shape \(2, 4\)'):
        cell(jnp.ones((2, 4)))
    with pytest.raises(
        ValueError, match=r'does not fit the batch axes of the state: got \(7,\); expected \(2,\)\.'
    ):
        cell(jnp.ones((7, 3)))
    with pytest.raises(ValueError, match=r"`activation` is unknown: got 'Tanh'; .* \[ETC605\]"):
        cls(3, 5, activation='Tanh')
    with pytest.raises(ValueError, match=r'`state_init` has the wrong shape: got \(4,\)'):
        cls(3, 5, state_init=np.ones(4)).init_state()
    assert (cell.h.value == 0).all()
