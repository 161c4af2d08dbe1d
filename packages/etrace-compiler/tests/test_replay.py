"""Parts of a jaxpr, evaluated with the results of a named call given from outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import Replay


def credit(a, b):
    return jnp.sin(a) * b, a - b


credit.__name__ = 'the_call'
called = jax.jit(credit)


@jax.custom_vjp
def clipped(w):
    return w


clipped.defvjp(lambda w: (w, None), lambda _, c: (jnp.clip(c, -0.1, 0.1),))


@jax.custom_vjp
def doubled(w):
    return w


doubled.defvjp(lambda w: (w, None), lambda _, c: (2 * c,))


@jax.custom_jvp
def ruled(w):
    return w


ruled.defjvp(lambda p, t: (p[0], 3 * t[0]))


def replay(function, *args):
    return Replay(jax.make_jaxpr(function)(*args), 'the_call')


def example(x, y, z):
    """Results that need the call, its operands, neither, and a constant."""
    a = x * jnp.arange(3.0)
    left, right = called(a, 2.0)
    return left + y, jnp.cos(right).sum(), a + 1, z, 4.0


ARGS = tuple(jnp.array([1.0, 2.0, 3.0]) + i for i in range(3))


def check(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), actual, expected)


def test_with_the_results_of_the_call_it_is_the_function():
    found = replay(example, *ARGS)
    assert (found.calls, found.replaceable) == (1, True)
    part = found.part(range(5), (0, 1))
    assert part.inputs == {0, 1, 2}
    assert not part.effects
    operands = ARGS[0] * jnp.arange(3.0), 2.0
    results, wanted = part(dict(enumerate(ARGS)), credit(*operands))
    check(results, list(example(*ARGS)))
    check(wanted, list(operands))
    (first, second) = found.operand_shapes((0, 1))
    assert (first.shape, second.shape) == ((3,), ())


def test_the_same_value_is_known_by_its_source():
    stop = jax.lax.stop_gradient

    def function(x, y):
        a = jnp.sin(y)
        called(stop(x), stop(stop(a)))
        return x, stop(a), x + 1, y, a * 1

    x, a, *others = replay(function, *ARGS[:2]).sources(range(5))
    found = replay(function, *ARGS[:2])
    assert found.sources(operands=(0,)) == [0]
    assert (x, others[1]) == (0, 1)
    assert found.sources((1,), (1,)) == [a, a]
    assert len({x, a, *others}) == 5


def test_the_call_is_replaced_by_what_is_given():
    part = replay(example, *ARGS).part((0, 1))
    zeros = jnp.zeros(3)
    (first, second), _ = part(dict(enumerate(ARGS)), (zeros, zeros))
    check(first, ARGS[1])
    check(second, 3.0)
    tangent = jax.jvp(
        lambda t: part(dict(enumerate(ARGS)), (t, zeros))[0][0], (zeros,), (zeros + 1,)
    )
    check(tangent[1], zeros + 1)


@pytest.mark.parametrize(
    ('results', 'operands', 'inputs', 'reads_call'),
    [
        ((), (), set(), False),
        ((), (0,), {0}, False),
        ((), (1,), set(), False),
        ((2,), (), {0}, False),
        ((3,), (), {2}, False),
        ((4,), (), set(), False),
        ((1,), (), set(), True),
        ((0,), (), {1}, True),
        ((2, 0), (), {0, 1}, True),
    ],
)
def test_only_what_is_needed_is_read(results, operands, inputs, reads_call):
    part = replay(example, *ARGS).part(results, operands)
    assert part.inputs == inputs
    given = {i: ARGS[i] for i in inputs}
    found, _ = part(given, credit(ARGS[0] * jnp.arange(3.0), 2.0) if reads_call else ())
    check(found, [example(*ARGS)[i] for i in results])


def never(x):
    return jnp.sin(x)


def twice(x):
    return called(*called(x, x))[0]


def in_a_scan(x):
    return jax.lax.scan(lambda c, _: (called(c, c)[0], None), x, None, length=2)[0]


def in_a_branch(x):
    return jax.lax.cond(x.sum() > 0, lambda x: called(x, x)[0], jnp.sin, x)


def in_a_custom_rule(x):
    ruled = jax.custom_jvp(lambda x: called(x, x)[0])
    ruled.defjvp(lambda p, t: (ruled(*p), t[0]))
    return ruled(x)


def beside_one_in_a_loop(x):
    return called(x, x)[0] + in_a_scan(x)


@pytest.mark.parametrize(
    ('function', 'calls'),
    [
        (never, 0),
        (twice, 2),
        (in_a_scan, 1),
        (in_a_branch, 1),
        (in_a_custom_rule, 1),
        (beside_one_in_a_loop, 2),
    ],
)
def test_what_cannot_be_replaced(function, calls):
    found = replay(function, ARGS[0])
    assert found.calls == calls
    assert not found.replaceable


@pytest.mark.parametrize('wrap', [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_a_call_inside_functions_that_mean_nothing_is_replaced(wrap):
    inner = wrap(lambda x: called(x * jnp.arange(3.0), x)[0] + 1)
    found = replay(lambda x: 2 * inner(x), ARGS[0])
    assert found.replaceable
    ((result,), _) = found.part((0,))({0: ARGS[0]}, (jnp.ones(3), None))
    check(result, 4 * jnp.ones(3))


def test_another_function_under_jit_is_left_alone():
    other = jax.jit(lambda x: jnp.sin(x))
    assert replay(lambda x: other(called(x, x)[0]), ARGS[0]).calls == 1


@pytest.mark.parametrize('inside', [False, True])
def test_effects_are_kept_where_they_are_asked_for(inside, capsys):
    def loud(x):
        jax.debug.print('seen {}', x[0])
        return x + 1

    run = jax.jit(loud) if inside else loud

    def function(x):
        return called(run(2 * x), x)[1] * 0, x * 3

    found = replay(function, ARGS[0])
    silent, heard = found.part((1,)), found.part((1,), effects=True)
    assert (silent.effects, heard.effects) == (False, True)
    assert not found.part((1,), (0,)).effects  # printing beside what is computed
    silent({0: ARGS[0]})
    jax.effects_barrier()
    assert capsys.readouterr().out == ''
    (result,), _ = heard({0: ARGS[0]})
    jax.effects_barrier()
    assert capsys.readouterr().out == 'seen 2.0\n'
    check(result, 3 * ARGS[0])


def loop(rule):
    return lambda x, w: jax.lax.scan(lambda c, _: (c * rule(w), None), x, None, length=2)[0]


@pytest.mark.parametrize(
    ('function', 'bends'),
    [
        (lambda x, w: x * w, False),
        (lambda x, w: x * clipped(w), True),
        (lambda x, w: x * clipped(jnp.sin(w) ** 2), True),
        (lambda x, w: x * doubled(w), False),
        (lambda x, w: x * ruled(w), False),
        (lambda x, w: clipped(x * w), False),  # evaluated for each input by itself
        (lambda x, w: clipped(x) * w, False),
        (lambda x, w: x * jax.jit(clipped)(w), True),
        (lambda x, w: jax.jit(lambda x, w: x * clipped(w))(x, w), True),
        (lambda x, w: jax.jit(lambda x, w: x * doubled(w))(x, w), False),
        (loop(clipped), True),
        (loop(doubled), False),
    ],
)
def test_rules_that_are_not_linear_in_a_parameter_alone(function, bends):
    def step(x, w):
        return function(x, w) + called(x, x)[0]

    part = replay(step, *ARGS[:2]).part((0,))
    assert part.bends({1}, {0}) is bends
    assert part.bends((), {0}) is False


@pytest.mark.parametrize(
    ('kind', 'anew'), [('threefry2x32', False), ('rbg', True), ('unsafe_rbg', True)]
)
@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit])
def test_random_numbers_that_vmap_changes(kind, anew, wrap):
    """The check says what `jax.vmap` does."""
    draw = wrap(lambda key: jax.random.normal(jax.random.split(key)[0], (2,)))
    keys = jax.random.split(jax.random.key(0, impl=kind), 3)
    found = replay(draw, keys[0]).part((0,))
    assert found.draws_anew is anew
    assert (not np.array_equal(jax.vmap(draw)(keys)[1], draw(keys[1]))) is anew
    assert not replay(lambda key: 1.0, keys[0]).part((0,)).draws_anew


# ---------------------------------------------------------------- products that are known


def shared(x, w):
    """One product in three places: before the call, and with stopped derivatives and zeros."""
    y = jnp.tanh(x @ w)
    zero, _ = called(y, x @ jnp.cos(w))
    again = jax.lax.stop_gradient(x) @ w + (x + zero.reshape(x.shape)) @ w
    return y, again.sum() + (w @ x).sum()


SQUARE = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.5, 0.1], [-0.3, 0.2]])


def test_equal_products_are_known_as_one():
    found = replay(shared, *SQUARE)
    first, second = found.part([0]), found.part([1], (1,))
    common = first.products.keys() & second.products.keys()
    assert (len(first.products), len(second.products), len(common)) == (1, 3, 1)
    (number,) = first.products.values()
    (shape,) = found.value_shapes([number])
    assert (shape.shape, shape.dtype) == ((2, 2), SQUARE[0].dtype)
    (_, value), _ = found.part([0], values=[number])(dict(enumerate(SQUARE)))
    check(value, SQUARE[0] @ SQUARE[1])


def test_a_known_product_is_not_computed_but_differentiated():
    found = replay(shared, *SQUARE)
    part = found.part([1])
    (kind,) = found.part([0]).products
    zeros = [jnp.zeros_like(SQUARE[0])] * 2

    def total(x, w, scale=None):
        known = None if scale is None else {kind: scale * (SQUARE[0] @ SQUARE[1])}
        return part({0: x, 1: w}, zeros, known)[0][0]

    plain, pulled = jax.value_and_grad(total, (0, 1))(*SQUARE)
    value, slopes = jax.value_and_grad(total, (0, 1))(*SQUARE, 1.0)
    check((value, slopes), (plain, pulled))
    doubled, same = jax.value_and_grad(total, (0, 1))(*SQUARE, 2.0)
    np.testing.assert_allclose(doubled - value, 2 * (SQUARE[0] @ SQUARE[1]).sum(), rtol=1e-6)
    check(same, pulled)
    many = jax.vmap(jax.grad(total), (0, None, None))(jnp.stack([SQUARE[0]] * 2), SQUARE[1], 1.0)
    check(many, jnp.stack([pulled[0]] * 2))


def test_what_is_equal_is_said_with_care():
    """Other operands, other parameters, and what cannot be compared are other values."""

    def function(x, w):
        called(x, w)
        return (x @ w, w @ x, (x + 1.0) @ w, jnp.dot(x, w, precision='highest'),
                (x + 0.0) @ w, x.T @ w)  # fmt: skip

    found = replay(function, *SQUARE)
    kinds = [next(iter(found.part([i]).products)) for i in range(6)]
    assert len(set(kinds)) == 6
