"""The pattern of one step's derivatives: nothing outside it, and nothing in it without need."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.experimental import sparse

from etrace_compiler import (
    compile_etrace_graph,
    conv,
    driving_parameters,
    element_wise,
    embedding,
    grouped_matmul,
    matmul,
    position_neighbours,
    sparse_matmul,
)

from . import models
from .oracle import pure_step, values_of
from .test_random_models import Scripted, scripts

N = 5


def measured(graph, model, x):
    """Where derivatives of new positions are not zero: by old position, and by parameter."""
    values, step = values_of(graph), pure_step(model, x)
    info, groups = graph.module_info, graph.hidden_groups
    old = {s.key: values[s.key] for g in groups for s in g.hidden_states}
    params = {s.key: values[s.key] for s in info.by_role('param')}

    def new(old, params):
        after = step({**values, **old, **params}, x)[1]
        return [g.concat_hidden([jax.tree.leaves(after[s.key])[0] for s in g.hidden_states])
                for g in groups]  # fmt: skip

    jacobians = jax.jit(jax.jacrev(new, argnums=(0, 1)))(old, params)
    hidden, by_params = [], {key: [] for key in params}
    for (row, theta), g in zip(jacobians, groups, strict=True):
        parts = []
        for h in groups:
            columns = [_at_positions(jax.tree.leaves(row[s.key])[0], g, s) for s in h.hidden_states]
            parts.append(sum(columns) > 0)
        hidden.append(np.concatenate(parts, axis=1))
        for key, leaves in theta.items():
            by_params[key].append([_flat(leaf, g) > 0 for leaf in jax.tree.leaves(leaves)])
    joined = {
        key: [np.concatenate(leaf).T for leaf in zip(*parts, strict=True)]
        for key, parts in by_params.items()
    }
    return np.concatenate(hidden), joined


def _flat(jacobian, group):
    """Sizes of derivatives by new position: `(P, old elements)`."""
    return np.abs(jacobian).reshape((group.positions, group.num_state, -1)).sum(axis=1)


def _at_positions(jacobian, group, spec):
    """The same by old position: `(P, P)`."""
    sizes = _flat(jacobian, group).reshape((group.positions, *spec.leaves[0].shape))
    sizes = sizes if spec.axis is None else sizes.sum(axis=1 + spec.axis)
    return sizes.reshape((group.positions, -1))


def compare(model, x, exact=False):
    """Hold the pattern against the derivatives at one point."""
    graph = compile_etrace_graph(model, x)
    pattern = position_neighbours(graph)
    hidden, params = measured(graph, model, x)
    assert not (hidden & ~pattern.hidden).any()
    for key, leaves in params.items():
        for found, known in zip(leaves, pattern.params[key], strict=True):
            known = known.reshape(found.shape)
            assert not (found & ~known).any(), key
            assert not exact or (found == known).all(), key
    assert not exact or (hidden == pattern.hidden).all()
    return pattern


ALIKE = ('leaky', 'spiking chain', 'GRU, batch', 'Elman, batch', 'flipped tail', 'permuted tail')


@pytest.mark.parametrize('name', sorted(models.EVERY.keys() - set(ALIKE)))
def test_no_derivative_lies_outside_the_pattern(name):
    model, x = models.build(name)
    compare(model, x)


@settings(max_examples=8)
@given(scripts)
def test_random_wiring(script):
    compare(models.ready(Scripted(script)), models.random(2, 3, seed=99))


# ---------------------------------------------------------------- patterns that are known


MASK = np.tril(np.ones((N, N))) - np.tril(np.ones((N, N)), -2)  # the unit itself and its neighbour


class Ring(brainstate.nn.Module):
    """One state, whose way from step to step is given as a function of it."""

    def __init__(self, onward, *shapes, shape=(N,)):
        super().__init__()
        self.onward, self.shape = onward, shape
        for i, s in enumerate(shapes):
            setattr(self, f'w{i}', models.parameter(*s, seed=i))
        self.count = len(shapes)

    def init_state(self):
        self.h = models.hidden(*self.shape)

    def update(self, x):
        weights = [getattr(self, f'w{i}').value for i in range(self.count)]
        self.h.value = jnp.tanh(self.onward(self.h.value, *weights)) + jnp.sum(x)
        return self.h.value


def loop(h, w):
    """Three substeps of a masked product, in a loop."""
    return jax.lax.scan(lambda h, _: (jnp.sin(matmul(h, w * MASK)), None), h, length=3)[0]


BLOCKS = np.kron(np.eye(2), np.ones((2, 2))) > 0
BANDS = sparse.BCOO.fromdense(jnp.asarray(MASK))
EXACT = {
    'mask': (lambda h, w: matmul(h, w * MASK), (N, N)),
    'mask in a hook': (lambda h, w: matmul(h, w, weight_fn=lambda w: w * MASK), (N, N)),
    'mask of an unmarked product': (lambda h, w: h @ jnp.where(MASK > 0, w, 0), (N, N)),
    'constant matrix': (lambda h, w: w * (h @ jnp.asarray(MASK)), (N,)),
    'batched product': (lambda h, w: jnp.einsum('i,io->o', h, w * MASK[::-1]), (N, N)),
    'dense': (lambda h, w: matmul(h, w), (N, N)),
    'element-wise': (lambda h, w: h * element_wise(w), (N,)),
    'sparse': (lambda h, w: sparse_matmul(h, w, sparse_mat=BANDS), (len(BANDS.data),)),
    'rolled': (lambda h, w: w * jnp.roll(h, 1) + jnp.flip(h), (N,)),
    'scaled': (lambda h, w: w[0] * h, (3,)),
    'summed': (lambda h, w: w * jnp.sum(h[1:3]), (N,)),
    'cut and joined': (lambda h, w: jnp.concatenate([h[3:], w * h[:3]]), (3,)),
    'convolved': (lambda h, w: conv(h[None], w[None, None])[0], (3,)),
}


@pytest.mark.parametrize('name', sorted(EXACT))
def test_the_pattern_is_no_larger_than_needed(name):
    onward, shape = EXACT[name]
    compare(models.ready(Ring(onward, shape)), models.random(N, seed=99), exact=True)


def test_blocks_and_tables():
    blocks = Ring(lambda h, w: grouped_matmul(h, w), (2, 2, 2), shape=(2, 2))
    pattern = compare(models.ready(blocks), models.random(2), exact=True)
    np.testing.assert_array_equal(pattern.hidden, BLOCKS)
    table = Ring(lambda h, w: h + embedding(jnp.int32(h[0] > 0), w), (7, N))
    pattern = compare(models.ready(table), models.random(2))
    np.testing.assert_array_equal(pattern.params['w0'][0], np.broadcast_to(np.eye(N), (7, N, N)))


def test_loops_and_unknown_operations():
    x = models.random(N, seed=99)
    pattern = compare(models.ready(Ring(loop, (N, N))), x)
    np.testing.assert_array_equal(pattern.hidden, np.linalg.matrix_power(MASK.T, 3) > 0)
    pattern = compare(models.ready(Ring(lambda h, w: jnp.sort(h) * w, (N,))), x)
    assert pattern.hidden.all()  # what an unknown operation touches is joined
    np.testing.assert_array_equal(pattern.params['w0'][0], np.eye(N))


def test_influence_spreads_one_neighbourhood_a_step():
    model = models.ready(Ring(lambda h, w: matmul(h, w * MASK), (N, N)))
    pattern = position_neighbours(compile_etrace_graph(model, jnp.ones(N)))
    hops = pattern.hidden.astype(int)
    for steps in (1, 2, 4, 9):
        expected = MASK[..., None] * np.linalg.matrix_power(hops + np.eye(N), steps - 1).T[None] > 0
        np.testing.assert_array_equal(pattern.influence(steps)['w0'][0], expected)


def test_what_goes_around_relations():
    """A masked product that is not marked stays, one that is marked goes."""
    for onward, stays in ((lambda h, w: matmul(h, w), False), (lambda h, w: h @ w, True)):
        model = models.ready(Ring(onward, (N, N)))
        graph = compile_etrace_graph(model, jnp.ones(N))
        around = position_neighbours(graph, around_relations=True)
        assert around.params['w0'][0].any() == stays
        assert driving_parameters(graph, around_relations=True) == ('w0',) * stays
        assert driving_parameters(graph) == ('w0',)
        assert around.hidden.all()  # only the weight is left out, not the state
