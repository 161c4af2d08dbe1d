"""Models as users write them, measured against backpropagation through time.

One compiled program gives the gradients of the first step and of the whole sequence: for the
first one the losses of the later steps are masked.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

import etrace_algorithms as ea
from etrace_algorithms.testing import assert_gradients_close
from etrace_compiler import ControlFlowPolicy, Verdict, path_key

N = 4
STEPS = 5
#: Learners whose gradient of a single step is that of backpropagation.
LEARNERS = {'d_rtrl': {}, 'pp_prop': {'decay_or_rank': 0.6}, 'immediate': {}}


def values(*shape, seed=0, scale=0.5):
    """Fixed random numbers in float64."""
    return jnp.asarray(np.random.RandomState(seed).randn(*shape) * scale)


def parameter(*shape, seed=0, scale=0.5):
    """A parameter with fixed random values."""
    return brainstate.ParamState(values(*shape, seed=seed, scale=scale))


def hidden(*shape, seed=0, scale=0.7):
    """A hidden state with fixed random values: an all-zero state hides mistakes."""
    return brainstate.HiddenState(values(*shape, seed=seed, scale=scale))


class Model(brainstate.nn.Module):
    """Two input weights, a square one, two vectors; states `h` and `g` of `(2, N)`.

    Args:
        step: Function of the model and of the input that does one step.
        setup: Function of the model that makes more states.
        weights: Function of the model that makes more parameters.
    """

    def __init__(self, step=None, setup=None, weights=None):
        super().__init__()
        self.W, self.V = (parameter(3, N, seed=s) for s in (1, 2))
        self.R = parameter(N, N, seed=3)
        self.a, self.b = (parameter(N, seed=s) for s in (4, 5))
        self.step, self.setup = step, setup
        if weights is not None:
            weights(self)

    def init_state(self, *args, **kwargs):
        self.h, self.g = hidden(2, N, seed=11), hidden(2, N, seed=12)
        if self.setup is not None:
            self.setup(self)

    def update(self, x):
        return self.step(self, x)


@dataclass(frozen=True, eq=False)
class Case:
    """One model, and what its gradients are worth.

    Attributes:
        name: Name of the case.
        make: Makes the model.
        step: Function, class of models, or several, that hold the lines of the model.
        exact: Parameters whose online gradient is exact at every length; others that act on a
            state are approximate.
        loose: Approximate ones for which the approximation happens to cost nothing.
        shape: Shape of one input.
        twin: Makes the model whose backpropagation is compared; the same by default.
    """

    name: str
    make: Callable[[], brainstate.nn.Module]
    step: Any
    exact: frozenset[str]
    loose: frozenset[str] = frozenset()
    shape: tuple[int, ...] = (2, 3)
    twin: Callable[[], brainstate.nn.Module] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self):
        return self.name

    @property
    def xs(self):
        return inputs(shape=self.shape)

    def owns(self, source):
        """Whether a record's line is one of the model's own."""
        steps = self.step if isinstance(self.step, tuple) else (self.step,)
        return any(_stands_in(source, step) for step in steps)


def _stands_in(source, step):
    if isinstance(step, type):  # a model made of several classes
        return source.file == inspect.getsourcefile(step)
    lines, start = inspect.getsourcelines(step)
    inside = start <= source.line < start + len(lines)
    return source.file == inspect.getsourcefile(step) and inside


def case(cases, exact='', loose='', *, name=None, shape=(2, 3), twin=None, make=None, **options):
    """Add a case to a dictionary; decorates its step, or a class of models."""

    def add(step):
        build = make or (step if isinstance(step, type) else partial_model(step, **options))
        key = name or step.__name__
        cases[key] = Case(
            key, build, step, frozenset(exact.split()), frozenset(loose.split()), shape,
            partial_model(twin, **options) if twin else None,
        )  # fmt: skip
        return step

    return add


def partial_model(step, **options):
    """Return a function that makes the model of a step."""
    return functools.partial(Model, step, **options)


def inputs(steps=STEPS, *, seed=7, shape=(2, 3)):
    """A sequence with time on the first axis."""
    return values(steps, *shape, seed=seed, scale=1.0)


def loss(out):
    """A loss to which every element of the output matters on its own."""
    total = 0.0
    for leaf in jax.tree.leaves(u.get_mantissa(out)):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            leaf = leaf.real + 0.3 * leaf.imag
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            weight = jnp.linspace(0.5, 1.5, leaf.size).reshape(leaf.shape).astype(leaf.dtype)
            total = total + jnp.sum(weight * (jnp.sin(leaf) + 0.2 * leaf**2))
    return total


# ---------------------------------------------------------------- measuring


def _run(module, model, function, xs):
    """Gradients, outputs and new states for both masks, from the same states and keys."""
    kept = [(s, s.value) for s in module.states().values()]
    run = brainstate.transform.jit(function)
    steps, found = len(jax.tree.leaves(xs)[0]), []
    for mask in (jnp.eye(1, steps)[0], jnp.ones(steps)):
        brainstate.random.seed(3)
        gradients, outputs = run(xs, mask)
        after = {k: s.value for k, s in model.states().items()}
        found.append(SimpleNamespace(gradients=gradients, outputs=outputs, states=after))
        for state, value in kept:
            state.value = value
    return SimpleNamespace(first=found[0], whole=found[1])


def backpropagated(model, xs):
    """Backpropagation through time on an initialised model."""
    params = model.states(brainstate.ParamState)

    def function(xs, mask):
        def total():
            def one(x, weight):
                out = model(x)
                return jnp.where(weight != 0, loss(out), 0.0), out

            losses, outputs = brainstate.transform.for_loop(one, xs, mask)
            return jnp.sum(losses), outputs

        return brainstate.transform.grad(total, params, has_aux=True, check_states=False)()

    return _run(model, model, function, xs)


def online(learner, xs, **options):
    """The online gradient of a compiled learner."""

    def function(xs, mask):
        def one(x):
            out = learner(x)
            return loss(out), out

        options_ = {'mask': mask, 'reduction': 'sum', 'has_aux': True, **options}
        return learner.etrace_grad(xs, step_fn=one, **options_)

    return _run(learner, learner.model, function, xs)


def one_step(learner, x):
    """The gradient of a single step, from the outside: a loss of the learner's output."""
    params = learner.param_states

    def run(x):
        return brainstate.transform.grad(lambda: loss(learner(x)), params, check_states=False)()

    brainstate.random.seed(3)
    return brainstate.transform.jit(run)(x)


