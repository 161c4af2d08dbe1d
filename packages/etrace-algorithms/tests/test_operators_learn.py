"""A weight of every operator learns: against BPTT, by both engines, batched and mapped."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import etrace_algorithms as ea
from etrace_algorithms import drive
from etrace_algorithms.testing import assert_gradients_close, bptt_gradients, online_gradients
from etrace_compiler import (
    conv,
    einsum,
    element_wise,
    embedding,
    grouped_matmul,
    lora_matmul,
    matmul,
    sparse_matmul,
)

B, T = 2, 5
LEARNERS = {'d_rtrl': {}, 'pp_prop': {'decay_or_rank': 0.8}}


def random(*shape, seed):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape) * 0.5)


def as_index(x):
    """Rows of a table of five, from random numbers."""
    return jnp.floor(x * 4).astype(int) % 5


#: Two non-zeros in one column, none in another.
PATTERN = sparse.BCOO.fromdense(jnp.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]))

#: Per operator: the call, the shape of one input, of the weight, of a bias, and of the state.
OPERATORS = {
    'matmul': (matmul, (3,), (3, 4), (4,), (4,)),
    'grouped_matmul': (grouped_matmul, (2, 3), (2, 3, 2), (2, 2), (2, 2)),
    'einsum': (
        lambda x, w, b: einsum('...hi,hio->...oh', x, w, b), (2, 3), (2, 3, 2), (2,), (2, 2)
    ),
    'conv': (
        lambda x, w, b: conv(x, w, b, strides=2, feature_group_count=2),
        (2, 5), (4, 1, 3), (4,), (4, 3),
    ),
    'sparse_matmul': (
        lambda x, w, b: sparse_matmul(x, w, sparse_mat=PATTERN, bias=b), (3,), (5,), (4,), (4,)
    ),
    'embedding': (
        lambda x, w, b: embedding(as_index(x), w) + element_wise(b), (), (5, 4), (4,), (4,)
    ),
    'lora_matmul': (
        lambda x, w, b: lora_matmul(x, w['B'], w['A'], alpha=2, bias=b),
        (3,), {'B': (3, 2), 'A': (2, 4)}, (4,), (4,),
    ),
}  # fmt: skip


class Driven(brainstate.nn.Module):
    """`h = tanh(op(x) + a h)`, and with `recurrent` also `+ R h`: then its trace is not exact."""

    def __init__(self, name, recurrent=False):
        super().__init__()
        self.op, _, weight, bias, self.shape = OPERATORS[name]
        size = int(np.prod(self.shape))
        parts = weight if isinstance(weight, dict) else {'': weight}
        values = {k: random(*shape, seed=1 + len(k)) for k, shape in parts.items()}
        self.W = brainstate.ParamState(values.get('', values))
        self.b = brainstate.ParamState(random(*bias, seed=2))
        self.a = brainstate.ParamState(random(*self.shape, seed=3))
        self.R = brainstate.ParamState(random(size, size, seed=4)) if recurrent else None

    def init_state(self, batch_size=None, **_):
        lead = () if batch_size is None else (batch_size,)
        self.h = brainstate.HiddenState(jnp.full((*lead, *self.shape), 0.3))

    def update(self, x):
        h = self.h.value
        drive = self.op(x, self.W.value, self.b.value) + element_wise(self.a.value) * h
        if self.R is not None:
            lead = h.shape[: h.ndim - len(self.shape)]
            drive += matmul(h.reshape((*lead, -1)), self.R.value).reshape(h.shape)
        self.h.value = jnp.tanh(drive)
        return self.h.value


def inputs(name, steps=T):
    return random(steps, B, *OPERATORS[name][1], seed=5)


def loss(y):
    return jnp.sum(y**2) + jnp.sum(jnp.sin(y))


def learned(name, xs, algorithm='d_rtrl', recurrent=False, vmap=False, chunk=1):
    options = LEARNERS.get(algorithm, {})
    learner = ea.compile(Driven(name, recurrent), algorithm, xs[0], batch_size=B, vmap=vmap,
                         **options)  # fmt: skip
    found = online_gradients(learner, xs, loss=loss, chunk_size=chunk)
    return found, jax.tree.map(jnp.asarray, learner.etrace.value)


def by_backpropagation(name, xs, recurrent=False):
    model = Driven(name, recurrent)
    brainstate.nn.init_all_states(model, batch_size=B)
    return bptt_gradients(model, xs, loss=loss)


@pytest.mark.parametrize('name', OPERATORS)
def test_one_step_is_that_of_backpropagation(name):
    xs = inputs(name, 1)
    expected = by_backpropagation(name, xs, recurrent=True)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(expected))
    for algorithm in LEARNERS:
        assert_gradients_close(learned(name, xs, algorithm, recurrent=True)[0], expected)


@pytest.mark.parametrize('algorithm', LEARNERS)
@pytest.mark.parametrize('name', OPERATORS)
def test_a_window_is_its_steps(name, algorithm):
    xs = inputs(name)
    steps, trace = learned(name, xs, algorithm, recurrent=True)
    window, after = learned(name, xs, algorithm, recurrent=True, chunk=3)
    assert_gradients_close(window, steps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), after, trace)


@pytest.mark.parametrize('name', OPERATORS)
def test_a_diagonal_recurrence_is_exact(name):
    """Batched or mapped over the batch; the control, without a trace, is not."""
    xs = inputs(name)
    expected = by_backpropagation(name, xs)
    assert_gradients_close(learned(name, xs)[0], expected)
    assert_gradients_close(learned(name, xs, vmap=True)[0], expected)
    without = learned(name, xs, 'immediate')[0]
    for got, wanted in zip(*map(jax.tree.leaves, (without['W',], expected['W',])), strict=True):
        assert not np.allclose(got, wanted, rtol=0.02)


#: Per operator, entries of a full trace for one state and one sample, and of two factors.
ENTRIES = {
    'matmul': (3 * 4, 3 + 4),
    'grouped_matmul': (2 * 3 * 2, 6 + 4),
    'einsum': (2 * 3 * 2, 6 + 4),
    'conv': (3 * 2 * 3 * 2, 3 * 2 * 3 + 3 * 2 * 2),
    'sparse_matmul': (5, 5 + 5),
    'embedding': (5 * 4, 5 + 4),
    'lora_matmul': (3 * 4, 3 + 4),
}


@pytest.mark.parametrize('name', OPERATORS)
def test_bytes_follow_from_the_facts(name):
    plan = ea.memory_plan(Driven(name), inputs(name)[0], learners=LEARNERS, batch_size=B)
    key = 'W.A*W.B' if name == 'lora_matmul' else 'W'
    assert [plan[learner].by_relation[key] for learner in LEARNERS] == [
        8 * B * entries for entries in ENTRIES[name]
    ]


@pytest.mark.parametrize('name', OPERATORS)
def test_sparse_products_go_step_by_step_by_themselves(name, monkeypatch):
    """Windows are made where nobody asks for them, but for those whose values are looked up."""
    asked = []

    class Engine(drive.WindowEngine):
        def run(self, *args):
            asked.append(args)
            return super().run(*args)

    monkeypatch.setattr(drive, 'WindowEngine', Engine)
    xs = inputs(name)
    learned(name, xs, chunk=None)
    assert bool(asked) == (name != 'sparse_matmul')


def test_a_constant_factor_is_not_traced():
    """The trace of the other factor, where that is smaller than the one of the product."""

    class Adapted(Driven):
        def __init__(self, rank):
            super().__init__('lora_matmul')
            B = random(3, rank, seed=6)
            self.W = brainstate.ParamState(random(rank, 4, seed=7))
            self.op = lambda x, A, b: lora_matmul(x, B, A, bias=b)

    for rank, entries in ((1, 1 * 4), (2, 2 * 4), (5, 3 * 4)):
        plan = ea.memory_plan(Adapted(rank), inputs('matmul')[0], learners='d_rtrl', batch_size=B)
        assert plan['d_rtrl'].by_relation['W'] == 8 * B * entries
