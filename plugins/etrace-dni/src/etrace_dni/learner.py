r"""Synthetic gradients: truncated backpropagation with a prediction where it is cut.

A window of `K` steps is differentiated by ordinary automatic differentiation. At its end stands,
in the place of what was cut, the prediction $\hat s(h_K)$ of
$\partial (\ell_{K+1} + \ell_{K+2} + \dots) / \partial h_K$:

$$\nabla_\theta = \frac{\partial}{\partial\theta}
\Big(\sum_{t=1}^{K} \ell_t + \langle \hat s(\bar h_K),\ h_K \rangle\Big),
\qquad \bar h_K = h_K \text{ as a constant.}$$

The same derivative with respect to $h_0$, the state that entered, is what $\hat s(h_0)$ should have
been: the predictor is fitted to its own next prediction and the losses between (bootstrapping).

References:
    Jaderberg et al. (2017), Decoupled neural interfaces using synthetic gradients, ICML,
    arXiv:1608.05343. Czarnecki et al. (2017), Understanding synthetic gradients and decoupled
    neural interfaces, ICML, arXiv:1703.00522.
"""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import optax

from etrace_algorithms import RuleLearner
from etrace_compiler import ControlFlowPolicy
from etrace_dni.fingerprint import FittedPredictor, check_method, check_same, loss_fingerprint
from etrace_dni.fit import Fit, fit_predictor
from etrace_dni.predictor import Predictor, apply_predictor, init_predictor
from etrace_dni.rule import NoPast
from etrace_dni.states import read_hidden

__all__ = ['SyntheticGradients']


class SyntheticGradients(RuleLearner):
    """A learner whose windows end with a predicted gradient of all later losses.

    Until it is fitted the prediction is zero, and the gradient that of truncated backpropagation.

    Args:
        model: A module that does one time step.
        predictor: `Predictor()` for a linear model, `Predictor(width=64)` for one hidden layer.
        optimizer: What fits the predictor, an `optax` transformation; Adam by default.
        fitted: A predictor that was fitted before, `learner.fitted` of the same model.
        name: Name of the learner.
        vjp_method: `'multi-step'`.
        control_flow: What to do with loops and branches inside the step.

    Raises:
        ValueError: For another `vjp_method`; when the graph is compiled, for a predictor that was
            fitted on another model.

    Example:
        >>> import etrace_algorithms, etrace_nn, jax.numpy as jnp
        >>> learner = etrace_algorithms.compile(
        ...     etrace_nn.GRUCell(3, 4), SyntheticGradients, jnp.zeros((1, 3)), batch_size=1)
        >>> xs = jnp.ones((20, 1, 3))
        >>> def step(x):
        ...     return (learner(x) ** 2).mean()
        >>> fit = learner.fit(xs, step_fn=step, chunk_size=5)
        >>> gradients = learner.etrace_grad(xs, step_fn=step, chunk_size=5)
        >>> learner.fitted.window
        5
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        predictor: Predictor | None = None,
        optimizer: optax.GradientTransformation | None = None,
        fitted: FittedPredictor | None = None,
        name: str | None = None,
        vjp_method: str = 'multi-step',
        control_flow: ControlFlowPolicy | None = None,
    ):
        check_method(vjp_method)
        super().__init__(model, NoPast(), name, vjp_method, control_flow)
        self.predictor = predictor or (fitted.predictor if fitted else Predictor())
        self.optimizer = optimizer or optax.adam(1e-2)
        self.fingerprint: FittedPredictor | None = fitted
        self.predictor_state = brainstate.LongTermState(())
        self.optimizer_state = brainstate.LongTermState(())
        self._accepted: tuple = ()

    def compile_graph(self, *args: Any) -> None:
        """Compile the graph, and make the predictor for it; one that was fitted stays."""
        super().compile_graph(*args)
        self._accepted = ()
        weights = init_predictor(self.predictor, self.graph)
        if self.fingerprint is not None:
            check_same('model', self.graph.fingerprint, self.fingerprint.model)
            weights = self.fingerprint.weights
        self._set_weights(weights)

    def reset_predictor(self) -> None:
        """Forget what was fitted: predict zero again, for any loss and window."""
        self.fingerprint, self._accepted = None, ()
        self._set_weights(init_predictor(self.predictor, self.graph))

    def _set_weights(self, weights: Any) -> None:
        self.predictor_state.value = jax.tree.map(jnp.asarray, weights)
        self.optimizer_state.value = self.optimizer.init(weights)

    @property
    def fitted(self) -> FittedPredictor | None:
        """The predictor and what it was fitted on, to be stored; `None` before `fit`."""
        if self.fingerprint is None:
            return None
        return self.fingerprint.with_weights(self.predictor_state.value)

    def predict(self, hidden: tuple[Any, ...]) -> tuple[Any, ...]:
        """Predict the derivative of all later losses, per group like the states."""
        return apply_predictor(self.graph, self.predictor_state.value, hidden)

    def end_window(self, loss: Any) -> Any:
        r"""Add $\langle \hat s, h_K - \bar h_K\rangle$: nothing, with a derivative."""
        hidden, total = read_hidden(self), jnp.zeros((), loss.dtype)
        for h, s in zip(hidden, self.predict(jax.lax.stop_gradient(hidden)), strict=True):
            moved = h - jax.lax.stop_gradient(h)
            total += jnp.sum((jax.lax.stop_gradient(s) * moved).real).astype(loss.dtype)
        if self.predictor.episode is not None:
            ended = self.running_index.value % self.predictor.episode == 0
            total = jnp.where(ended, 0, total)
        return loss + total

    def check_windows(self, step_fn: Callable[..., Any], sequences: tuple, window: Any) -> None:
        """Refuse another loss and another window than the predictor was fitted on.

        Raises:
            ValueError: If it was fitted, and on others.
        """
        if self.fingerprint is None:
            return
        check_same('window', window, self.fingerprint.window)
        shapes = str(jax.tree.map(lambda x: (jnp.shape(x)[1:], jnp.result_type(x)), sequences))
        if self._accepted != (step_fn, shapes):
            check_same('loss', loss_fingerprint(step_fn, sequences), self.fingerprint.loss)
            self._accepted = step_fn, shapes

    def fit(self, *sequences: Any, step_fn: Callable[..., Any], chunk_size: int) -> Fit:
        """Fit the predictor along a sequence; see `fit_predictor`."""
        return fit_predictor(self, *sequences, step_fn=step_fn, chunk_size=chunk_size)
