"""Programs as plain data: to be stored, sent, and compared.

A primitive is stored by its name. An equation that holds jaxprs or functions is stored as the
programs that it is made of, derivative rules included, and comes back as a call of these.
"""

import copyreg
import hashlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import _jax
from etrace_compiler.errors import explain_error
from etrace_compiler.flatten import Flattener, flatten_jaxpr
from etrace_compiler.interpret import run
from etrace_compiler.ops import Operator, operator_named
from etrace_compiler.program import (
    Atom,
    Const,
    Equation,
    Loop,
    Program,
    Structure,
    Var,
    is_differentiable,
)

__all__ = ['fingerprint', 'jaxpr_fingerprint']

_ADDRESS = re.compile(' at 0x[0-9a-f]+')


@dataclass(frozen=True)
class Call:
    """Stands in the place of a primitive whose parameters are programs.

    Attributes:
        name: Name of the primitive.
        programs: What it is made of, in the order that its kind asks for.
        facts: Further parameters, as plain data.
    """

    name: str
    programs: tuple[Program, ...]
    facts: tuple[Any, ...] = ()
    multiple_results = True

    def bind(self, *args: Any) -> Sequence[Any]:
        """Evaluate the equation."""
        return _CALLS[self.name](self, args)


def _evaluate(program: Program, args: Sequence[Any]) -> tuple[Any, ...]:
    read = run(program, args)
    return tuple(jnp.asarray(read(v)) for v in program.outputs)


def _scan(call: Call, args: Sequence[Any]) -> list[Any]:
    num_consts, num_carry, length, reverse = call.facts
    consts, carry = args[:num_consts], args[num_consts : num_consts + num_carry]

    def body(carry: Sequence, x: Sequence) -> tuple:
        out = _evaluate(call.programs[0], (*consts, *carry, *x))
        return out[:num_carry], out[num_carry:]

    last, ys = jax.lax.scan(body, tuple(carry), tuple(args[num_consts + num_carry :]),
                            length=length, reverse=reverse)  # fmt: skip
    return [*last, *ys]


def _cond(call: Call, args: Sequence[Any]) -> tuple[Any, ...]:
    branches = [lambda *a, p=p: _evaluate(p, a) for p in call.programs]
    return jax.lax.switch(args[0], branches, *args[1:])


def _while(call: Call, args: Sequence[Any]) -> tuple[Any, ...]:
    of_cond, of_body = call.facts
    ahead, consts, carry = np.split(np.arange(len(args)), [of_cond, of_cond + of_body])
    cond, body = call.programs
    return jax.lax.while_loop(
        lambda c: _evaluate(cond, (*(args[i] for i in ahead), *c))[0],
        lambda c: _evaluate(body, (*(args[i] for i in consts), *c)),
        tuple(args[i] for i in carry),
    )


def _nothing(v: Any) -> np.ndarray:
    """The tangent of a whole number."""
    return np.zeros(v.shape, jax.dtypes.float0)


def _custom_jvp(call: Call, args: Sequence[Any]) -> tuple[Any, ...]:
    body, rule = call.programs

    @jax.custom_jvp
    def function(*args: Any) -> tuple[Any, ...]:
        return _evaluate(body, args)

    @function.defjvp
    def _(primals: Sequence, tangents: Sequence) -> tuple[tuple, tuple]:
        moving = [t for t, v in zip(tangents, body.inputs, strict=True) if is_differentiable(v)]
        found = _evaluate(rule, (*primals, *moving))
        values, moved = found[: len(body.outputs)], iter(found[len(body.outputs) :])
        return values, tuple(
            next(moved) if is_differentiable(v) else _nothing(v) for v in body.outputs
        )

    return function(*args)


def _custom_vjp(call: Call, args: Sequence[Any]) -> tuple[Any, ...]:
    body, forward, backward = call.programs

    @jax.custom_vjp
    def function(*args: Any) -> tuple[Any, ...]:
        return _evaluate(body, args)

    def fwd(*args: Any) -> tuple[tuple, tuple]:
        found = _evaluate(forward, args)
        return found[: len(body.outputs)], found[len(body.outputs) :]

    def bwd(kept: tuple, cotangents: tuple) -> tuple:
        smooth = [c for c, v in zip(cotangents, body.outputs, strict=True) if is_differentiable(v)]
        found = iter(_evaluate(backward, (*kept, *smooth)))
        return tuple(next(found) if is_differentiable(v) else None for v in body.inputs)

    function.defvjp(fwd, bwd)
    return function(*args)


_SCATTERS: dict[str, Callable[..., Any]] = {
    'scatter-add': jax.lax.scatter_add,
    'scatter-sub': jax.lax.scatter_sub,
    'scatter-mul': jax.lax.scatter_mul,
    'scatter-min': jax.lax.scatter_min,
    'scatter-max': jax.lax.scatter_max,
}


