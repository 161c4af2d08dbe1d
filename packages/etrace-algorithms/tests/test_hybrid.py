"""Different rules for different weights, given by pattern or chosen by memory."""

import functools
import pickle
import random
from dataclasses import dataclass
from typing import ClassVar, Literal

import brainstate
import jax
import jax.numpy as jnp
import pytest

import etrace_algorithms as ea
from etrace_algorithms.memory import choose_costs
from etrace_algorithms.rules import DiagonalRTRL
from etrace_algorithms.testing import (
    DiagonalLSTM,
    PlainRNN,
    assert_gradients_close,
    bptt_gradients,
    online_gradients,
)
from etrace_compiler import (
    conv,
    element_wise,
    embedding,
    grouped_matmul,
    lora_matmul,
    matmul,
)

from .measured import parameter, values
from .window_models import check_windows, inputs, loss

DECAY = {'decay_or_rank': 0.6}
RULES = {'w': 'd_rtrl', 'tau': 'immediate', 'u': ('pp_prop', DECAY), '*': 'd_rtrl'}


class Mixed(PlainRNN):
    """Fused recurrence with a bias, a leak, one weight used twice, and a low-rank product."""

    def __init__(self):
        super().__init__()
        self.tau = parameter(4, seed=51)
        self.u = parameter(3, 4, seed=52)
        self.p, self.q = parameter(3, 2, seed=53), parameter(2, 4, seed=54)

    def update(self, x):
        z = jnp.concatenate([x, self.h.value], axis=-1)
        drive = jnp.tanh(matmul(z, self.w.value, self.b.value))
        drive += matmul(x, self.u.value) * jnp.sin(matmul(x**2, self.u.value))
        drive += matmul(jnp.cos(x), self.p.value @ self.q.value)
        self.h.value = jax.nn.sigmoid(element_wise(self.tau.value)) * self.h.value + drive
        return self.read(self.h.value)


def ready(rules, model=Mixed, **options):
    return ea.compile(model(), rules, inputs(1)[0], batch_size=2, seed=0, **options)


@functools.cache
def alone(name, method):
    """The gradient of one rule for all weights."""
    options = DECAY if name == 'pp_prop' else {}
    learner = ready(name, vjp_method=method, **options)
    return online_gradients(learner, inputs(5), loss=loss, chunk_size=2)


@pytest.mark.parametrize('method', ['single-step', 'multi-step'])
def test_every_weight_has_the_gradient_of_its_own_rule(method):
    learner = ready(RULES, vjp_method=method)
    found = online_gradients(learner, inputs(5), loss=loss, chunk_size=2)
    rule_of = {'w': 'd_rtrl', 'b': 'd_rtrl', 'tau': 'immediate', 'u': 'pp_prop', 'p': 'd_rtrl',
               'q': 'd_rtrl', 'readout': 'd_rtrl'}  # fmt: skip
    assert found.keys() == {(key,) for key in rule_of}
    for key, name in rule_of.items():
        expected = {(key,): alone(name, method)[key,]}
        assert_gradients_close({(key,): found[key,]}, expected)
        # the negative control: of another rule it is not
        other = 'pp_prop' if name == 'd_rtrl' else 'd_rtrl'
        if key != 'readout':
            with pytest.raises(AssertionError):
                assert_gradients_close({(key,): alone(other, method)[key,]}, expected)


def test_windows_are_steps():
    learner = ready(RULES)
    check_windows(learner, inputs(5), step_fn=lambda x: loss(learner(x)))


def test_one_rule_in_two_parts_is_that_rule():
    learner = ready({'[wb]': 'd_rtrl', '*': ea.D_RTRL})
    found = online_gradients(learner, inputs(5), loss=loss, chunk_size=2)
    assert_gradients_close(found, alone('d_rtrl', 'single-step'))
    assert learner.rule.exactness is ea.Exactness.EXACT_DIAGONAL
    assert ready(RULES).rule.exactness is ea.Exactness.APPROXIMATE


def test_one_step_is_exact():
    learner, xs = ready(RULES), inputs(1)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    assert_gradients_close(online_gradients(learner, xs, loss=loss), expected)


def test_a_step_of_one_sample_run_by_vmap():
    rules = {'w': 'd_rtrl', 'b': ('pp_prop', DECAY)}
    step = {}
    for vmap in (False, True):
        learner = ready(rules, DiagonalLSTM, vmap=vmap)
        step[vmap] = online_gradients(learner, inputs(4), loss=loss)
    assert_gradients_close(step[True], step[False])


