"""A plan made from shapes is what the learner then really keeps."""

import dataclasses
import json

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
import etrace_nn
from etrace_algorithms.abstract import compile_abstract
from etrace_algorithms.memory import multiply_adds, parse_bytes
from etrace_algorithms.memory.units import count_text, size_text
from etrace_algorithms.plugins import UnknownLearnerError, lookup
from etrace_algorithms.plugins.discovery import Discovery
from etrace_algorithms.plugins.records import Origin
from etrace_algorithms.plugins.registry import build_registry
from etrace_algorithms.plugins.spec import LearnerSpec
from etrace_algorithms.rules import DiagonalRTRL, IODimTrace, zero_traces
from etrace_algorithms.testing import (
    DiagonalLSTM,
    ElementwiseDecay,
    LeakyIntegrator,
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
)
from etrace_compiler import CompilationError, compile_etrace_graph, element_wise, matmul

OPTIONS = {'pp_prop': {'decay_or_rank': 0.9}}


class ComplexDecay(brainstate.nn.Module):
    """A complex state driven by a complex weight, and a real one that reads it."""

    def __init__(self):
        super().__init__()
        self.w = brainstate.ParamState(jnp.full((3, 4), 0.1 + 0.2j, jnp.complex64))
        self.a = brainstate.ParamState(jnp.full(4, 0.5, jnp.float32))

    def init_state(self, batch_size=None):
        self.h = brainstate.HiddenState(jnp.zeros((batch_size, 4), jnp.complex64))

    def update(self, x):
        a = element_wise(self.a.value).astype(jnp.complex64)
        self.h.value = a * self.h.value + matmul(x.astype(jnp.complex64), self.w.value)
        return self.h.value.real


class InFloat32(LeakyIntegrator):
    def weight(self, *shape, scale=0.6):
        return brainstate.ParamState(jnp.ones(shape, jnp.float32))


MODELS = (ElementwiseDecay, SpikingChain, RecurrentLSTM, PlainRNN, InFloat32, ComplexDecay)


def inputs(model, batch=5):
    narrow = model in (InFloat32, ComplexDecay)
    return jnp.ones((batch, 3), jnp.float32 if narrow else jnp.float64)


def real_bytes(learner):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(learner.etrace.value))


# ---------------------------------------------------------------- the plan and the truth


@pytest.mark.parametrize('trace_dtype', [None, jnp.bfloat16])
@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop', 'immediate', 'param_dim'])
@pytest.mark.parametrize('model', MODELS)
def test_bytes_are_those_of_the_compiled_learner(model, name, trace_dtype):
    if model is ComplexDecay and trace_dtype is not None:
        trace_dtype = jnp.complex64
    x = inputs(model)
    options = dict(OPTIONS.get(name, {}))
    if name != 'immediate':
        options['trace_dtype'] = trace_dtype
    learner = ea.compile(model(), name, x, batch_size=5, **options)
    plan = ea.memory_plan(model(), x, batch_size=5, learners=[name], trace_dtype=trace_dtype)
    cost = plan[name]
    assert cost.trace_bytes == real_bytes(learner)
    assert (cost.trace_bytes > 0) == (name != 'immediate')
    live = learner.model.states().values()
    params = [s.value for s in live if isinstance(s, brainstate.ParamState)]
    assert plan.parameter_bytes == sum(x.nbytes for x in jax.tree.leaves(params))
    assert plan.state_bytes == sum(s.value.nbytes for s in learner.hidden_states.values())
    assert learner.memory_plan().learners[0].by_relation == cost.by_relation


@pytest.mark.parametrize('model', [SpikingChain, RecurrentLSTM])
@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_every_weight_gets_the_bytes_of_its_own_trace(model, name):
    x = inputs(model)
    learner = ea.compile(model(), name, x, batch_size=5, **OPTIONS.get(name, {}))
    plan = ea.memory_plan(learner, learners=name)
    assert set(plan.weights) == set(plan[name].by_relation)
    for weight in set(plan.weights.values()):
        (path,) = weight
        found = sum(x.nbytes for x in jax.tree.leaves(learner.get_etrace_of(path)))
        planned = [
            plan[name].by_relation[k] for k, names in plan.weights.items() if names == weight
        ]
        assert sum(planned) == found > 0
    assert plan[name].shared_bytes == (4 if name == 'pp_prop' else 0)


