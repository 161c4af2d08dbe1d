"""Operators in a recurrence, in a loop, and mapped over their weights inside a model."""

import pickle

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import etrace_algorithms as ea
from etrace_algorithms.algebra import add_products
from etrace_algorithms.testing import assert_gradients_close, bptt_gradients, online_gradients
from etrace_compiler import (
    ControlFlowPolicy,
    conv,
    einsum,
    embedding,
    grouped_matmul,
    lora_matmul,
    matmul,
    sparse_matmul,
)

T = 4


def random(*shape, seed):
    """Random numbers in NumPy: what is made at import must not become float32."""
    return np.random.RandomState(seed).randn(*shape) * 0.5


def by_pattern(dense):
    pattern = sparse.BCOO.fromdense(jnp.asarray(dense))
    return lambda x, w: sparse_matmul(x, w, sparse_mat=pattern)


class Model(brainstate.nn.Module):
    """`h = tanh(f(x, h, W))`, with a weight of any structure."""

    def __init__(self, function, weight, shape):
        super().__init__()
        self.function, self.shape = function, shape
        self.W = brainstate.ParamState(jax.tree.map(jnp.asarray, weight))

    def init_state(self, *_, **__):
        self.h = brainstate.HiddenState(jnp.full(self.shape, 0.3))

    def update(self, x):
        self.h.value = jnp.tanh(self.function(x, self.h.value, self.W.value))
        return self.h.value


def loss(y):
    return jnp.sum(y**2) + jnp.sum(jnp.sin(y))


def compare(function, weight, shape, xs, **options):
    """The learner, and whether its gradient is that of backpropagation."""
    xs, model = jnp.asarray(xs), Model(function, weight, shape)
    brainstate.nn.init_all_states(model)
    expected = bptt_gradients(model, xs, loss=loss)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(expected))
    learner = ea.compile(Model(function, weight, shape), 'd_rtrl', xs[0], **options)
    assert_gradients_close(online_gradients(learner, xs, loss=loss), expected)
    return learner


#: Products of the state with itself that mix positions: per operator the call and its weight.
MIXING = {
    'matmul': (matmul, random(4, 4, seed=1), (2, 4)),
    'grouped_matmul': (grouped_matmul, random(2, 2, 2, seed=1), (3, 2, 2)),
    'einsum': (lambda h, w: einsum('...hi,ij->...hj', h, w), random(2, 2, seed=1), (3, 2)),
    'conv': (lambda h, w: conv(h, w, feature_group_count=2), random(2, 1, 3, seed=1), (2, 4)),
    'sparse_matmul': (by_pattern([[1, 1], [0, 1]]), random(3, seed=1), (3, 2)),
    'lora_matmul': (
        lambda h, w: lora_matmul(h, w[0], w[1]), (random(3, 2, seed=1), random(2, 3, seed=2)), (3,)
    ),
}  # fmt: skip

#: The same operators where every position meets itself alone.
DIAGONAL = {
    'grouped_matmul': (lambda h, w: grouped_matmul(h[..., None], w[:, None, None])[..., 0],
                       random(4, seed=1), (2, 4)),
    'einsum': (lambda h, w: einsum('bh,h->bh', h, w), random(4, seed=1), (2, 4)),
    'sparse_matmul': (by_pattern(np.eye(3)), random(3, seed=1), (2, 3)),
}  # fmt: skip


@pytest.mark.parametrize('name', MIXING)
def test_a_recurrent_product_that_mixes_is_cut(name):
    """One step is exact all the same."""
    op, weight, shape = MIXING[name]
    xs = random(1, *shape, seed=3)
    learner = compare(lambda x, h, w: x + op(h, w), weight, shape, xs)
    (group,) = learner.graph.hidden_groups
    assert [cut.primitive for cut in group.hidden_cuts] == [f'etp_{name}']


@pytest.mark.parametrize('name', DIAGONAL)
def test_a_recurrent_product_that_does_not_is_exact(name):
    op, weight, shape = DIAGONAL[name]
    xs = random(T, *shape, seed=3)
    learner = compare(lambda x, h, w: x + op(h, w), weight, shape, xs)
    (group,) = learner.graph.hidden_groups
    assert not group.hidden_cuts
    assert learner.graph.relation('W').exact


#: Inputs, weights of an ensemble of two, and states, of products that are mapped.
ENSEMBLES = {
    'matmul': (matmul, (2, 3), random(2, 3, 4, seed=1), (2, 2, 4)),
    'grouped_matmul': (grouped_matmul, (2, 3), random(2, 2, 3, 2, seed=1), (2, 2, 2)),
    'einsum': (lambda x, w: einsum('ab,cb->ca', x, w), (3, 2), random(2, 4, 2, seed=1), (2, 4, 3)),
    'conv': (conv, (2, 3), random(2, 4, 2, 2, seed=1), (2, 4, 3)),
    'sparse_matmul': (by_pattern([[1, 1], [0, 1]]), (3, 2), random(2, 3, seed=1), (2, 3, 2)),
    'lora_matmul': (
        lambda x, w: lora_matmul(x, w[0], w[1]), (3,),
        (random(2, 3, 2, seed=1), random(2, 2, 3, seed=2)), (2, 3),
    ),
    'embedding': (lambda x, w: embedding(jnp.floor(x).astype(int) % 5, w), (3,),
                  random(2, 5, 4, seed=1), (2, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize('name', ENSEMBLES)
def test_an_ensemble_inside_a_model_is_exact(name):
    """One input for all weights, or one for each; the graph can be sent elsewhere."""
    op, x_shape, weight, shape = ENSEMBLES[name]
    for lead, axis in (((), None), ((2,), 0)):
        xs = 2 * random(T, *lead, *x_shape, seed=4)

        def step(x, h, w, axis=axis):
            return 0.5 * h + jax.vmap(op, (axis, 0))(x, w)

        graph = compare(step, weight, shape, xs).graph
        assert [r.operator.name for r in graph.hidden_param_op_relations] == [f'etp_{name}']
        assert pickle.loads(pickle.dumps(graph)) == graph


@pytest.mark.parametrize('name', ['conv', 'sparse_matmul', 'embedding'])
def test_substeps_of_a_loop_share_a_trace(name):
    op, x_shape, weight, shape = ENSEMBLES[name]
    weight, shape = weight[0], shape[1:]
    xs = 2 * random(T, 3, *x_shape, seed=4)

    def step(x, h, w):
        def body(h, x):
            return 0.5 * h + op(x, w), None

        return jax.lax.scan(body, h, x)[0]

    policy = ControlFlowPolicy(scan_unroll_limit=0)
    learner = compare(step, weight, shape, xs, control_flow=policy)
    assert learner.graph.relation('W').substeps == 3


@pytest.mark.parametrize('size', [1, 64, 65])
def test_products_are_added_up_written_out_or_in_a_loop(size):
    a, b = random(size, 3, 1, seed=1), 1j * random(size, 3, 1, seed=2)
    found = add_products(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, (a * b).sum(0), rtol=1e-12)