class Operators(PlainRNN):
    """One weight of each of several operators, and rows of a table that take turns."""

    def __init__(self):
        super().__init__()
        self.grouped, self.kernel = parameter(2, 2, 2, seed=55), parameter(2, 1, 3, seed=56)
        self.table = parameter(5, 4, seed=57)
        self.low = brainstate.ParamState({'B': values(3, 2, seed=58), 'A': values(2, 4, seed=59)})

    def update(self, x):
        h = self.h.value
        drive = grouped_matmul(h.reshape((-1, 2, 2)), self.grouped.value).reshape(h.shape)
        pairs = conv(h.reshape((-1, 2, 2)), self.kernel.value, feature_group_count=2)
        drive += jnp.tanh(pairs.reshape(h.shape))
        drive += embedding(
            jnp.floor(4 * x[..., 0]).astype(int) % 5, self.table.value, active_rows=3
        )
        drive += lora_matmul(x, self.low.value['B'], self.low.value['A'])
        self.h.value = 0.5 * h + jnp.tanh(drive)
        return self.read(self.h.value)


def test_operators_of_every_kind():
    rules = {'grouped': 'd_rtrl', 'table': 'd_rtrl', '*': 'pp_prop'}
    xs, found = inputs(4), {}
    for name in ('d_rtrl', 'pp_prop', 'hybrid'):
        options = {} if name == 'd_rtrl' else DECAY
        learner = ready(rules if name == 'hybrid' else name, Operators, **options)
        found[name] = online_gradients(learner, xs, loss=loss, chunk_size=2)
    for path, gradient in found['hybrid'].items():
        own = 'd_rtrl' if path[0] in ('grouped', 'table', 'w', 'b') else 'pp_prop'
        assert_gradients_close({path: gradient}, {path: found[own][path]})


def test_traces_by_weight_bytes_and_dtypes():
    learner = ready(RULES, trace_dtype=jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(learner.etrace.value)} == {
        jnp.dtype('float32'), jnp.dtype('int32')}  # fmt: skip
    assert learner.get_etrace_of('u').keys() == {'u'}
    assert not jax.tree.leaves(learner.get_etrace_of('tau'))
    (cost,) = learner.memory_plan().learners
    single = ready('d_rtrl', trace_dtype=jnp.float32).memory_plan().learners[0]
    assert cost.by_relation['w'] == single.by_relation['w'] > 0
    assert cost.by_relation['tau'] == 0
    assert 'u ' in str(learner.choice)
    assert learner.choice.rules_of('p') == learner.choice.rules_of('q') != {}


def test_a_rule_of_parts_can_be_stored():
    rule = ready(RULES).rule
    again = pickle.loads(pickle.dumps(rule))
    assert again == rule
    trace, expected = (ready(r).etrace.value for r in (again, RULES))
    assert jax.tree.structure(trace) == jax.tree.structure(expected)


def test_the_first_match_counts_for_a_product_of_several_parameters():
    split = {'q': 'immediate', '*': 'd_rtrl'}
    assert set(ready(split).choice.rules_of('p').values()) == {'q'}


BAD = [
    ({'w': 'd_rtrl', 'W': 'd_rtrl', '*': 'd_rtrl'}, '`W` matches no weight.*ETA132'),
    ({'*': 'd_rtrl', 'w': 'immediate'}, '`w` comes too late.*ETA133'),
    ({'w': 'd_rtrl', 'b': 'd_rtrl'}, r'`u, u#2, p\*q, tau` has no rule.*ETA134'),
    ({}, '`parts` are not told apart.*ETA131'),
]


@pytest.mark.parametrize(('rules', 'message'), BAD)
def test_patterns_that_do_not_fit_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        ready(rules)


class Counting(ea.D_RTRL):
    def update(self, *args):
        return super().update(*args)


def test_what_cannot_be_a_part_is_refused():
    with pytest.raises(TypeError, match=r'`\*` cannot be one rule of several.* own update.*ETA135'):
        ready({'*': Counting})
    with pytest.raises(TypeError, match=r'`decay` is an option that no learner takes.*ETA136'):
        ready({'*': 'd_rtrl'}, decay=0.5)


@dataclass(frozen=True)
class AtOldStates(DiagonalRTRL):
    """The trace of the diagonal rule, credited with all that reaches the old states."""

    signal_at: ClassVar[Literal['new', 'old']] = 'old'


class Keeping(DiagonalRTRL):
    def restart(self, before, fresh):
        return before


def test_a_part_keeps_at_a_reset_what_it_keeps_alone():
    learner = ready({'w': Keeping(), '*': 'd_rtrl'})
    learner(inputs(1)[0])
    learner.reset_state(2)
    kept, forgotten = (learner.etrace.value[name] for name in ('w', '*'))
    assert all(jnp.any(x) for x in jax.tree.leaves(kept))
    assert not any(jnp.any(x) for x in jax.tree.leaves(forgotten))


@dataclass(frozen=True)
class OfParameters(AtOldStates):
    credits: ClassVar[Literal['weights', 'parameters']] = 'parameters'