def test_bytes_by_hand():
    # three states per position, batch 5, float64: w (3, 4), and a time constant that acts twice
    plan = ea.memory_plan(SpikingChain(), inputs(SpikingChain), batch_size=5)
    full, once, x, f = 5 * 3 * 4 * 3 * 8, 5 * 4 * 3 * 8, 5 * 3 * 8, 5 * 4 * 3 * 8
    assert plan['d_rtrl'].by_relation == {'w': full, 'tau': once, 'tau#2': once}
    each = 5 * 8 + f  # its input is 1, once per sample
    assert plan['pp_prop'].by_relation == {'w': x + f, 'tau': each, 'tau#2': each}
    assert plan.weights == {'w': ('w',), 'tau': ('tau',), 'tau#2': ('tau',)}
    assert plan['d_rtrl'].moved_bytes == 2 * plan['d_rtrl'].trace_bytes
    assert plan.step_multiply_adds == 5 * 3 * 4
    assert plan.total_bytes('immediate') == (3 * 4 + 4 + 4 * 2) * 8 + 3 * 5 * 4 * 8


def test_a_trace_dtype_changes_the_plan():
    def planned(dtype):
        x = inputs(SpikingChain)
        return ea.memory_plan(SpikingChain(), x, batch_size=5, trace_dtype=dtype)['d_rtrl']

    assert planned(None).trace_bytes == 2 * planned(jnp.float32).trace_bytes
    assert planned(None).trace_bytes == 4 * planned(jnp.bfloat16).trace_bytes


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_a_learner_that_runs_by_vmap_keeps_a_trace_per_sample(name):
    x = inputs(RecurrentLSTM)
    options = OPTIONS.get(name, {})
    learner = ea.compile(RecurrentLSTM(), name, x, batch_size=5, vmap=True, **options)
    assert learner.memory_plan().learners[0].trace_bytes == real_bytes(learner)
    plan = ea.memory_plan(learner, learners=[name])
    assert plan[name].trace_bytes == real_bytes(learner)
    assert plan.state_bytes == sum(s.value.nbytes for s in learner.hidden_states.values())
    batched = ea.memory_plan(RecurrentLSTM(), x, batch_size=5, learners=[name])
    assert plan[name].update_multiply_adds == batched[name].update_multiply_adds
    assert plan.step_multiply_adds == batched.step_multiply_adds
    twice = ea.memory_plan(learner, learners=[name], batch_size=10)
    assert twice[name].trace_bytes == 2 * real_bytes(learner)


class Looped(LeakyIntegrator):
    """Forty marked operations in one step."""

    def update(self, x):
        def body(h, _):
            return 0.9 * h + matmul(x, self.w.value, self.b.value), None

        self.h.value, _ = jax.lax.scan(body, self.h.value, None, length=40)
        return self.read(self.h.value)


def test_an_operation_inside_a_loop():
    x = inputs(Looped)
    plan = ea.memory_plan(Looped(), x, batch_size=5)
    learner = ea.compile(Looped(), 'd_rtrl', x, batch_size=5)
    assert plan['d_rtrl'].trace_bytes == real_bytes(learner)
    assert plan.step_multiply_adds == 40 * 5 * 3 * 4


class Confusing(LeakyIntegrator):
    """Its parameters are called as `pp_prop` calls its own parts."""

    def __init__(self):
        super().__init__()
        self.f = self.weight(3, 4)
        self.x = self.weight(4)

    def update(self, x):
        self.h.value = 0.9 * self.h.value + matmul(x, self.f.value, self.x.value)
        return self.read(self.h.value)


def test_parameters_may_be_called_as_the_parts_of_a_trace():
    plan = ea.memory_plan(Confusing(), inputs(Confusing), batch_size=5)
    assert plan['pp_prop'].by_relation == {'f': (5 * 3 + 5 * 4) * 8, 'x': (5 * 1 + 5 * 4) * 8}
    assert plan['pp_prop'].shared_bytes == 4
    learner = ea.compile(Confusing(), 'pp_prop', inputs(Confusing), batch_size=5, decay_or_rank=0.9)
    for name in ('f', 'x'):
        found = learner.get_etrace_of(name)
        assert {part: set(of) for part, of in found.items()} == {'x': {name}, 'f': {name}}


