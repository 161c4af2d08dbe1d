"""Fitting a predictor to its own next prediction and the losses between."""

from collections.abc import Callable
from typing import Any, NamedTuple

import brainstate
import jax
import jax.numpy as jnp
import optax

from etrace_dni.fingerprint import FittedPredictor, check_same, loss_fingerprint
from etrace_dni.predictor import apply_predictor
from etrace_dni.states import add_to_hidden, read_hidden

__all__ = ['Fit', 'fit_predictor']


class Fit(NamedTuple):
    """What fitting along a sequence found.

    Attributes:
        errors: Per window, the mean squared difference of prediction and target.
        targets: Per window, the mean square of the targets: the error of predicting zero.
        losses: Per window, the sum of the losses.
        gradients: Of the parameters, added up over all windows: what `etrace_grad` gives with
            `reduction='sum'`, by the predictor as it was at each window.
    """

    errors: Any
    targets: Any
    losses: Any
    gradients: Any


def fit_predictor(
    learner: Any, *sequences: Any, step_fn: Callable[..., Any], chunk_size: int
) -> Fit:
    r"""Run over a sequence, and at each window fit $\hat s(h_0)$ to what the window says of it.

    The states of the model go on from window to window, and stay at the end of the sequence: for
    a sequence that begins anew call `learner.reset_state` first. A call with one window is a
    step of online learning: its gradients are for the model's own optimiser.

    Args:
        learner: A compiled learner.
        *sequences: Pytrees of arrays with time on the first axis.
        step_fn: Calls the learner once and returns the loss of one step.
        chunk_size: Steps per window; the length is a multiple of it.

    Raises:
        ValueError: If the sequence is no number of windows, or the predictor was fitted on
            another loss or window.
    """
    steps = {jnp.shape(x)[0] for x in jax.tree.leaves(sequences)}
    if len(steps) != 1 or max(steps) % chunk_size or not max(steps):
        raise ValueError(
            f'`sequences` do not divide into windows: got {sorted(steps)} steps; expected a '
            f'multiple of chunk_size={chunk_size}. Leave the rest for the next call.'
        )
    loss = loss_fingerprint(step_fn, sequences)
    known = learner.fingerprint
    if known is not None:
        check_same('window', chunk_size, known.window)
        check_same('loss', loss, known.loss)
    windows = jax.tree.map(lambda x: jnp.reshape(x, (-1, chunk_size, *jnp.shape(x)[1:])), sequences)

    def run(windows: tuple) -> Fit:
        zeros = jax.tree.map(
            lambda s: jax.tree.map(jnp.zeros_like, s.value), learner.param_states, is_leaf=_is_state
        )

        def body(total: Any, slices: tuple) -> tuple[Any, tuple]:
            found, facts = _fit_window(learner, step_fn, slices)
            return jax.tree.map(jnp.add, total, found), facts

        gradients, (errors, targets, losses) = brainstate.transform.scan(body, zeros, windows)
        return Fit(errors, targets, losses, gradients)

    found = learner.drives(('dni', step_fn, chunk_size), run, learner, windows)
    learner.fingerprint = FittedPredictor(
        learner.predictor, None, learner.graph.fingerprint, loss, chunk_size
    )
    return found


def _fit_window(learner: Any, step_fn: Callable[..., Any], slices: tuple) -> tuple[Any, tuple]:
    """Differentiate one window, and take one step of the predictor's optimiser."""
    entering = jax.lax.stop_gradient(read_hidden(learner))

    def window_loss(tap: tuple) -> tuple[Any, Any]:
        with learner.window():
            add_to_hidden(learner, tap)
            losses = brainstate.transform.for_loop(lambda *x: jnp.sum(step_fn(*x)), *slices)
        total = jnp.sum(losses)
        return learner.end_window(total), total

    grad: Any = brainstate.transform.grad(
        window_loss, learner.param_states, argnums=0, has_aux=True, check_states=False
    )
    (gradients, target), loss = grad(jax.tree.map(jnp.zeros_like, entering))

    def error(weights: Any) -> Any:
        found = apply_predictor(learner.graph, weights, entering)
        return _mean_square(jax.tree.map(jnp.subtract, found, target))

    weights, optimizer = learner.predictor_state, learner.optimizer_state
    found, slope = jax.value_and_grad(error)(weights.value)
    updates, optimizer.value = learner.optimizer.update(slope, optimizer.value, weights.value)
    weights.value = optax.apply_updates(weights.value, updates)
    return gradients, (found, _mean_square(target), loss)


def _mean_square(tree: Any) -> Any:
    leaves = jax.tree.leaves(tree)
    total = sum(jnp.sum((x * x.conj()).real) for x in leaves)
    return total / max(sum(x.size for x in leaves), 1)


def _is_state(value: Any) -> bool:
    return isinstance(value, brainstate.State)