def test_rules_that_agree_on_old_states_may_be_parts():
    rule = AtOldStates()
    found = online_gradients(ready({'w': rule, '*': AtOldStates()}), inputs(4), loss=loss)
    assert_gradients_close(found, online_gradients(ready(rule), inputs(4), loss=loss))


def test_rules_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r'`w, \*` cannot be parts.*new states and .*old.*ETA137'):
        ready({'w': AtOldStates(), '*': 'd_rtrl'})
    with pytest.raises(ValueError, match=r'parameters credited at old states.*ETA137'):
        ready({'*': OfParameters()})


# ---------------------------------------------------------------- chosen by memory


def costs(seed):
    """Three learners of random size on six weights, each smaller than the one before."""
    number = random.Random(seed)
    large = [number.randrange(10, 1000) for _ in range(6)]
    small = [number.randrange(1, 60) for _ in range(6)]
    sizes = {'full': large, 'factors': small, 'none': [0] * 6}
    return [
        ea.LearnerCost(name, 'approximate', dict(zip('abcdef', of, strict=True)), 4 * (i == 1), 0)
        for i, (name, of) in enumerate(sizes.items())
    ]


@pytest.mark.parametrize('seed', range(5))
def test_a_choice_fits_its_budget_and_more_budget_is_never_worse(seed):
    found, by_name = [], {c.name: c for c in costs(seed)}
    most = 100 + by_name['full'].trace_bytes
    for budget in range(100, most + 1, 20):
        chosen = choose_costs(costs(seed), 100, budget)
        used = sum(by_name[name].by_relation[key] for key, name in chosen.items())
        used += 4 * ('factors' in chosen.values())
        assert 100 + used <= budget
        found.append(used)
    assert set(choose_costs(costs(seed), 100, 100).values()) == {'none'}
    assert choose_costs(costs(seed), 100, most)['a'] == 'full'
    assert len(set(found)) > 5


def test_a_rule_that_saves_nothing_is_passed_over():
    full = ea.LearnerCost('full', '', {'a': 8}, 0, 0)
    larger = ea.LearnerCost('larger', '', {'a': 9}, 0, 0)
    none = ea.LearnerCost('none', '', {'a': 0}, 0, 0)
    assert choose_costs([full, larger, none], 0, 7) == {'a': 'none'}
    assert choose_costs([full, larger, none], 0, 8) == {'a': 'full'}


def test_auto_keeps_to_its_budget_and_says_what_it_chose(capsys):
    best = ready('auto', verbose=1)
    assert set(best.choice.rules.values()) == {'d_rtrl'}
    assert best.choice.plan.budget == 2**30
    assert 'd_rtrl' in capsys.readouterr().out
    least = best.choice.total_bytes - best.choice.trace_bytes
    smallest = ready('auto', memory_budget=least)
    assert set(smallest.choice.rules.values()) == {'immediate'}
    between = ready('auto', memory_budget=f'{best.choice.total_bytes - 1} B')
    assert between.choice.total_bytes <= between.memory_budget
    assert {k for k, name in between.choice.rules.items() if name != 'd_rtrl'} == {'w'}
    assert between.choice.rules['w'] == 'pp_prop'
    assert between.choice.as_dict()['budget'] == between.memory_budget
    with pytest.raises(ValueError, match=r'`memory_budget` is too small: .*ETA504'):
        ready('auto', memory_budget=least - 1)
    with pytest.raises(ValueError, match=r'`parts` are not told apart by name: got .*ETA131'):
        ready('auto', candidates=[])


def test_a_choice_is_a_hybrid_of_its_rules():
    rule = {'b': 'd_rtrl', 'tau': 'd_rtrl', '*': 'pp_prop'}
    total = ready(rule, **DECAY).memory_plan()
    budget = total.total_bytes('HybridLearner')
    auto = ready('auto', memory_budget=budget, candidates=['d_rtrl', 'pp_prop'], **DECAY)
    assert auto.choice.total_bytes <= budget
    by_name = {'u': auto.choice.rules['u'], '*': 'd_rtrl'}
    assert auto.choice.rules['u'] == auto.choice.rules['u#2']
    xs = inputs(3)
    expected = online_gradients(ready(by_name, **DECAY), xs, loss=loss)
    found = online_gradients(auto, xs, loss=loss)
    assert_gradients_close({('u',): found['u',]}, {('u',): expected['u',]})


def test_samples_that_vmap_adds_count():
    batched = ready('auto', DiagonalLSTM, memory_budget='3 kB')
    mapped = ready('auto', DiagonalLSTM, memory_budget='3 kB', vmap=True)
    assert mapped.choice.rules == batched.choice.rules
    assert mapped.choice.total_bytes <= 3000
    mapped.reset_state(2)
    assert mapped.choice.rules == batched.choice.rules
