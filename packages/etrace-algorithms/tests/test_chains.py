"""Weights that reach their operator through other operations, and tails behind it."""

from dataclasses import replace

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
from etrace_algorithms.testing import (
    assert_gradients_close,
    bptt_gradients,
    online_gradients,
)
from etrace_compiler import DiagnosticKind, effective_weights, gather_positions, matmul

N = 4


class Base(brainstate.nn.Module):
    """A leaky state driven by one marked product; subclasses say through what."""

    shape = (3, N)

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.w = brainstate.ParamState(jnp.asarray(rng.normal(size=self.shape)))
        self.s = brainstate.ParamState(jnp.asarray(rng.normal(size=N)))
        self.r = brainstate.ParamState(jnp.asarray(rng.normal(size=(N, 2))))

    def init_state(self, batch_size=None, **kwargs):
        self.h = brainstate.HiddenState(jnp.zeros((batch_size, N)))

    def reset_state(self, batch_size=None, **kwargs):
        self.h.value = jnp.zeros_like(self.h.value)

    def drive(self, x):
        return matmul(x, self.w.value)

    def tail(self, y):
        return jnp.tanh(y)

    def update(self, x):
        self.h.value = 0.8 * self.h.value + self.tail(self.drive(x)) * self.s.value
        return self.h.value @ self.r.value


MASK = jnp.asarray(np.random.default_rng(1).integers(0, 2, (3, N)), float)


class Masked(Base):
    def drive(self, x):
        return matmul(x, self.w.value, weight_fn=lambda w: w * MASK)


class Squared(Base):
    def drive(self, x):
        return matmul(x, self.w.value**2)


class Transposed(Base):
    shape = (N, 3)

    def drive(self, x):
        return matmul(x, self.w.value.T)


class Normalised(Base):
    def drive(self, x):
        w = self.w.value
        return matmul(x, w / jnp.linalg.norm(w, axis=0, keepdims=True))


class Sliced(Base):
    shape = (7, N)

    def drive(self, x):
        return matmul(x, self.w.value[2:5])


class Product(Base):
    """A low-rank product of two parameters."""

    shape = (3, 2)

    def __init__(self):
        super().__init__()
        self.a = brainstate.ParamState(jnp.asarray(np.random.default_rng(5).normal(size=(2, N))))

    def drive(self, x):
        return matmul(x, self.w.value @ self.a.value)


class Tied(Base):
    """One parameter at two call sites: gradients add up."""

    def drive(self, x):
        return matmul(x, self.w.value) + jnp.sin(matmul(x**2, self.w.value))


class FourGates(Base):
    """One product for four gates, split afterwards."""

    shape = (3, 4 * N)

    def drive(self, x):
        a, b, c, d = jnp.split(matmul(x, self.w.value), 4, axis=-1)
        return jax.nn.sigmoid(a) * b + jnp.tanh(c) * d[..., ::1]


class Rolled(Base):
    """The tail moves every result to the next position; a permutation is exact."""

    def tail(self, y):
        return jnp.tanh(jnp.roll(y, 1, axis=-1))


class Flipped(Base):
    def tail(self, y):
        return jnp.tanh(y[..., ::-1])


class Permuted(Base):
    def tail(self, y):
        return jnp.tanh(y[..., jnp.array([2, 0, 3, 1])])


EXACT = (Masked, Squared, Transposed, Normalised, Sliced, Product, Tied, FourGates, Rolled,
         Flipped, Permuted)  # fmt: skip


def loss(y):
    return jnp.sum(jnp.sin(y) + y**2)


def inputs(steps, batch=3, seed=2):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, batch, 3)))


@pytest.mark.parametrize('model', EXACT)
def test_chain_and_tail_are_exact(model):
    xs = inputs(8)
    learner = ea.compile(model(), 'd_rtrl', xs[0], batch_size=3)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    relations = [r for r in learner.graph.hidden_param_op_relations if ('w',) in r.trainable_paths]
    assert relations
    actual = online_gradients(learner, xs, loss=loss)
    # `s` is not marked: its history is dropped, and a record says so
    assert learner.graph.explain(weight_path='s', kind=DiagnosticKind.PARAMETER_UNMARKED)
    del expected[('s',)]
    assert_gradients_close(actual, expected)


def test_a_mask_keeps_masked_entries_at_zero():
    xs = inputs(4)
    learner = ea.compile(Masked(), 'd_rtrl', xs[0], batch_size=3)
    gradient = online_gradients(learner, xs, loss=loss)[('w',)]
    assert (np.asarray(gradient)[np.asarray(MASK) == 0] == 0).all()
    assert (np.asarray(gradient)[np.asarray(MASK) == 1] != 0).all()