# ---------------------------------------------------------------- work


def test_work_by_hand():
    plan = ea.memory_plan(SpikingChain(), inputs(SpikingChain), batch_size=5)
    w, tau = 5 * 3 * 4, 5 * 4 + 5 * 4
    # D eps: of nine products for the three states the synapse has two that are zero in every step;
    # f x: the weight drives all, the time constant all but the synapse
    assert plan['d_rtrl'].update_multiply_adds == 7 * (w + tau) + 3 * w + 2 * tau
    # decay of x; decay of D f and of f
    x, f = 5 * 3 + 5 + 5, 3 * 5 * 4
    assert plan['pp_prop'].update_multiply_adds == x + f * (9 + 3 + 3)
    assert plan['immediate'].update_multiply_adds == 0


def test_products_are_counted_wherever_they_stand():
    w = jnp.ones((4, 4))

    def looped(x):
        return jax.lax.fori_loop(0, 7, lambda i, x: x @ w, x)

    def scanned(x):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

    def branched(x):
        return jax.lax.cond(x[0] > 0, lambda x: x @ w @ w, lambda x: x * x, x)

    x = jnp.ones(4)
    assert multiply_adds(jax.jit(lambda x: x @ w), x) == 16
    assert multiply_adds(scanned, x) == multiply_adds(looped, x) == 7 * 16
    assert multiply_adds(branched, x) == 32
    assert multiply_adds(lambda x: jax.checkpoint(jnp.sin)(x * x), x) == 4
    assert multiply_adds(lambda x: jnp.arange(4) * 2, x) == 0
    assert multiply_adds(lambda x: matmul(x, w), x) == 16
    kernel = jnp.ones((5, 3, 2, 2))
    image = jnp.ones((1, 3, 8, 8))
    conv = multiply_adds(lambda i, k: jax.lax.conv(i, k, (1, 1), 'VALID'), image, kernel)
    assert conv == (5 * 7 * 7) * (3 * 2 * 2)


# ---------------------------------------------------------------- other batch sizes


class Stateful(brainstate.nn.Module):
    """States in attributes, in a list and in a dict; random initial values."""

    def __init__(self):
        super().__init__()
        self.cells = [etrace_nn.GRUCell(3, 3) for _ in range(2)]
        self.buffer = {}
        self.sizes = []

    def init_state(self, batch_size=None):
        self.sizes.append(batch_size)
        self.h = brainstate.HiddenState(brainstate.random.randn(batch_size, 3))
        self.buffer['slow'] = brainstate.HiddenState(jnp.zeros((batch_size, 3)))

    def update(self, x):
        for cell in self.cells:
            x = cell(x)
        self.h.value = 0.5 * self.h.value + x
        self.buffer['slow'].value = 0.9 * self.buffer['slow'].value + self.h.value
        return self.h.value


class NeedsNumbers(Stateful):
    """Its initial state is computed outside of JAX."""

    def init_state(self, batch_size=None):
        super().init_state(batch_size)
        self.scale = float(np.asarray(self.h.value).std())
        self.h.value = self.h.value / self.scale


@pytest.mark.parametrize('model', [Stateful, NeedsNumbers])
def test_another_batch_size_leaves_the_model_as_it_was(model):
    model = model()
    brainstate.nn.init_all_states(model, 2)
    before = {path: (state, state.value) for path, state in model.states().items()}
    sizes, attributes, key = list(model.sizes), dict(vars(model)), brainstate.random.get_key()
    plan = ea.memory_plan(model, jnp.ones((6, 3)), batch_size=6)
    after = model.states()
    assert set(after) == set(before)
    for path, (state, value) in before.items():
        assert after[path] is state
        assert state.value is value
    assert model.sizes == sizes
    assert dict(vars(model)) == attributes
    assert (brainstate.random.get_key() == key).all()
    expected = ea.compile(model, 'd_rtrl', jnp.ones((6, 3)), batch_size=6)
    assert plan['d_rtrl'].trace_bytes == real_bytes(expected)


