"""Backpropagation through time on a learner's own model: what online gradients are held against.

The step is traced anew from the model; nothing of the compiled graph is used for its values.
"""

from collections.abc import Callable, Collection
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms.batching import split_keys, state_axes
from etrace_compiler import NotSupportedError, path_key
from etrace_compiler.errors import explain_error

__all__ = ['Backpropagation']

Path = tuple[Any, ...]


class Backpropagation:
    """Gradients of the summed losses of a sequence, from the present states of a model.

    While it is in use, the live states of a learner that runs by vmap hold those of one sample.

    Args:
        learner: A compiled learner.
        loss: Function of the output of one step, a scalar.
        sequences: Pytrees of arrays with time on the first axis.
    """

    def __init__(self, learner: Any, loss: Callable[[Any], Any], sequences: tuple[Any, ...]):
        self._model, self._loss, self._sequences = learner.model, loss, sequences
        self._info, self._batch = learner.graph.module_info, learner.batch_axis_size
        live = learner.executor.states
        self._values = {path_key(path): state.value for path, state in live.items()}
        self._params = {path_key(path): path for path in learner.param_states}
        example = jax.tree.map(lambda x: x[0], sequences)
        if self._batch is not None:
            example = jax.tree.map(lambda x: x[0], example)
            for key in self._batched:
                state = live[self._info.spec(key).path]
                state.value = jax.tree.map(lambda x: x[0], state.value)
        self._step = brainstate.transform.StatefulFunction(self._call, return_only_write=False)
        self._step.make_jaxpr(*example)
        keys = {id(state): path_key(path) for path, state in live.items()}
        states = self._step.get_states(*example)
        self._touched = [keys.get(id(s), f'outside {n}') for n, s in enumerate(states)]
        for key, state in zip(self._touched, states, strict=True):
            self._values.setdefault(key, state.value)

    @property
    def _batched(self) -> list[str]:
        return [key for key, axis in state_axes(self._info).items() if axis == 0]

    def _call(self, *args: Any) -> Any:
        out = self._model(*args)
        # with a batch axis the loss is taken of all samples together
        return self._loss(out) if self._batch is None else out

    def __call__(self, passing: Collection[Path] | None = None) -> tuple[dict[Path, Any], Any]:
        """Return the gradients by path of the parameter, and the losses, `(T,)`.

        Args:
            passing: Paths of the states that pass a derivative from step to step; all of them by
                default.

        Raises:
            NotSupportedError: If the model has no reverse derivative.
        """
        through = None if passing is None else {path_key(path) for path in passing}
        params = {key: self._values[key] for key in self._params}
        carried = {key: v for key, v in self._values.items() if key not in params}

        def total(params: dict[str, Any]) -> Any:
            def body(states: dict[str, Any], args: tuple) -> Any:
                entered = {
                    key: value if through is None or key in through else _detach(value)
                    for key, value in states.items()
                }
                new, loss = self._advance({**params, **entered}, args)
                return {key: new[key] for key in states}, loss

            _, losses = jax.lax.scan(body, carried, self._sequences)
            return jnp.sum(losses), losses

        try:
            gradients, losses = jax.jit(jax.grad(total, has_aux=True))(params)
        except ValueError as error:
            # a loop inside the function of another primitive counts as well
            if 'while[' not in str(self._info.closed_jaxpr):
                raise
            raise _no_reverse(self._info, error) from error
        return {self._params[key]: value for key, value in gradients.items()}, losses

    def _advance(self, values: dict[str, Any], args: tuple) -> tuple[dict[str, Any], Any]:
        """Run one step: the new values of all states, and the loss."""
        if self._batch is None:
            new, loss = self._one(values, *args)
            return {**values, **new}, loss
        # the same keys as in the learner, whatever number the batch has
        split, kept = split_keys(self._info, values, self._batch)
        mapped = {*self._batched, *kept}
        axes = {key: 0 if key in mapped else None for key in split}
        new, out = jax.vmap(
            self._one,
            in_axes=(axes, *(0 for _ in args)),
            out_axes=({key: axes[key] for key in self._touched}, 0),
        )(split, *args)
        return {**values, **new, **kept}, self._loss(out)

    def _one(self, values: dict[str, Any], *args: Any) -> tuple[dict[str, Any], Any]:
        new, out = self._step.jaxpr_call([values[key] for key in self._touched], *args)
        return dict(zip(self._touched, new, strict=True)), out


def _detach(value: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.lax.stop_gradient(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, value
    )


def _no_reverse(info: Any, error: ValueError) -> NotSupportedError:
    loops = [eqn for eqn in info.program.equations if eqn.name == 'while']
    return NotSupportedError(
        explain_error(
            'model',
            'has no reverse derivative to compare with',
            got=f'a `while` loop: {str(error).splitlines()[0]}',
            expected='loops with a fixed number of steps (scan, fori_loop)',
            fix='Rewrite the loop, or check a model without it; the learner lets its value '
            'pass without a derivative.',
            code='ETA123',
            where=loops[0].source if loops else None,
        )
    )
