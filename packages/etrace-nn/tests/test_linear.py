"""`Linear` is `brainstate.nn.Linear`, made of a marked product."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn

pytestmark = pytest.mark.usefixtures('x64')


def both(*args, **options):
    """Build our layer and brainstate's from the same random numbers."""
    layers = []
    for cls in (etrace_nn.Linear, brainstate.nn.Linear):
        brainstate.random.seed(3)
        layers.append(cls(*args, **options))
    return layers


@pytest.mark.parametrize('batch', [(), (4,), (2, 4)])
@pytest.mark.parametrize('options', [{}, {'b_init': None}, {'b_init': brainstate.nn.init.Normal()}])
def test_equals_brainstate(batch, options, random):
    ours, theirs = both(3, 5, **options)
    assert jax.tree.structure(ours.weight.value) == jax.tree.structure(theirs.weight.value)
    assert ours.states().keys() == theirs.states().keys()
    x = random(*batch, 3)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-12)


def test_sizes_of_several_axes(random):
    ours, theirs = both((2, 3), (2, 5))
    x = random(4, 2, 3)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-12)


@pytest.mark.parametrize('mask', [np.tri(3, 5), np.tri(3, 5) > 0, lambda shape: np.tri(*shape)])
def test_a_mask_is_applied_and_stops_the_gradient(mask, random):
    layer = etrace_nn.Linear(3, 5, w_mask=mask)
    weight, x = layer.weight.value['weight'], random(4, 3)
    np.testing.assert_allclose(layer(x), x @ (weight * np.tri(3, 5)), rtol=1e-12)

    gradient = brainstate.transform.grad(lambda: layer(x).sum(), layer.weight)()['weight']
    np.testing.assert_array_equal(gradient != 0, np.tri(3, 5) > 0)


def test_a_mask_is_inside_the_marked_weight():
    layer = etrace_nn.Linear(3, 5, b_init=None, w_mask=np.tri(3, 5))
    eqns = jax.make_jaxpr(layer)(jnp.ones(3)).jaxpr.eqns
    names = [eqn.primitive.name for eqn in eqns]
    assert names.index('mul') < names.index('etp_matmul')
    assert names[-1] == 'etp_matmul'


def test_units():
    layer = etrace_nn.Linear(2, 3, w_init=1.0 * u.mA, b_init=1.0 * u.mA, w_mask=np.tri(2, 3))
    assert u.math.allclose(layer(jnp.ones(2)), np.array([3.0, 2.0, 1.0]) * u.mA)


def test_another_type_of_parameter():
    class Frozen(brainstate.ParamState):
        pass

    assert type(etrace_nn.Linear(2, 3, param_type=Frozen).weight) is Frozen


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: etrace_nn.Linear(2, 3, w_mask=np.ones((3, 2))),
            r'`w_mask` has the wrong shape: got \(3, 2\); expected \(2, 3\)\. .* \[ETC601\]',
        ),
        (
            lambda: etrace_nn.Linear(2, 3, w_init=np.ones((3, 2))),
            r'`w_init` has the wrong shape: got \(3, 2\); expected \(2, 3\)\. .* \[ETC601\]',
        ),
        (
            lambda: etrace_nn.Linear((2, 2), (3, 3)),
            r'`Linear out_size` does not fit in_size: got \(3, 3\); expected \(2, 3\)\. .*ETC608',
        ),
        (
            lambda: etrace_nn.Linear(2, 3)(jnp.ones((4, 3))),
            r'`Linear input` has the wrong size: got shape \(4, 3\); expected \(\.\.\., 2\)\.'
            r'.* \[ETC602\]',
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()