def test_a_failed_compilation_leaves_the_model_as_it_was():
    model = Stateful()
    brainstate.nn.init_all_states(model, 2)
    state, value = model.h, model.h.value
    with pytest.raises(ValueError, match='ETC603'):
        ea.memory_plan(model, jnp.ones((5, 3)), batch_size=6)
    assert model.h is state
    assert model.h.value is value


def test_states_that_were_never_made_are_not_made():
    model = etrace_nn.LSTMCell(3, 4)
    plan = ea.memory_plan(model, jnp.ones(3))
    assert not hasattr(model, 'h')
    assert plan['d_rtrl'].by_relation['W.weight.weight'] == 7 * 12 * 8


def test_without_a_batch_size_states_are_taken_as_they_are():
    model = DiagonalLSTM()
    brainstate.nn.init_all_states(model, 7)
    plan = ea.memory_plan(model, jnp.ones((7, 3)))
    assert plan['d_rtrl'].by_relation['w'] == 7 * 3 * 16 * 2 * 8


def test_a_trace_that_no_machine_could_hold():
    x = jax.ShapeDtypeStruct((4096, 1000), jnp.float32)
    plan = ea.memory_plan(etrace_nn.GRUCell(1000, 2000), x, batch_size=4096)
    assert plan['d_rtrl'].trace_bytes > 10**11
    assert 'GB' in str(plan)


def test_an_abstract_graph_is_the_real_one():
    x = jnp.ones((4, 3))
    abstract = compile_abstract(RecurrentLSTM(), x, batch_size=4)
    model = RecurrentLSTM()
    brainstate.nn.init_all_states(model, 4)
    real = compile_etrace_graph(model, x)
    assert list(map(str, abstract.diagnostics)) == list(map(str, real.diagnostics))
    assert [s.leaves for s in abstract.module_info.states] == [
        s.leaves for s in real.module_info.states
    ]


def test_an_error_of_the_compiler_is_not_hidden():
    class Writes(LeakyIntegrator):
        def update(self, x):
            self.w.value = self.w.value + 1
            return super().update(x)

    with pytest.raises(CompilationError, match='ETC103'):
        ea.memory_plan(Writes(), inputs(Writes), batch_size=5)


# ---------------------------------------------------------------- who is asked


def test_learners_by_name_class_rule_and_with_options():
    x = inputs(PlainRNN)
    graph = compile_abstract(PlainRNN(), x, batch_size=5)
    rules = [DiagonalRTRL(jnp.bfloat16), DiagonalRTRL(), ea.D_RTRL, IODimTrace(0.5, 0.5), 'd_rtrl']
    plan = ea.memory_plan(graph, learners=rules)
    names = ['DiagonalRTRL', 'DiagonalRTRL 2', 'D_RTRL', 'IODimTrace', 'd_rtrl']
    assert [cost.name for cost in plan.learners] == names
    sizes = [cost.trace_bytes for cost in plan.learners]
    assert 4 * sizes[0] == sizes[1] == sizes[2] == sizes[4]
    assert plan['IODimTrace'].exactness == 'approximate'
    options = {'d_rtrl': {'trace_dtype': jnp.float32}, 'pp_prop': {'decay_or_rank': 3}}
    narrow = ea.memory_plan(graph, learners=options)
    assert 2 * narrow['d_rtrl'].trace_bytes == plan['d_rtrl'].trace_bytes
    with pytest.raises(ValueError, match='ETA101'):
        ea.memory_plan(graph, learners={'pp_prop': {'decay_or_rank': 3.0}})


def test_an_unknown_name_is_an_error():
    with pytest.raises(UnknownLearnerError, match='d_rtrl'):
        ea.memory_plan(PlainRNN(), inputs(PlainRNN), batch_size=5, learners=['drtrl'])


class Hooks(ea.ETraceVjpAlgorithm):
    """A learner without a rule: it counts steps and keeps the last drives."""

    def init_etrace_state(self, *args, **kwargs):
        trace = zero_traces(self.graph)
        self._assign_etrace_data({'steps': jnp.zeros((), jnp.int32), 'inner': trace})

    def _update_etrace_data(self, data, lin):
        return {'steps': data['steps'] + 1, 'inner': jax.tree.map(jnp.sin, data['inner'])}


