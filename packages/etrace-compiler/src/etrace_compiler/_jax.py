"""The only door to parts of JAX that are not in the `jax` and `jax.numpy` namespaces.

Each function is one seam where supported versions differ, chosen by capability and
never by version number. A new JAX release should break this file and nothing else.
"""

import os
import sysconfig
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, NamedTuple

import jax
from jax.core import ShapedArray, Tracer, eval_jaxpr
from jax.extend.core import Literal, Primitive, primitives
from jax.interpreters import ad, batching, mlir

__all__ = [
    'LIBRARIES',
    'Literal',
    'Scan',
    'SourceLine',
    'bind_equation',
    'bodies',
    'body_key',
    'branches',
    'custom_rule_jaxpr',
    'custom_rule_key',
    'custom_rule_owner',
    'draws_by_batch',
    'evaluate_jaxpr',
    'forward_jaxpr',
    'has_effects',
    'inlinable_jaxpr',
    'is_traced',
    'new_primitive',
    'open_jaxpr',
    'primitive_named',
    'register_batching',
    'scan_of',
    'source_line',
    'traceback_of',
]

#: Call-like primitives whose body is spliced into the caller: parameter that holds it.
_INLINED = {
    'jit': 'jaxpr',
    'pjit': 'jaxpr',
    'closed_call': 'call_jaxpr',
    'core_call': 'call_jaxpr',
    'remat2': 'jaxpr',
    'checkpoint': 'jaxpr',
}

#: Call-like primitives that carry a derivative rule of their own.
_CUSTOM_RULE = {
    'custom_jvp_call': 'call_jaxpr',
    'custom_vjp_call': 'call_jaxpr',
    'custom_vjp_call_jaxpr': 'fun_jaxpr',
}

#: Folders of installed packages and of the standard library.
LIBRARIES = tuple({sysconfig.get_paths()[key] + os.sep for key in ('purelib', 'platlib', 'stdlib')})


class SourceLine(NamedTuple):
    """The place in the user's program that an equation came from."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f'{self.file}:{self.line} ({self.function})'


class Scan(NamedTuple):
    """A `scan`: its operands are constants, then carries, then sequences."""

    body: Any
    num_consts: int
    num_carry: int
    length: int
    reverse: bool


def open_jaxpr(jaxpr: Any) -> tuple[Any, tuple]:
    """Split a jaxpr, closed or open, into an open jaxpr and its constants."""
    consts = tuple(getattr(jaxpr, 'consts', ()) or ())
    return getattr(jaxpr, 'jaxpr', jaxpr), consts


def inlinable_jaxpr(eqn: Any) -> Any | None:
    """Return the body of an equation that may be spliced into its caller."""
    key = _INLINED.get(eqn.primitive.name)
    return None if key is None else eqn.params.get(key)


def custom_rule_jaxpr(eqn: Any) -> Any | None:
    """Return the body of an equation with its own derivative rule (`custom_jvp`, `custom_vjp`)."""
    key = _CUSTOM_RULE.get(eqn.primitive.name)
    return None if key is None else eqn.params.get(key)


def bodies(eqn: Any) -> list[Any]:
    """Return every jaxpr among the parameters of an equation, opened."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(item, 'jaxpr', item)
            if hasattr(inner, 'eqns'):
                found.append(inner)
    return found


def custom_rule_owner(eqn: Any) -> Any | None:
    """Return the function that is the derivative rule of a `custom_jvp`, where it can be found.

    Every call of `relu` is traced anew, but the rule behind it is one function.
    """
    rule, transforms, *_ = _custom_rule(eqn)
    return rule if transforms == ['_flatten_jvp'] else None


def custom_rule_key(eqn: Any) -> Hashable | None:
    """Return what is the same for calls of one `custom_jvp` that share a derivative rule.

    It is the rule, and the arguments that are not differentiated if they are plain values, or
    functions of plain values that they have captured.
    """
    rule, transforms, *given = _custom_rule(eqn)
    if transforms != ['_flatten_jvp', '_prepend_static_args']:
        return rule if transforms == ['_flatten_jvp'] else None
    values = tuple([_plain(v.val) for v in given[1][0]])
    return None if None in values else (rule, *values)


