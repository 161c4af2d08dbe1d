"""What is known of labels from one compilation to the next."""

import jax.numpy as jnp
import pytest

from etrace_compiler import compile_etrace_graph, element_wise, labels
from etrace_compiler.analysis import memo

from . import models


@pytest.fixture(autouse=True)
def forgotten():
    memo._SHARED.clear()
    memo._KINDS.clear()


def count_rules(monkeypatch):
    calls = []
    for name in ('_forward', '_backward'):
        rule = getattr(labels, name)
        monkeypatch.setattr(
            labels, name, lambda eqn, a, rule=rule: calls.append(eqn.name) or rule(eqn, a)
        )
    return calls


def test_labels_pass_an_operation_once_for_all_models(monkeypatch):
    calls = count_rules(monkeypatch)
    first = compile_etrace_graph(*models.build('GRU, batch'))
    assert calls
    calls.clear()
    assert compile_etrace_graph(*models.build('GRU, batch')) == first
    assert calls == []


SAME = list(range(models.N))


class Shuffled(models.Cell):
    """A state whose elements are handed on in a given order."""

    def __init__(self, order):
        super().__init__()
        self.order, self.decay = jnp.array(order), models.parameter(models.N)

    def update(self, x):
        shuffled = self.h.value[..., self.order]
        self.h.value = element_wise(self.decay.value) * shuffled + jnp.sum(x)
        return self.h.value


@pytest.mark.parametrize('most', [2048, 3])
def test_constants_are_told_apart(monkeypatch, most):
    """Also where only a few results are kept."""
    monkeypatch.setattr(memo, '_MOST', most)
    for order, cuts in ((SAME, 0), (SAME[::-1], 1), (SAME, 0)):
        graph = compile_etrace_graph(models.ready(Shuffled(order)), jnp.ones(2))
        (group,) = graph.hidden_groups
        assert len(group.hidden_cuts) == cuts
        assert len(memo._SHARED) <= most
        assert len(memo._KINDS) <= most


def test_large_labels_are_not_kept(monkeypatch):
    monkeypatch.setattr(memo, '_SMALL', 0)
    graph = compile_etrace_graph(*models.build('GRU, batch'))
    assert not memo._SHARED
    monkeypatch.undo()
    assert compile_etrace_graph(*models.build('GRU, batch')) == graph
    assert memo._SHARED
