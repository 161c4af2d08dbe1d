r"""Feedback: a learning signal that does not go back through the weights of the forward way.

The derivative of the loss with respect to the output, $\delta_t = \partial\ell_t/\partial y_t$, is
projected to every hidden group by a matrix of its own, $L_j = \sum_k B_{kj}\,\delta_k$, in the
place of $\sum_k W_{kj}\,\delta_k$. A rule that uses it declares `reads_output`, keeps what
`Feedback.init` returns in its trace, and takes the signal from `Feedback.project`.

References:
    Lillicrap et al. (2016), Random synaptic feedback weights support error backpropagation for
    deep learning, Nature Communications, doi:10.1038/ncomms13276.
    Kolen & Pollack (1994), Backpropagation without weight transport, ICNN,
    doi:10.1109/ICNN.1994.374486.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms.rule import Gradients, LearningSignal
from etrace_compiler import ETraceGraph, HiddenGroup, Linearisation
from etrace_compiler.errors import explain_error

__all__ = ['Feedback', 'as_feedback']

KINDS = ('symmetric', 'random', 'adaptive')

#: A hidden group, and which of its states is what the group sends out.
Target = tuple[HiddenGroup, int]


@dataclass(frozen=True)
class Feedback:
    r"""Where a rule takes its learning signal from.

    `'symmetric'`: the derivative of the loss with respect to hidden states, as it is.
    `'random'`: the output's derivative times a fixed matrix per hidden group, with normal entries.
    `'adaptive'`: one that starts at random and follows the changes of the readout's weights,
    $B \leftarrow W' + (1-\lambda)(B - W)$ when $W$ becomes $W'$. With the decay $\lambda$ of the
    optimiser that is what Kolen and Pollack do: both get the same updates and decay alike.

    With `'random'` and `'adaptive'` all marked weights but those of the readout learn from what
    they are fed alone. What a weight does by another way than its marked operation, and what is
    not marked (a plain product that reads out, say), keeps its exact gradient.

    Attributes:
        kind: `'symmetric'`, `'random'` or `'adaptive'`.
        seed: Of the matrices.
        scale: Standard deviation of their entries.
        observable: Names (`'z'`) or paths (`'layer1.z'`) of hidden states that groups send out.
            Of a group that has several states it is the first one in this order; see
            [`Observed`][etrace_algorithms.observable.Observed] for spikes.
        readout: Paths of modules or parameters that read out.
        local: Observables whose derivative the last outputs are: these are not projected. A
            model that returns `(y, z)` with `local='z'` may be regularised on `z`.
        decay: Of adaptive feedback, $\lambda$, once for each change of the weights.
        batch_axes: How many axes the outputs and the hidden groups have in common, the first
            ones; by default all of an output but its last.

    Raises:
        ValueError: If an option is out of range.
    """

    kind: str = 'symmetric'
    seed: int = 0
    scale: float = 1.0
    observable: str | tuple[str, ...] = ()
    readout: str | tuple[str, ...] = ()
    local: str | tuple[str, ...] = ()
    decay: float = 0.0
    batch_axes: int | None = None

    def __post_init__(self) -> None:
        for name in ('observable', 'readout', 'local'):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        names = 'one of ' + ', '.join(KINDS)
        _check('feedback', self.kind in KINDS, self.kind, names, 'Take one of these names.')
        fix = 'Use 0 for weights without decay.'
        _check('decay', 0 <= self.decay <= 1, self.decay, '0 <= decay <= 1', fix)
        _check('scale', self.scale > 0, self.scale, 'scale > 0', "Take 'symmetric' for none.")
        if self.kind == 'adaptive':
            fix = "Name what reads out, for instance Feedback('adaptive', readout='readout')."
            _check('readout', self.readout, self.readout, 'the path of the readout', fix)

    @property
    def symmetric(self) -> bool:
        """Whether the signal is the derivative of the loss itself."""
        return self.kind == 'symmetric'

    def readout_relations(self, graph: ETraceGraph) -> frozenset[str]:
        """Return the keys of the marked operations that read out.

        Raises:
            ValueError: If `readout` names no parameter of the model.
        """
        params = [s.key for s in graph.module_info.by_role('param')]
        for name in self.readout:
            found = any(_is_under(key, name) for key in params)
            fix = 'Name a module or a parameter.'
            _check('readout', found, name, f'a path among {", ".join(params)}', fix)
        return frozenset(
            r.key
            for r in graph.hidden_param_op_relations
            if all(self._reads_out('.'.join(map(str, path))) for path in r.trainable_paths)
        )

    def targets(self, graph: ETraceGraph) -> list[Target]:
        """Return the groups that weights beside those of the readout drive.

        Returns:
            Each with the index of its observable among its states per position.

        Raises:
            ValueError: If an option does not fit the model; the message says which.
        """
        keep = self.readout_relations(graph)
        relations = [r for r in graph.hidden_param_op_relations if r.key not in keep]
        driven = {g.index for r in relations for g in r.hidden_groups}
        if not any(self._matching(g) for g in graph.hidden_groups):
            for name in self.observable:
                self._named(graph, name)
        return [(g, self._observed(g)) for g in graph.hidden_groups if g.index in driven]

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        """Return the matrices: one per output and group that learns, `(K, *features)`.

        Raises:
            ValueError: If an option does not fit the model; the message says which.
        """
        matrices = tuple(
            tuple(self._matrix(i, *shape, group) for group, _ in self.targets(graph))
            for i, shape in enumerate(self._outputs(graph))
        )
        for name in self.local:
            self._named(graph, name)
        state: dict[str, Any] = {'B': matrices}
        if self.kind == 'adaptive':
            _, _, i, j = self._followed(graph)
            state |= {'W': jnp.zeros_like(matrices[i][j]), 'seen': jnp.zeros((), bool)}
        return state

    def update(self, state: Mapping[str, Any], lin: Linearisation) -> dict[str, Any]:
        """Let adaptive matrices follow the readout, once its weights have changed."""
        if self.kind != 'adaptive':
            return dict(state)
        key, leaf, i, j = self._followed(lin.graph)
        matrices = [list(row) for row in state['B']]
        old, before = matrices[i][j], state['W']
        now = jnp.moveaxis(jax.tree.leaves(lin.states[key])[leaf], -1, 0).astype(before.dtype)
        changed = state['seen'] & jnp.any(now != before)
        matrices[i][j] = jnp.where(changed, now + (1 - self.decay) * (old - before), old)
        seen = jnp.ones_like(state['seen'])
        return {'B': tuple(map(tuple, matrices)), 'W': now, 'seen': seen}

    def project(self, state: Mapping[str, Any], signal: LearningSignal) -> LearningSignal:
        """Return the signal that is fed back, from `signal.output`."""
        graph, deltas = signal.graph, jax.tree.leaves(signal.output)
        values = [jnp.zeros_like(v) for v in signal.values]

        def add(target: Target, fed: Any) -> None:
            group, at = target
            value = values[group.index]
            values[group.index] = value.at[..., at].add(fed.astype(value.dtype))

        outputs = self._outputs(graph)
        for delta, shape, matrices in zip(deltas, outputs, state['B'], strict=False):
            flat = delta.reshape((*shape[0], shape[1]))
            for target, matrix in zip(self.targets(graph), matrices, strict=True):
                add(target, jnp.tensordot(flat, matrix, 1))
        for delta, name in zip(deltas[len(outputs) :], self.local, strict=True):
            add(self._named(graph, name), delta)
        return replace(signal, values=tuple(values))

    def route(self, graph: ETraceGraph, exact: Gradients, fed: Gradients) -> dict[str, Any]:
        """Return exact gradients for what reads out, and those of what is fed back for the rest."""
        keep = self.readout_relations(graph)
        return {key: exact[key] if key in keep else fed[key] for key in fed}

    # ------------------------------------------------------------ what belongs together

    def _reads_out(self, key: str) -> bool:
        return any(_is_under(key, name) for name in self.readout)

    def _observed(self, group: HiddenGroup) -> int:
        """Which state a group sends out."""
        found = self._matching(group) or ([0] if group.num_state == 1 else [])
        fix = 'Name the one that is read out: Feedback(..., observable=NAME).'
        wanted = f'one state among {", ".join(key for key, _ in _states(group))}'
        _check('observable', found, self.observable, wanted, fix)
        return found[0]

    def _matching(self, group: HiddenGroup) -> list[int]:
        """The states of a group that are named, in the order of the names."""
        return [i for n in self.observable for key, i in _states(group) if _is_named(key, n)]

    def _named(self, graph: ETraceGraph, name: str) -> Target:
        """The group and the state of one name."""
        states = [(key, (g, i)) for g in graph.hidden_groups for key, i in _states(g)]
        found = [target for key, target in states if _is_named(key, name)]
        wanted = f'a hidden state among {", ".join(key for key, _ in states)}'
        fix = 'Name one of these by its path, or by the end of it.'
        _check('observable', found, name, wanted, fix)
        return found[0]

    def _outputs(self, graph: ETraceGraph) -> list[tuple[tuple[int, ...], int]]:
        """The batch and the width of the outputs that are projected."""
        atoms = graph.module_info.out_atoms
        shapes = [tuple(a.shape) for a in atoms if jnp.issubdtype(a.dtype, jnp.inexact)]
        kept = shapes[: len(shapes) - len(self.local)]
        fix = 'Let the step return what the loss is a function of.'
        _check('local', kept, self.local, 'fewer names than the model has outputs', fix)
        axes = (self.batch_axes if self.batch_axes is not None else max(len(s) - 1, 0)
                for s in kept)  # fmt: skip
        return [(s[:n], math.prod(s[n:])) for s, n in zip(kept, axes, strict=True)]

    def _matrix(self, output: int, batch: tuple[int, ...], width: int, group: HiddenGroup) -> Any:
        clear = batch or len(group.varshape) == 1 or self.batch_axes is not None
        fits = clear and group.varshape[: len(batch)] == batch
        wanted = f'one that the hidden group of shape {group.varshape} begins with'
        fix = 'Put the batch first in what the step returns, or say Feedback(..., batch_axes=N).'
        _check('batch of the output', fits, batch, wanted, fix)
        random = np.random.default_rng((self.seed, output, group.index))
        features = group.varshape[len(batch) :]
        return jnp.asarray(
            self.scale * random.standard_normal((width, *features)),
            jnp.finfo(group.dtype).dtype,
        )

    def _followed(self, graph: ETraceGraph) -> tuple[str, int, int, int]:
        """The readout's weight, as a state key and a leaf; its output, and its group."""
        found = [
            (s.key, leaf, i, j)
            for s in graph.module_info.by_role('param')
            if self._reads_out(s.key)
            for leaf, value in enumerate(s.leaves)
            for i, (batch, width) in enumerate(self._outputs(graph))
            for j, (group, _) in enumerate(self.targets(graph))
            if value.shape == (*group.varshape[len(batch) :], width)
        ]
        wanted = 'one weight of shape (features of one group, width of the output)'
        got = f'{len(found)} such weights under {", ".join(self.readout)}'
        _check('readout', len(found) == 1, got, wanted, "Take feedback='random' instead.")
        return found[0]


def as_feedback(value: Any) -> Feedback:
    """Return a `Feedback`, of one, of the name of its kind, or of its options.

    Raises:
        ValueError: If the kind is unknown.

    Example:
        >>> as_feedback('random').symmetric
        False
        >>> as_feedback({'kind': 'random', 'seed': 3}).seed
        3
    """
    if isinstance(value, Mapping):
        return Feedback(**value)
    return value if isinstance(value, Feedback) else Feedback(value)


def _states(group: HiddenGroup) -> list[tuple[str, int]]:
    """The keys of a group's states, and where among its states per position each one begins."""
    starts = np.cumsum([0, *(s.num_state for s in group.hidden_states)])
    return [(s.key, int(i)) for s, i in zip(group.hidden_states, starts, strict=False)]


def _is_under(key: str, name: str) -> bool:
    return key == name or key.startswith(f'{name}.')


def _is_named(key: str, name: str) -> bool:
    return key == name or key.endswith(f'.{name}')


def _check(subject: str, holds: Any, got: Any, expected: str, fix: str) -> None:
    if not holds:
        problem = 'does not fit'
        raise ValueError(
            explain_error(
                subject, problem, got=repr(got), expected=expected, fix=fix, code='ETA114'
            )
        )
