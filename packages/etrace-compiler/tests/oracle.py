"""Slow and simple counterparts of what the compiler computes, to compare it with."""

import pathlib

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import path_key
from etrace_compiler.interpret import run
from etrace_compiler.program import Const, Var, apply_equation, is_differentiable


def text_at(source):
    """The line of the user's program that a source names."""
    return pathlib.Path(source.file).read_text().splitlines()[source.line - 1]


def values_of(model_or_graph):
    """Current values of all states that a graph's step touches, by key."""
    live = model_or_graph.module_info.retrieved_model_states
    return {s.key: live[s.path].value for s in model_or_graph.module_info.states}


def pure_step(model, *args):
    """The model's own step as a function `(values by key, *args) -> (out, new values)`.

    It is brainstate's trace of the model and knows nothing of the compiler. States without a
    value given keep the one that they have.
    """
    function = brainstate.transform.StatefulFunction(model, return_only_write=False)
    function.make_jaxpr(*args)
    states = function.get_states(*args)
    paths = {id(state): path_key(path) for path, state in model.states().items()}
    names = [paths.get(id(state), f'outside {i}') for i, state in enumerate(states)]

    def step(values, *args):
        values = {**{n: s.value for n, s in zip(names, states, strict=True)}, **values}
        new, out = function.jaxpr_call([values[n] for n in names], *args)
        return out, dict(zip(names, new, strict=True))

    return step


def call_model(model, *args):
    """Call a model as a user does and return `(out, new values by key)`; states are put back."""
    live = {path_key(path): state for path, state in model.states().items()}
    before = {key: state.value for key, state in live.items()}
    out = model(*args)
    after = {key: state.value for key, state in live.items()}
    for key, value in before.items():
        live[key].value = value
    return out, after


def hidden_values(model):
    """Values of the hidden states by key."""
    states = model.states(brainstate.HiddenState).items()
    return {path_key(path): state.value for path, state in states}


def dense_jacobian(model, *args):
    """Derivative of every new hidden state with respect to every old one: `J[new][old]`."""
    old = hidden_values(model)
    step = pure_step(model, *args)

    def new_hidden(h):
        new = step(h, *args)[1]
        return {key: new[key] for key in old}

    return jax.jit(jax.jacrev(new_hidden))(old)


def cut_jacobians(program, inputs, wanted):
    """Derivatives of variables with respect to others, where cut operands pass nothing.

    Dense Jacobians go forward, equation by equation; nothing is shared with the compiler's
    own evaluators beside the list of equations.

    Args:
        program: A flat program.
        inputs: Values of its inputs.
        wanted: Triples (source, targets, cut operands).
    """

    def everything(inputs):
        env = run(program, inputs)
        return [_forward(program, env, *one) for one in wanted]

    return jax.jit(everything)(inputs)


def _forward(program, env, source, targets, cut):
    eye = jnp.eye(int(np.prod(source.shape)), dtype=source.dtype)
    known = {source: eye.reshape((*source.shape, *source.shape))}
    for i, eqn in enumerate(program.equations):
        values = [env(v) for v in eqn.inputs]
        smooth = [j for j, v in enumerate(eqn.outputs) if is_differentiable(v)]
        for k, v in enumerate(eqn.inputs):
            if not isinstance(v, Var) or v not in known or (i, k) in cut:
                continue

            def of_operand(value, eqn=eqn, values=values, k=k, smooth=smooth):
                outs = apply_equation(eqn, [*values[:k], value, *values[k + 1 :]])
                return [outs[j] for j in smooth]

            for j, local in zip(smooth, jax.jacrev(of_operand)(values[k]), strict=True):
                u = eqn.outputs[j]
                if u is not source:
                    part = jnp.tensordot(local, known[v], axes=len(v.shape))
                    known[u] = known[u] + part if u in known else part
    zeros = [jnp.zeros((*v.shape, *source.shape)) for v in targets]
    return [z if isinstance(v, Const) else known.get(v, z)
            for v, z in zip(targets, zeros, strict=True)]  # fmt: skip


def position_matrix(group, new, old, tensor):
    """Bring a derivative of one state with respect to another into `(P, S_new, P, S_old)`."""
    return tensor.reshape((group.positions, new.num_state, group.positions, old.num_state))


def diagonal_of(group, tensors):
    """Position-diagonal `(P, S, S)` of `tensors[new][old]`, and the largest entry beside it."""
    rows, beside = [], 0.0
    for new, row in zip(group.hidden_states, tensors, strict=True):
        blocks = []
        for old, tensor in zip(group.hidden_states, row, strict=True):
            full = position_matrix(group, new, old, tensor)
            block = jnp.einsum('pspr->psr', full)
            eye = jnp.eye(group.positions)[:, None, :, None]
            beside = max(beside, float(jnp.abs(full * (1 - eye)).max()))
            blocks.append(block)
        rows.append(jnp.concatenate(blocks, axis=2))
    return jnp.concatenate(rows, axis=1), beside