@functools.cache
def compiled(found: Case, name: str, policy: ControlFlowPolicy | None, **options):
    """A learner of a fresh model."""
    options = {**LEARNERS[name], 'control_flow': policy, **options}
    brainstate.random.seed(3)
    return ea.compile(found.make(), name, found.xs[0], **options)


@functools.cache
def oracle(found: Case):
    """Backpropagation through time on a case."""
    model = (found.twin or found.make)()
    brainstate.nn.init_all_states(model)
    return backpropagated(model, found.xs)


@functools.cache
def measured(found: Case, policy: ControlFlowPolicy | None):
    """The online gradient of `D_RTRL` on a case."""
    return online(compiled(found, 'd_rtrl', policy), found.xs)


# ---------------------------------------------------------------- judging


def check_first_step(found: Case, gradients, rtol=1e-9):
    """The gradient of one step is that of backpropagation, for every parameter."""
    expected = oracle(found).first.gradients
    assert jax.tree.structure(dict(gradients)) == jax.tree.structure(dict(expected))  # units too
    for leaf in jax.tree.leaves((gradients, expected)):
        assert np.isfinite(np.asarray(leaf)).all()
    assert_gradients_close(gradients, expected, rtol=rtol)


def check_case(found: Case, policy: ControlFlowPolicy | None = None, exact=None, rtol=1e-9):
    """Values are the model's; gradients are what the graph says that they are worth.

    Args:
        found: The case.
        policy: What to do with loops and branches.
        exact: Parameters whose gradient is exact under this policy; those of the case by default.
        rtol: What counts as equal.
    """
    exact = found.exact if exact is None else exact
    graph = compiled(found, 'd_rtrl', policy).graph
    ours, theirs = measured(found, policy), oracle(found)
    _check_values(ours.whole, theirs.whole, rtol)
    check_first_step(found, ours.first.gradients, rtol)
    verdicts = {key: weight.verdict for key, weight in graph.exactness.items()}
    assert {key for key, v in verdicts.items() if v is Verdict.EXACT} == exact
    for path, expected in theirs.whole.gradients.items():
        key, got = path_key(path), ours.whole.gradients[path]
        is_close = _is_close(got, expected, rtol)
        if verdicts[key] is Verdict.ZERO:
            assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(got)), key
            continue
        # alive: the later steps matter
        assert not _is_close(expected, theirs.first.gradients[path], 1e-3), key
        assert is_close == (verdicts[key] is Verdict.EXACT or key in found.loose), (key, got)
        if verdicts[key] is not Verdict.EXACT:
            lost = graph.exactness[key].dropped
            assert lost, key
            assert all(found.owns(d.source) for d in lost if d.source), key
            lines = [r.source for r in graph.explain(weight_path=key) if r.source]
            assert any(found.owns(line) for line in lines), key


def _is_close(got, expected, rtol):
    try:
        assert_gradients_close({(): got}, {(): expected}, rtol=rtol)
    except AssertionError:
        return False
    return True


def _check_values(ours, theirs, rtol):
    """Outputs and all states are those of the model that runs by itself."""
    for a, b in zip(
        jax.tree.leaves((ours.outputs, ours.states)),
        jax.tree.leaves((theirs.outputs, theirs.states)),
        strict=True,
    ):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
