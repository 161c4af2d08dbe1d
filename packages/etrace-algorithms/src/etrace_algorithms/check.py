"""`check_gradients`: the online gradient of a learner beside that of backpropagation."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms.backpropagation import Backpropagation
from etrace_algorithms.check_report import GradientCheck, WeightCheck
from etrace_algorithms.rule import Exactness
from etrace_algorithms.vjp import ETraceVjpAlgorithm
from etrace_compiler import MultiStepData, Verdict, path_key
from etrace_compiler.errors import explain_error
from etrace_compiler.terminal import is_coloured

__all__ = ['GradientCheck', 'WeightCheck', 'check_gradients']

Path = tuple[Any, ...]
Gradients = Mapping[Path, Any]


def check_gradients(
    learner: Any,
    *sequences: Any,
    loss: Callable[[Any], Any] | None = None,
    tolerance: float | None = None,
    chunk_size: int | None = None,
    file: TextIO | None = None,
) -> GradientCheck:
    """Compare a learner's online gradient with backpropagation through time on its own model.

    Both start from the present states of the model, and the learner from an empty trace.
    Afterwards states, traces and random keys are what they were.

    Args:
        learner: A compiled learner.
        *sequences: Pytrees of arrays with time on the first axis; the learner takes one slice.
        loss: Function of the output of one step; its elements are summed. By default a fixed
            random projection, so that every element of every output matters.
        tolerance: Largest relative error that counts as rounding; by default the square root of
            the precision of what the model and the trace hold.
        chunk_size: Steps per window; see `etrace_grad`.
        file: Where to print the table; nowhere by default.

    Returns:
        The two gradients of every parameter, and whether the learner keeps what
        `learner.graph.exactness` promises for rules of exactness `'exact-diagonal'`. A sequence of
        a single step, or window, has no history: there every rule must equal backpropagation.

    Raises:
        TypeError: If `learner` is not a learner with a custom VJP.
        ValueError: If the graph is not compiled, there is no loss to be had from the outputs, or
            the model and the compiled graph do not compute the same.
        NotSupportedError: If the model has no reverse derivative.

    Example:
        >>> import brainstate, etrace_algorithms, etrace_nn, jax.numpy as jnp
        >>> learner = etrace_algorithms.compile(
        ...     etrace_nn.GRUCell(3, 4), 'd_rtrl', jnp.zeros((1, 3)), batch_size=1)
        >>> check_gradients(learner, jnp.ones((1, 1, 3))).ok
        True
    """
    _check_learner(learner)
    sequences = tuple(s.data if isinstance(s, MultiStepData) else s for s in sequences)
    loss_of = _summed(loss or _projection)
    tolerance = float(np.sqrt(_precision(learner))) if tolerance is None else tolerance
    with _restored(learner):
        online, losses = _online(learner, sequences, loss_of, chunk_size)
    with _restored(learner):
        backward = Backpropagation(learner, loss_of, sequences)
        bptt, expected = backward()
        _check_values(losses, expected, tolerance)
        steps = len(losses)
        window = min(chunk_size or 1, steps) if learner.vjp_method == 'multi-step' else 1
        rule = getattr(learner, 'rule', None)
        promise = None if rule is None else rule.exactness
        short = steps <= window and getattr(rule, 'exact_at_one_step', True)
        promised = bptt if short or promise is Exactness.EXACT else {}
        if promise is Exactness.EXACT_DIAGONAL and steps > window:
            promised = _promised(learner, backward, bptt, window)
    # gradients that cancel to zero hold nothing but the rounding of larger numbers
    noise = min(64 * tolerance**2, 0.1 * tolerance) * float(np.linalg.norm(_flat(bptt)))
    contract = learner.graph.exactness
    rows = tuple(
        _compare(path, contract[path_key(path)].verdict, online[path], bptt[path],
                 promised.get(path), tolerance, noise)
        for path in bptt
    )  # fmt: skip
    found = GradientCheck(type(learner).__name__, promise, steps, window, tolerance, rows)
    if file is not None:
        print(found.to_str(is_coloured(file)), file=file)
    return found


# ---------------------------------------------------------------- the gradients


@contextlib.contextmanager
def _restored(learner: Any) -> Iterator[None]:
    """Put every state back: those of the model, the random keys, the trace, the step count."""
    states = {id(s): s for s in (*learner.executor.states.values(), *learner.states().values())}
    kept = [(state, state.value) for state in states.values()]
    try:
        yield
    finally:
        for state, value in kept:
            state.value = value


def _online(
    learner: Any, sequences: tuple[Any, ...], loss: Callable, chunk_size: int | None
) -> tuple[Gradients, Any]:
    """Return the learner's own gradient, summed over the steps, and the losses."""
    learner.init_etrace_state()

    def run() -> Any:
        return learner.etrace_grad(
            *sequences,
            step_fn=lambda *x: loss(learner(*x)),
            reduction='sum',
            chunk_size=chunk_size,
            return_value=True,
        )

    jitted: Any = brainstate.transform.jit(run)
    return jitted()