def _custom_rule(eqn: Any) -> tuple:
    """The derivative rule of a `custom_jvp`; names and arguments of what is done to its own."""
    wrapped = eqn.params.get('jvp_jaxpr_fun')
    for _ in range(3):  # a memo around a thunk around the rule
        cells = getattr(getattr(wrapped, 'f', wrapped), '__closure__', None) or ()
        inside = [cell.cell_contents for cell in cells]
        rule = [v for v in inside if hasattr(v, 'transforms') and callable(getattr(v, 'f', None))]
        if rule:
            names = [getattr(t[0], '__name__', '') for t in rule[0].transforms]
            return rule[0].f, names, *(t[1] for t in rule[0].transforms)
        wrapped = next((v for v in inside if getattr(v, '__closure__', None)), None)
    return None, []


def body_key(jaxpr: Any) -> Hashable:
    """Return what is the same for jaxprs that do the same; it may turn out not to be hashable."""
    inner, consts = open_jaxpr(jaxpr)
    number = {v: n for n, v in enumerate((*inner.constvars, *inner.invars))}

    def name(v: Any) -> Hashable:
        aval: Any = v.aval
        return (aval.shape, aval.dtype, str(v.val)) if isinstance(v, Literal) else number[v]

    parts: list[Hashable] = [tuple(map(id, consts))]
    for eqn in inner.eqns:
        operands = tuple(map(name, eqn.invars))
        number.update({v: len(number) + n for n, v in enumerate(eqn.outvars)})
        made = tuple([(v.aval.shape, v.aval.dtype) for v in eqn.outvars])
        parts.append((eqn.primitive, tuple(eqn.params.items()), operands, made))
    return (*parts, tuple(map(name, inner.outvars)))


def _plain(value: Any) -> Hashable | None:
    """What is the same for equal numbers and words, and for functions made anew of the same."""
    if isinstance(value, (bool, int, float, str)):
        return type(value), value
    if not isinstance(value, FunctionType) or value.__kwdefaults__:
        return None
    try:
        captured = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError:  # a cell that is empty yet
        return None
    parts = tuple([_plain(v) for v in (*captured, *(value.__defaults__ or ()))])
    return None if None in parts else (value.__code__, id(value.__globals__), parts)


def draws_by_batch(eqn: Any) -> bool:
    """Whether an equation draws random numbers that depend on what `vmap` adds to its operands.

    Keys of the implementations `rbg` and `unsafe_rbg` do.
    """
    drawn = eqn.primitive.name in ('random_bits', 'random_split', 'random_fold_in')
    keyed = drawn and 'rbg' in str(eqn.invars[0].aval.dtype)
    return keyed or eqn.primitive.name in ('rng_bit_generator', 'rng_uniform')


def scan_of(eqn: Any) -> Scan:
    """Take a `scan` equation apart."""
    p = eqn.params
    if 'ft_in' in p:
        consts, carry, _ = (len(list(part.vals)) for part in p['ft_in'].elts)
    else:
        consts, carry = p['num_consts'], p['num_carry']
    return Scan(p['jaxpr'], consts, carry, p['length'], p['reverse'])


def branches(eqn: Any) -> tuple[Any, ...]:
    """Return the branches of a `cond`, whose first operand is the index of the one taken."""
    return tuple(eqn.params['branches'])


def evaluate_jaxpr(closed_jaxpr: Any, *args: Any) -> list[Any]:
    """Evaluate a jaxpr, closed or open, on values."""
    jaxpr, consts = open_jaxpr(closed_jaxpr)
    return eval_jaxpr(jaxpr, consts, *args)


def has_effects(eqn: Any) -> bool:
    """Whether an equation does something beside computing its results (printing, a callback)."""
    return bool(eqn.effects)


def bind_equation(primitive: Any, params: dict, args: Sequence) -> list:
    """Evaluate one equation on values, keeping its custom derivative rules."""
    bind_params = getattr(primitive, 'get_bind_params', lambda p: p)(params)
    out = primitive.bind(*args, **bind_params)
    return list(out) if primitive.multiple_results else [out]