def test_control_a_chain_that_is_not_pulled_back_is_wrong(monkeypatch):
    """With the derivative of the chain switched off, the squared weight fails."""

    def flat(graph, params):
        return effective_weights(graph, {k: jnp.sqrt(v) if k == 'w' else v
                                         for k, v in params.items()})  # fmt: skip

    monkeypatch.setattr('etrace_algorithms.credit.effective_weights', flat)

    class Positive(Squared):
        def __init__(self):
            super().__init__()
            self.w.value = jnp.abs(self.w.value)

    xs = inputs(6)
    learner = ea.compile(Positive(), 'd_rtrl', xs[0], batch_size=3)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    actual = online_gradients(learner, xs, loss=loss)
    with pytest.raises(AssertionError):
        assert_gradients_close({('w',): actual[('w',)]}, {('w',): expected[('w',)]})


class NormBeforeState(Base):
    """LayerNorm between the operator and the state mixes positions."""

    def tail(self, y):
        centred = y - y.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)


def test_a_norm_keeps_the_diagonal_and_a_record_names_the_reduction():
    xs = inputs(8)
    learner = ea.compile(NormBeforeState(), 'd_rtrl', xs[0], batch_size=3)
    (relation,) = [r for r in learner.graph.hidden_param_op_relations if r.path == ('w',)]
    assert not relation.exact
    records = learner.graph.explain(weight_path='w', kind=DiagnosticKind.RELATION_PARTIAL_PATH)
    assert records
    assert {r.primitive for r in records} <= {'broadcast_in_dim', 'reduce_sum', 'sub', 'div',
                                              'mul', 'add'}  # fmt: skip
    assert all(r.source.file == __file__ for r in records)
    # T=1 is exact all the same
    expected = bptt_gradients(learner.model, xs[:1], loss=loss)
    actual = online_gradients(learner, xs[:1], loss=loss)
    assert_gradients_close(actual, expected)
    # longer: the history is that of a step whose mean and variance are constants
    learner = ea.compile(NormBeforeState(), 'd_rtrl', xs[0], batch_size=3)
    actual = online_gradients(learner, xs, loss=loss)[('w',)]
    want = norm_oracle(learner.model, xs)
    np.testing.assert_allclose(actual, want, rtol=1e-9, atol=1e-12)


def norm_oracle(model, xs):
    """One-step gradients in full, plus the history through the diagonal of the norm, by hand."""
    w, s, r = model.w.value, model.s.value, model.r.value
    h = jnp.zeros((3, N))
    trace = jnp.zeros((3, 3, N))  # batch, in, out
    total = 0.0
    for x in xs:

        def head(w, h, x=x):
            y = x @ w
            c = y - y.mean(-1, keepdims=True)
            return 0.8 * h + s * c / jnp.sqrt((c**2).mean(-1, keepdims=True) + 1e-3)

        y = x @ w
        c = y - y.mean(-1, keepdims=True)
        diagonal = s / jnp.sqrt((c**2).mean(-1, keepdims=True) + 1e-3)
        signal = jax.grad(lambda h: loss(h @ r))(head(w, h))
        total = total + jax.grad(lambda w, h=h, head=head: loss(head(w, h) @ r))(w)
        total = total + jnp.einsum('bo,bio->io', 0.8 * signal, trace)
        trace = 0.8 * trace + x[:, :, None] * diagonal[:, None, :]
        h = head(w, h)
    return total


@pytest.mark.parametrize('model', [Rolled, Flipped, Permuted, FourGates])
def test_control_a_signal_that_is_not_moved_with_the_results_is_wrong(model, monkeypatch):
    """Looking the signal up at other positions than the results reach is another gradient."""

    def elsewhere(values, relation, driven, *, folded=False):
        moved = tuple(np.roll(p, 1, axis=-1) for p in relation.positions)
        return gather_positions(values, replace(relation, positions=moved), driven, folded=folded)

    monkeypatch.setattr('etrace_algorithms.rule.gather_positions', elsewhere)
    xs = inputs(6)
    learner = ea.compile(model(), 'd_rtrl', xs[0], batch_size=3)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    actual = online_gradients(learner, xs, loss=loss)
    with pytest.raises(AssertionError):
        assert_gradients_close({('w',): actual[('w',)]}, {('w',): expected[('w',)]})