def _scatter(call: Call, args: Sequence[Any]) -> list[Any]:
    return [_SCATTERS[call.name](*args, **dict(call.facts))]


_CALLS: dict[str, Callable[[Call, Sequence[Any]], Sequence[Any]]] = {
    'scan': _scan,
    'cond': _cond,
    'while': _while,
    'custom_jvp_call': _custom_jvp,
    'custom_vjp_call': _custom_vjp,
    'custom_vjp_call_jaxpr': _custom_vjp,
    'silent': lambda call, args: [],
    **dict.fromkeys(_SCATTERS, _scatter),
}


# ---------------------------------------------------------------- from an equation to a call


def as_call(eqn: Equation) -> Call | None:
    """The call that an equation can be stored as; `None` if its parameters are plain data."""
    if isinstance(eqn.primitive, Call):
        return eqn.primitive
    if not eqn.outputs:  # printing may call anything, and is left out
        return Call('silent', ())
    if eqn.name == 'scan':
        scan = _jax.scan_of(eqn)
        facts = (scan.num_consts, scan.num_carry, scan.length, scan.reverse)
        return Call('scan', (flatten_jaxpr(scan.body),), facts)
    if eqn.name == 'cond':
        return Call('cond', tuple(map(flatten_jaxpr, _jax.branches(eqn))))
    if eqn.name == 'while':
        p = eqn.params
        bodies = (flatten_jaxpr(p['cond_jaxpr']), flatten_jaxpr(p['body_jaxpr']))
        return Call('while', bodies, (p['cond_nconsts'], p['body_nconsts']))
    if eqn.name in _SCATTERS:
        names = ('dimension_numbers', 'indices_are_sorted', 'unique_indices', 'mode')
        return Call(eqn.name, (), tuple((n, eqn.params[n]) for n in names))
    body = _jax.custom_rule_jaxpr(eqn)
    if body is None:
        return None
    rule = _jvp_rule if eqn.name == 'custom_jvp_call' else _vjp_rules
    return Call(eqn.name, (flatten_jaxpr(body), *rule(eqn)))


def _structs(variables: Sequence[Any], only_smooth: bool = False) -> list[jax.ShapeDtypeStruct]:
    return [
        jax.ShapeDtypeStruct(v.shape, v.dtype)
        for v in variables
        if is_differentiable(v) or not only_smooth
    ]


def _applied(eqn: Equation) -> Callable[..., tuple[Any, ...]]:
    return lambda *args: tuple(_jax.bind_equation(eqn.primitive, dict(eqn.params), args))


def _jvp_rule(eqn: Equation) -> tuple[Program]:
    """The derivative rule of a `custom_jvp`, as a program of values and tangents."""

    def rule(primals: Sequence, tangents: Sequence) -> tuple:
        moving = iter(tangents)
        every = [next(moving) if is_differentiable(v) else _nothing(v) for v in eqn.inputs]
        values, moved = jax.jvp(_applied(eqn), tuple(primals), tuple(every))
        pairs = zip(moved, eqn.outputs, strict=True)
        return values, [t for t, v in pairs if is_differentiable(v)]

    structs = _structs(eqn.inputs), _structs(eqn.inputs, only_smooth=True)
    return (_first_order(jax.make_jaxpr(rule)(*structs)),)


def _first_order(closed_jaxpr: Any) -> Program:
    """Flatten a derivative rule; functions inside it lose rules of their own.

    A rule often calls the function that it belongs to, and is not itself differentiated.
    """

    def plain(flat: Flattener, eqn: Any, operands: Any, source: Any) -> tuple[Atom, ...] | None:
        body = _jax.custom_rule_jaxpr(eqn)
        return None if body is None else flat.splice(body, operands, source)

    return flatten_jaxpr(closed_jaxpr, plain)


def _vjp_rules(eqn: Equation) -> tuple[Program, Program]:
    """The two halves of the derivative rule of a `custom_vjp`, as programs."""
    kept: dict[str, Any] = {}

    def forward(args: Sequence) -> tuple:
        given = list(args)

        def smooth(*moving: Any) -> tuple:
            values = iter(moving)
            pairs = zip(given, eqn.inputs, strict=True)
            return _applied(eqn)(*(next(values) if is_differentiable(v) else a for a, v in pairs))

        pairs = zip(given, eqn.inputs, strict=True)
        values, pull = jax.vjp(smooth, *(a for a, v in pairs if is_differentiable(v)))
        leaves, kept['tree'] = jax.tree.flatten(pull)
        kept['leaves'] = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves]
        return values, leaves

    def backward(leaves: Sequence, cotangents: Sequence) -> Any:
        smooth = iter(cotangents)
        every = tuple(next(smooth) if is_differentiable(v) else _nothing(v) for v in eqn.outputs)
        return kept['tree'].unflatten(leaves)(every)

    first = jax.make_jaxpr(forward)(_structs(eqn.inputs))
    second = jax.make_jaxpr(backward)(kept['leaves'], _structs(eqn.outputs, only_smooth=True))
    return _first_order(first), _first_order(second)