def install(monkeypatch, *factories):
    found = [
        LearnerSpec(
            name=name,
            summary='A learner.',
            factory=factory,
            exactness=exactness,
            memory='O(1)',
            reference='none',
        )
        for name, factory, exactness in factories
    ]
    registry, _ = build_registry((spec, Origin('some', '0.1', 'some')) for spec in found)
    monkeypatch.setattr(lookup._memory, 'discovery', Discovery(registry))


def broken(model):
    raise RuntimeError('no luck')


def test_all_that_is_installed_and_why_some_is_missing(monkeypatch):
    install(
        monkeypatch,
        ('good', DiagonalRTRL, 'unbiased'),
        ('own', Hooks, 'approximate'),
        ('broken', broken, 'approximate'),
    )
    plan = ea.memory_plan(PlainRNN(), inputs(PlainRNN), batch_size=5, learners=None)
    assert [cost.name for cost in plan.learners] == ['good']
    # what the plugin announces counts
    assert plan['good'].exactness == 'unbiased'
    assert plan.skipped['broken'] == 'RuntimeError: no luck'
    assert plan.skipped['own'].startswith('it makes its own trace')
    assert 'not measured: broken: RuntimeError: no luck' in str(plan)
    with pytest.raises(RuntimeError, match='no luck'):
        ea.memory_plan(PlainRNN(), inputs(PlainRNN), batch_size=5, learners=['broken'])


def test_everything_that_is_really_installed_is_measured():
    plan = ea.memory_plan(PlainRNN(), inputs(PlainRNN), batch_size=5, learners=None)
    assert {'d_rtrl', 'pp_prop', 'immediate', 'param_dim'} <= {c.name for c in plan.learners}
    assert plan.skipped == {}


def test_a_learner_with_hooks_of_its_own_says_what_it_keeps():
    model = PlainRNN()
    brainstate.nn.init_all_states(model, 5)
    learner = Hooks(model)
    learner.compile_graph(inputs(PlainRNN))
    (cost,) = learner.memory_plan('1 GB').learners
    assert cost.trace_bytes == real_bytes(learner)
    assert cost.shared_bytes == 4
    assert cost.exactness == 'undeclared'


def test_a_learner_that_is_not_compiled_says_so():
    learner = ea.D_RTRL(PlainRNN())
    for ask in (learner.memory_plan, lambda: ea.memory_plan(learner)):
        with pytest.raises(ValueError, match='ETC111'):
            ask()
    plan = ea.memory_plan(learner, inputs(PlainRNN), batch_size=5)
    assert plan['d_rtrl'].trace_bytes > 0
    assert not learner.is_compiled


@pytest.mark.parametrize('batch_size', [None, 3])
def test_a_compiled_graph_cannot_change_its_batch_size(batch_size):
    graph = compile_abstract(PlainRNN(), inputs(PlainRNN), batch_size=5)
    args = () if batch_size else (inputs(PlainRNN),)
    with pytest.raises(ValueError, match=r'`memory_plan` cannot change a compiled.*\[ETA502\]'):
        ea.memory_plan(graph, *args, batch_size=batch_size)


def test_something_that_is_no_model():
    with pytest.raises(TypeError, match='ETC101'):
        ea.memory_plan(3, jnp.ones(3))


# ---------------------------------------------------------------- budgets


def test_the_most_accurate_learner_that_fits():
    def planned(budget):
        x = inputs(RecurrentLSTM)
        return ea.memory_plan(RecurrentLSTM(), x, batch_size=5, budget=budget)

    free = planned(None)
    assert free.best == 'd_rtrl'
    assert all(free.fits(cost.name) for cost in free.learners)
    for name in ('d_rtrl', 'pp_prop', 'immediate'):
        need = free.total_bytes(name)
        assert planned(need).best == name
        assert planned(need - 1).best != name
        assert not planned(need - 1).fits(name)
    assert planned(0).best is None
    assert 'budget 0 B: nothing fits' in str(planned(0))
    assert 'the most accurate that fits is pp_prop' in str(planned(free.total_bytes('pp_prop')))