def traceback_of(eqn: Any) -> Any:
    """Return the stack that made an equation, the same value for the same place; maybe `None`."""
    return eqn.source_info.traceback


def source_line(eqn: Any, skip: tuple[str, ...] = ()) -> SourceLine | None:
    """Find the innermost frame of the user's own code that made an equation.

    Args:
        eqn: A jaxpr equation.
        skip: Path prefixes that do not count as the user's code, besides the
            installed libraries and the standard library.
    """
    traceback = traceback_of(eqn)
    if traceback is None:
        return None
    outside = ('<', *LIBRARIES, *skip)
    for code, last in zip(*traceback.raw_frames(), strict=True):
        if not code.co_filename.startswith(outside):
            line = traceback.code_addr2line(code, last)
            return SourceLine(code.co_filename, line, code.co_qualname)
    return None


def is_traced(tree: Any) -> bool:
    """Whether any leaf of a pytree is an abstract value of a transformation that is under way."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def new_primitive(name: str, forward: Callable, like: Callable) -> Any:
    """Make a primitive that behaves like `forward` under jit, grad and abstract evaluation.

    The derivative is that of `forward`: tangents leave the primitive as ordinary operations,
    so that no transposition rule is needed. A vmap rule is added with `register_batching`.

    Args:
        name: Name of the primitive.
        forward: The function.
        like: `(*shapes, **params)` to something with the `shape` of the result, for operands of
            one dtype, which is kept; `None` for what only a trace of `forward` tells.
    """
    primitive = Primitive(name)

    def abstract(*avals: Any, **params: Any) -> Any:
        dtype, known = avals[0].dtype, None
        if all([v.dtype == dtype for v in avals]):
            known = like(*[v.shape for v in avals], **params)
        if known is None:
            (known,) = forward_jaxpr(forward, avals, params).out_avals
            dtype = known.dtype
        return ShapedArray(known.shape, dtype)

    def jvp(primals: Sequence, tangents: Sequence, **params: Any) -> tuple:
        out = primitive.bind(*primals, **params)
        active = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]
        if not active:
            return out, ad.Zero(jax.typeof(out).to_tangent_aval())

        def of_active(*values: Any) -> Any:
            args = list(primals)
            for i, value in zip(active, values, strict=True):
                args[i] = value
            return forward(*args, **params)

        _, tangent = jax.jvp(of_active, [primals[i] for i in active], [tangents[i] for i in active])
        return out, tangent

    primitive.def_impl(forward)
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    mlir.register_lowering(primitive, mlir.lower_fun(forward, multiple_results=False))
    return primitive


def forward_jaxpr(forward: Callable, avals: Sequence, params: Mapping[str, Any]) -> Any:
    """Trace the forward function of an operator, once for the same shapes, dtypes and parameters.

    Args:
        forward: The function.
        avals: What has the shapes and dtypes of its arguments.
        params: Its parameters.
    """
    shapes = tuple([(v.shape, v.dtype) for v in avals])
    fixed = tuple(params.items())
    wide = jax.dtypes.canonicalize_dtype(float)  # a function may make numbers of its own
    try:
        return _traced(forward, shapes, fixed, wide)
    except TypeError:  # parameters that cannot be compared
        return _traced.__wrapped__(forward, shapes, fixed, wide)


@lru_cache(maxsize=256)
def _traced(forward: Callable, shapes: tuple, params: tuple, _: Any) -> Any:
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return jax.make_jaxpr(partial(forward, **dict(params)))(*structs)


def primitive_named(name: str) -> Any:
    """Return the primitive of a name, among those of JAX and those that have a derivative.

    Raises:
        KeyError: If there is none.
    """
    known = {p.name: p for p in vars(primitives).values() if isinstance(p, Primitive)}
    for table in (ad.primitive_jvps, ad.primitive_transposes):
        known.update({p.name: p for p in list(table)})
    return known[name]


def register_batching(primitive: Any, rule: Callable) -> None:
    """Attach a vmap rule `(args, axes, **params) -> (out, axis)`; axis `None` is unbatched."""
    batching.primitive_batchers[primitive] = rule