# ---------------------------------------------------------------- pickle


@lru_cache
def _primitive(name: str) -> Any:
    return _jax.primitive_named(name)


def _restore(name: str, call: Call | None, params: dict, *rest: Any) -> Equation:
    inputs, outputs, source, loop = rest
    if call is not None:
        return Equation(call, {}, inputs, outputs, source, loop)
    if name in Structure.__members__:
        primitive: Any = Structure[name]
    else:
        try:
            primitive = operator_named(name).primitive
        except KeyError:
            primitive = _primitive(name)
    return Equation(primitive, params, inputs, outputs, source, loop)


def _reduce_equation(eqn: Equation) -> tuple:
    call = as_call(eqn)
    if call is None and _jax.bodies(eqn):
        raise pickle.PicklingError(
            explain_error(
                eqn.name,
                'cannot be stored',
                got='an operation whose parameters are functions of jax',
                expected='loops, branches, functions with derivative rules, or plain parameters',
                fix='Compile the model again where the graph is needed.',
                code='ETC116',
                where=eqn.source,
            )
        )
    params = {} if call is not None else dict(eqn.params)
    rest = (eqn.inputs, eqn.outputs, eqn.source, eqn.loop)
    return _restore, (eqn.name, call, params, *rest)


def _reduce_program(program: Program) -> tuple:
    # without what was derived from the fields
    return Program, tuple(getattr(program, f.name) for f in fields(program))


def _reduce_const(const: Const) -> tuple:
    value = const.value
    if isinstance(value, np.ndarray):  # also what jax makes of literals, which does not survive
        value = np.array(value)
    return Const, (value,)


copyreg.pickle(Const, _reduce_const)
copyreg.pickle(Equation, _reduce_equation)
copyreg.pickle(Program, _reduce_program)
copyreg.pickle(Operator, lambda operator: (operator_named, (operator.name,)))


# ---------------------------------------------------------------- fingerprints


def fingerprint(*values: Any) -> str:
    """Return a short text that is the same for the same mathematics.

    Variables are numbered in the order in which they are met; lines of source code, live objects
    and addresses have no part in it.

    Args:
        *values: Programs, dataclasses, arrays, containers and plain values.
    """
    digest = hashlib.sha256()
    for token in _tokens(values, {}):
        digest.update(token)
        digest.update(b'\0')
    return digest.hexdigest()[:32]


def jaxpr_fingerprint(closed_jaxpr: Any) -> str:
    """Return the same text for the same mathematics, in every process; see `fingerprint`.

    Example:
        >>> square = jax.make_jaxpr(lambda x: x * x)(1.0)
        >>> jaxpr_fingerprint(square) == jaxpr_fingerprint(jax.make_jaxpr(lambda y: y * y)(2.0))
        True
        >>> jaxpr_fingerprint(square) == jaxpr_fingerprint(jax.make_jaxpr(lambda y: y + y)(2.0))
        False
    """
    return fingerprint(flatten_jaxpr(closed_jaxpr))


def _tokens(value: Any, numbers: dict[Any, int]) -> Iterator[bytes]:
    if isinstance(value, Var):
        known = value in numbers
        number = numbers.setdefault(value, len(numbers))
        yield f'v{number}'.encode() if known else f'v{number}{value!r}'.encode()
    elif isinstance(value, Const):
        yield from _tokens(value.value, numbers)
    elif isinstance(value, Loop):
        yield f'loop{numbers.setdefault(value, len(numbers))} {value.length}'.encode()
    elif isinstance(value, Equation):
        call = as_call(value)
        yield (call or value).name.encode()
        yield from _tokens(value.params if call is None else (call.programs, call.facts), numbers)
        yield from _tokens((value.inputs, value.outputs, value.loops), numbers)
    elif isinstance(value, Operator):
        yield value.name.encode()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _tokens(value[key], numbers)
        yield b'}'
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        yield from _tokens([getattr(value, f.name) for f in fields(value)], numbers)
    elif isinstance(value, (tuple, list)):
        yield f'({len(value)}'.encode()
        for item in value:
            yield from _tokens(item, numbers)
    elif isinstance(value, Enum):
        yield value.name.encode()
    elif hasattr(value, 'dtype') and hasattr(value, 'shape'):
        yield from _array_tokens(value)
    elif callable(value) and hasattr(value, '__qualname__'):
        yield value.__qualname__.encode()
    else:
        yield _ADDRESS.sub('', repr(value)).encode()


def _array_tokens(value: Any) -> Iterator[bytes]:
    yield f'{value.dtype}{list(value.shape)}'.encode()
    if isinstance(value, jax.ShapeDtypeStruct):
        return
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    yield np.asarray(value).tobytes()