def _promised(
    learner: Any, backward: Backpropagation, bptt: Gradients, window: int
) -> dict[Path, Any]:
    """What the contract says that a gradient is; parameters without a promise are left out."""
    out, within = {}, {}
    for path, value in bptt.items():
        contract = learner.graph.exactness[path_key(path)]
        if contract.verdict in (Verdict.EXACT, Verdict.ZERO):
            out[path] = value
        # inside a longer window the layers are joined, and several groups would need their sum
        elif contract.verdict is Verdict.WITHIN_LAYER and window == 1 and len(contract.groups) == 1:
            (group,) = contract.groups
            if group.index not in within:
                within[group.index] = backward(passing=group.hidden_paths)[0]
            out[path] = within[group.index][path]
    return out


def _compare(
    path: Path,
    verdict: Verdict,
    online: Any,
    bptt: Any,
    promised: Any,
    tolerance: float,
    noise: float,
) -> WeightCheck:
    """Compare the gradients of one parameter; `noise` is what rounding adds to any of them."""
    a, b = _flat(online), _flat(bptt)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    product = norms[0] * norms[1]
    cosine = float(np.vdot(a, b).real / product) if product else float(norms[0] == norms[1])
    error, kept = None, None
    if promised is not None:
        wanted = _flat(promised)
        error = _relative(a, wanted)
        slack = tolerance * float(np.linalg.norm(wanted)) + noise
        kept = bool(np.linalg.norm(a - wanted) <= slack)
    return WeightCheck(path, verdict, *norms, cosine, _relative(a, b), error, kept)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    difference, size = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    return difference / size if size else (float('inf') if difference else 0.0)


def _flat(value: Any) -> np.ndarray:
    """All entries of a pytree as one wide vector, without units."""
    leaves = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(value)]
    wide = np.complex128 if any(map(np.iscomplexobj, leaves)) else np.float64
    return np.concatenate([leaf.astype(wide) for leaf in leaves] or [np.zeros(0)])


def _precision(learner: Any) -> float:
    """The coarsest precision of parameters, hidden states and trace."""
    states = (*learner.param_states.values(), *learner.hidden_states.values())
    held = ([s.value for s in states], learner._get_etrace_data())
    dtypes = {jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(held)}
    floats = [d for d in dtypes if jnp.issubdtype(d, jnp.inexact)]
    return max((float(jnp.finfo(d).eps) for d in floats), default=float(jnp.finfo(float).eps))


# ---------------------------------------------------------------- losses


def _summed(loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a loss a scalar without a unit: the sum of its elements."""
    return lambda out: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(loss(out)))


def _projection(out: Any) -> Any:
    """Project the outputs onto fixed random directions; of complex outputs the real part counts."""
    leaves = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not leaves:
        raise ValueError(
            explain_error(
                'output',
                'has nothing to take a gradient of',
                got=f'{[str(jnp.result_type(x)) for x in jax.tree.leaves(out)]}',
                expected='at least one array of floating-point or complex numbers',
                fix='Pass loss=..., a function that returns one.',
                code='ETA122',
            )
        )
    random = np.random.default_rng(0)
    terms = []
    for x in leaves:
        direction = random.normal(size=(2, *x.shape)) / np.sqrt(max(x.size, 1))
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            terms.append(jnp.sum((x * (direction[0] + 1j * direction[1])).real))
        else:
            wide = jnp.promote_types(x.dtype, jnp.float32)
            terms.append(jnp.sum(x.astype(wide) * direction[0].astype(wide)))
    return terms


# ---------------------------------------------------------------- checks


def _check_learner(learner: Any) -> None:
    if isinstance(learner, ETraceVjpAlgorithm):
        learner.graph  # noqa: B018  raises if there is none
        return
    raise TypeError(
        explain_error(
            'learner',
            'has no gradient to check',
            got=type(learner).__name__,
            expected='a learner, as etrace_algorithms.compile returns it',
            fix='Pass the learner and not its model.',
            code='ETA121',
        )
    )


def _check_values(losses: Any, expected: Any, tolerance: float) -> None:
    """Check that both runs saw the same values, without which gradients tell nothing."""
    a, b = np.asarray(losses, np.float64), np.asarray(expected, np.float64)
    scale = max(float(np.max(np.abs(b), initial=0)), np.finfo(float).tiny)
    off = ~(np.abs(a - b) <= max(tolerance, 1e-6) * scale) & ~(np.isnan(a) & np.isnan(b))
    if not off.any():
        return
    t = int(np.argmax(off))
    raise ValueError(
        explain_error(
            'model',
            'and its compiled graph do not compute the same',
            got=f'a loss of {a[t]:.6g} from the learner at step {t}',
            expected=f'{b[t]:.6g}, from the model',
            fix='Compile again if the model or brainstate.environ changed; if spikes flip by '
            'rounding, use float64 or a shorter sequence.',
            code='ETA124',
        )
    )