def test_the_order_of_promises_and_of_sizes():
    def cost(name, exactness, size):
        return ea.LearnerCost(name, exactness, {'w': size}, 0, 0)

    learners = (
        cost('none', 'immediate', 0),
        cost('random', 'unbiased', 1),
        cost('wide', 'approximate', 30),
        cost('slim', 'approximate', 20),
        cost('full', 'exact-diagonal', 100),
    )
    plan = ea.MemoryPlan(learners, {'w': ('w',)}, 0, 0, 0)
    found = [dataclasses.replace(plan, budget=b).best for b in (100, 99, 25, 19, 0)]
    assert found == ['full', 'slim', 'slim', 'random', 'none']
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.budget = 3


def test_a_learner_that_the_plan_does_not_have():
    plan = ea.memory_plan(PlainRNN(), inputs(PlainRNN), batch_size=5, learners='d_rtrl')
    for ask in (plan.fits, plan.total_bytes, plan.__getitem__):
        with pytest.raises(KeyError, match=r'`plan` does not have .*got \'uoro\'.*\[ETA503\]'):
            ask('uoro')


@pytest.mark.parametrize(
    ('text', 'size'),
    [
        (512, 512),
        (np.int64(7), 7),
        ('512', 512),
        ('512 MB', 512 * 10**6),
        ('512mb', 512 * 10**6),
        ('1.5 GiB', 3 * 2**29),
        ('8 GB', 8 * 10**9),
        (' 2 TiB ', 2**41),
        ('3 k', 3000),
    ],
)
def test_budgets_that_can_be_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize('text', ['', 'lots', '5 XB', '-3 MB', -3, '1e9', '3 iB'])
def test_budgets_that_cannot(text):
    with pytest.raises(ValueError, match=r'`budget` cannot be read: got .*\[ETA501\]'):
        parse_bytes(text)


@pytest.mark.parametrize('size', [1.5, True, None, [3]])
def test_budgets_that_are_no_sizes(size):
    with pytest.raises(TypeError, match=r'`budget` is no number of bytes: got .*\[ETA501\]'):
        parse_bytes(size)


# ---------------------------------------------------------------- what is printed


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0, '0 B'),
        (999, '999 B'),
        (1000, '1.00 kB'),
        (9994, '9.99 kB'),
        (9996, '10.0 kB'),
        (999_499, '999 kB'),
        (999_501, '1.00 MB'),
        (10**15, '1.00 PB'),
        (10**19, '10000 PB'),
    ],
)
def test_sizes_have_three_digits(value, text):
    assert size_text(value) == text
    assert count_text(value) == text.replace('B', '').strip()


class Deep(brainstate.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = [etrace_nn.ValinaRNNCell(3 + i % 2, 4 - i % 2) for i in range(layers)]

    def update(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_the_table_is_one_screen():
    plan = ea.memory_plan(Deep(20), jnp.ones((2, 3)), batch_size=2, budget='10 kB')
    lines = str(plan).splitlines()
    assert len(plan.weights) == 40
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert any(line.startswith('29 smaller ones') for line in lines)
    header = next(line for line in lines if line.startswith('LEARNER'))
    rows = [line for line in lines if line.startswith(('d_rtrl', 'pp_prop', 'immediate'))]
    assert len(rows) == 3
    assert {len(line) for line in rows} == {len(header)}
    # nothing is lost in the sum of the rest
    table = lines[next(i for i, line in enumerate(lines) if line.startswith('TRACE OF')) :]
    assert len(table) == 1 + 11 + 1 + 1


def test_the_plan_as_plain_data():
    plan = ea.memory_plan(PlainRNN(), inputs(PlainRNN), batch_size=5, budget='1 MB')
    found = json.loads(json.dumps(plan.as_dict()))
    assert found['best'] == 'd_rtrl'
    assert found['budget'] == 10**6
    (first, *_) = found['learners']
    assert first['trace_bytes'] == plan['d_rtrl'].trace_bytes
    assert first['total_bytes'] == plan.total_bytes('d_rtrl')
    assert found['weights'] == {'w': ['w'], 'b': ['b']}


def test_a_model_without_any_trace():
    class Plain(LeakyIntegrator):
        def update(self, x):
            return x @ self.w.value

    plan = ea.memory_plan(Plain(), inputs(Plain), batch_size=5)
    assert plan.best == 'd_rtrl'
    assert plan['d_rtrl'].trace_bytes == 0
    assert 'TRACE OF' not in str(plan)
