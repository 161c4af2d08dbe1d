"""Every decision has a record with its code, level, words and the line of the user's model."""

import inspect
from dataclasses import replace

import brainstate
import jax
import jax.numpy as jnp
import pytest

from etrace_compiler import (
    CompilationError,
    ControlFlowPolicy,
    DiagnosticKind,
    DiagnosticLevel,
    compile_etrace_graph,
    element_wise,
    matmul,
)
from etrace_compiler.diagnostics import TABLE

from . import models

INFO, WARNING, ERROR = DiagnosticLevel.INFO, DiagnosticLevel.WARNING, DiagnosticLevel.ERROR


class Driven(models.Cell):
    """A marked weight; the line with `here` is the one a record names."""

    def update(self, x):
        y = matmul(x, self.W.value)  # here
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class WithoutParameter(Driven):
    def update(self, x):
        y = matmul(x, jnp.ones((3, 4)))  # here
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ReadoutOnly(Driven):
    def update(self, x):
        self.h.value = 0.5 * self.h.value + x[0]
        return matmul(self.h.value, self.R.value)  # here


class ResetGate(Driven):
    def update(self, x):
        r = jax.nn.sigmoid(matmul(x, self.W.value))  # here
        self.h.value = jnp.tanh(matmul(r * self.h.value, self.R.value))
        return self.h.value


class PartlyMixed(Driven):
    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.5 * self.h.value + y - y.sum()  # here
        return self.h.value


class StateDependentWeight(Driven):
    def update(self, x):
        weight = self.R.value * self.h.value
        y = matmul(self.h.value, weight)  # here
        self.h.value = 0.5 * self.h.value + y + matmul(x, self.W.value)
        return self.h.value


class Unmarked(Driven):
    def update(self, x):
        y = x @ self.W.value  # here
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class PlainReadout(Driven):
    def update(self, x):
        self.h.value = 0.5 * self.h.value + x[0]
        return self.h.value @ self.R.value  # here


class Unused(Driven):
    def update(self, x):
        jnp.sum(self.b.value)
        y = matmul(x, self.W.value)
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class Stopped(Driven):
    def update(self, x):
        y = matmul(x, jax.lax.stop_gradient(self.W.value))
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class Averaged(Driven):
    """A parameter that ends in a state without a gradient."""

    def init_state(self):
        super().init_state()
        self.mean = brainstate.ShortTermState(jnp.zeros(4))

    def update(self, x):
        self.mean.value = 0.9 * self.mean.value + self.b.value
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        return self.h.value


class NotHidden(Driven):
    """A state of floats that carries what the weight did, and is not hidden."""

    def init_state(self):
        super().init_state()
        self.mean = brainstate.ShortTermState(jnp.zeros(4))

    def update(self, x):
        y = matmul(x, self.W.value)
        self.mean.value = 0.9 * self.mean.value + y  # here
        self.h.value = 0.5 * self.h.value + y - self.mean.value
        return self.h.value


class Recurrent(Driven):
    def update(self, x):
        y = matmul(x, self.W.value)
        y = y + matmul(self.h.value, self.R.value)  # here
        self.h.value = jnp.tanh(y)
        return self.h.value


class Sorted(Driven):
    def update(self, x):
        y = matmul(x, self.W.value)
        h = jnp.sort(self.h.value)  # here
        self.h.value = 0.5 * self.h.value + h + y
        return self.h.value


class IntegerState(Driven):
    def init_state(self):
        super().init_state()
        self.count = brainstate.HiddenState(jnp.zeros(4, int))

    def update(self, x):
        y = matmul(x, self.W.value)
        self.count.value = self.count.value + 1
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class MarkedInScan(Driven):
    def update(self, x):
        def body(h, _):
            return jnp.tanh(matmul(h, self.R.value)), None

        h, _ = jax.lax.scan(body, self.h.value, None, length=3)  # here
        self.h.value = h + matmul(x, self.W.value)
        return self.h.value


class MarkedInCond(Driven):
    def update(self, x):
        def one(x):
            return matmul(x, self.W.value)

        y = jax.lax.cond(x[0] > 0, one, lambda x: jnp.zeros(4), x)  # here
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class WeightInWhile(Driven):
    def update(self, x):
        def body(y):
            return y + x @ self.W.value

        y = jax.lax.while_loop(lambda y: jnp.all(jnp.abs(y) < 3), body, x[0] * jnp.ones(4))  # here
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class HiddenInWhile(Driven):
    def update(self, x):
        h = self.h.value
        h = jax.lax.while_loop(lambda h: jnp.all(jnp.abs(h) < 3), lambda h: 2 * h, h)  # here
        self.h.value = 0.5 * self.h.value + 0.1 * h + matmul(x, self.W.value)
        return self.h.value


class HiddenInScan(Driven):
    def update(self, x):
        h = jax.lax.fori_loop(0, 3, lambda i, h: 0.9 * h, self.h.value)  # here
        self.h.value = h + matmul(x, self.W.value)
        return self.h.value


class LongLoop(Driven):
    def update(self, x):
        h = jax.lax.fori_loop(0, 30, lambda i, h: 0.99 * h, self.h.value)  # here
        self.h.value = h + matmul(x, self.W.value)
        return self.h.value


class DelayLine(Driven):
    slots = 3

    def init_state(self, *args, **kwargs):
        super().init_state(*args, **kwargs)
        self.line = models.hidden(self.slots, 4, seed=60)

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        rest = self.line.value[:-1]
        self.line.value = jnp.concatenate([self.h.value[None], rest])  # here
        return self.line.value[-1]


class LongDelayLine(DelayLine):
    slots = 40

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        rest = self.line.value[:-1]
        self.line.value = jnp.concatenate([self.h.value[None], rest])  # here
        return self.line.value[-1]


class Mapped(Driven):
    def update(self, x):
        y = matmul(x, self.W.value)
        h = jax.lax.map(lambda a: 0.5 * self.h.value + a * y, jnp.linspace(0, 0.1, 20))  # here
        self.h.value = h[0]
        return self.h.value


def line_of(model_class):
    """The line of a model's source that ends in `# here`."""
    lines, start = inspect.getsourcelines(model_class)
    found = [start + i for i, line in enumerate(lines) if line.rstrip().endswith('# here')]
    return found[0] if found else None


K = DiagnosticKind
EXCLUDE = ControlFlowPolicy(etp_in_control_flow='exclude')
LEAVE = ControlFlowPolicy(
    cond='opaque', scan_unroll_limit=0, scan_descent='off', etp_in_control_flow='exclude'
)
REFUSE = replace(LEAVE, etp_in_control_flow='error')
POLICIES = {
    K.PRIMITIVE_INSIDE_CONTROL_FLOW: LEAVE,
    K.CONTROL_FLOW_RECURRENT_MIXING: LEAVE,
    K.COND_CONVERSION_SKIPPED: LEAVE,
    K.SCAN_DESCENT_SKIPPED: LEAVE,
}

CASES = {
    K.RELATION_INCLUDED: (Driven, 'ETC200', INFO, 'W drives h: its trace is exact at every length'),
    K.RELATION_EXCLUDED_NO_PARAMSTATE: (
        WithoutParameter, 'ETC201', WARNING,
        'the weight of `etp_matmul` depends on no ParamState',
    ),
    K.RELATION_EXCLUDED_NON_TEMPORAL: (
        ReadoutOnly, 'ETC202', INFO,
        'R reaches no hidden state; its one-step gradient is complete',
    ),
    K.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT: (
        ResetGate, 'ETC203', WARNING,
        'W reaches hidden states only through `etp_matmul`, which mixes positions',
    ),
    K.RELATION_PARTIAL_PATH: (
        PartlyMixed, 'ETC204', WARNING,
        'W also reaches h through `reduce_sum`, which mixes positions; '
        'the trace does not follow this way',
    ),
    K.TRAINABLE_INVAR_NOT_PARAMSTATE: (
        StateDependentWeight, 'ETC205', WARNING,
        'the weight of `etp_matmul` depends on inputs or states beside its parameters',
    ),
    K.PARAMETER_UNMARKED: (
        Unmarked, 'ETC206', WARNING, 'W reaches h through operations that are not marked',
    ),
    K.PARAMETER_ONE_STEP: (
        PlainReadout, 'ETC207', INFO,
        'R reaches no hidden state; its one-step gradient is complete',
    ),
    K.PARAMETER_UNUSED: (
        Unused, 'ETC208', ERROR,
        'b reaches neither an output nor a hidden state; its gradient is zero',
    ),
    K.RECURRENCE_CUT: (
        Recurrent, 'ETC210', WARNING,
        '`etp_matmul` leads h to other positions of the same group; '
        'the trace does not follow this recurrence',
    ),
    K.UNKNOWN_PRIMITIVE: (
        Sorted, 'ETC211', WARNING, '`sort` on the way to h is taken to mix all positions',
    ),
    K.HIDDEN_GROUP_MERGED: (
        models.LSTM, 'ETC212', INFO,
        'h, c act on each other position by position and share group 0',
    ),
    K.HIDDEN_NOT_DIFFERENTIABLE: (
        IntegerState, 'ETC213', INFO,
        'hidden state count holds int64: it is carried along and no trace follows it',
    ),
    K.HISTORY_LEAVES_GROUP: (
        models.TwoLayers, 'ETC214', INFO,
        'first.h acts on second.h: what the weights of first.h did to earlier values of second.h '
        'is dropped',
    ),
    K.STATE_NOT_HIDDEN: (
        NotHidden, 'ETC215', WARNING,
        'mean is no HiddenState and carries a derivative from step to step: '
        'what W did to it in earlier steps is dropped',
    ),
    K.PRIMITIVE_INSIDE_CONTROL_FLOW: (
        MarkedInScan, 'ETC301', WARNING, 'etp_matmul stands inside a `scan`',
    ),
    K.WEIGHT_IN_WHILE: (WeightInWhile, 'ETC302', ERROR, 'a parameter is used in a `while`'),
    K.CONTROL_FLOW_OPAQUE_FWD: (
        HiddenInWhile, 'ETC303', WARNING, 'a hidden state passes a `while`',
    ),
    K.CONTROL_FLOW_RECURRENT_MIXING: (
        HiddenInScan, 'ETC304', WARNING, 'a hidden state passes a `scan`',
    ),
    K.DELAY_LINE_STACKED: (
        DelayLine, 'ETC216', INFO,
        'line is a delay line of 3 slots along axis 0, which count as states of one position',
    ),
    K.DELAY_LINE_TOO_LONG: (
        LongDelayLine, 'ETC217', WARNING, 'line is a delay line of 40 slots along axis 0',
    ),
    K.COND_IF_CONVERTED: (
        MarkedInCond, 'ETC305', INFO,
        'all 2 branches of a `cond` are computed, and one is selected',
    ),
    K.COND_CONVERSION_SKIPPED: (
        MarkedInCond, 'ETC306', WARNING,
        'a `cond` of 2 branches is left as it is: the policy asks for it',
    ),
    K.SCAN_UNROLLED: (HiddenInScan, 'ETC307', INFO, 'a loop of 3 steps is written out'),
    K.SCAN_VECTORISED: (
        Mapped, 'ETC308', INFO,
        'a loop of 20 steps without a carry is computed as one vectorised step',
    ),
    K.SCAN_DESCENT_APPLIED: (
        LongLoop, 'ETC309', INFO, 'a loop of 30 steps is followed inside',
    ),
    K.SCAN_DESCENT_SKIPPED: (
        LongLoop, 'ETC310', WARNING,
        'a loop of 30 steps is left as it is: the policy asks for it',
    ),
}  # fmt: skip


def records_of(model_class, kind=None):
    control_flow = POLICIES.get(kind, EXCLUDE)
    model = models.ready(model_class())
    try:
        return compile_etrace_graph(model, models.random(3), control_flow=control_flow).diagnostics
    except CompilationError as error:
        return error.records


def test_every_kind_has_a_case():
    assert set(CASES) == set(TABLE) == set(DiagnosticKind)


def test_codes_are_unique():
    codes = [entry.code for entry in TABLE.values()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize('kind', CASES)
def test_record(kind):
    model_class, code, level, message = CASES[kind]
    found = [r for r in records_of(model_class, kind) if r.kind is kind]
    assert message in [r.message for r in found]
    (record, *_) = [r for r in found if r.message == message]
    assert (record.code, record.level) == (code, level)
    assert record.action == TABLE[kind].action
    text = str(record)
    assert text.startswith(f'{code} {level.value}: {message}')
    assert record.action in text
    line = line_of(model_class)
    if line is not None:
        assert (record.source.file, record.source.line) == (__file__, line)
        assert record.source.function.endswith('update')
        assert f'at {__file__}:{line}' in text


@pytest.mark.parametrize('kind', [k for k in CASES if k is not K.RELATION_INCLUDED])
def test_control_a_plain_model_has_no_such_record(kind):
    """The case provokes its record; a model without the fault has none of that kind."""
    harmless = {K.PARAMETER_UNUSED}  # the plain model of this file leaves two parameters alone
    found = {r.kind for r in records_of(Driven)}
    assert (kind in found) == (kind in harmless)


def test_no_action_is_asked_where_nothing_is_lost():
    for entry in TABLE.values():
        assert entry.meaning.endswith('.')
        assert bool(entry.action) or entry.level is INFO


# ---------------------------------------------------------------- control flow policies


def test_marked_operator_in_a_loop_that_is_left_is_refused():
    model = models.ready(MarkedInScan())
    with pytest.raises(CompilationError, match='ETC301') as caught:
        compile_etrace_graph(model, models.random(3), control_flow=REFUSE)
    assert f'{__file__}:{line_of(MarkedInScan)}' in str(caught.value)
    assert [r.kind for r in caught.value.records][:1] == [K.PRIMITIVE_INSIDE_CONTROL_FLOW]


def test_marked_operator_in_a_branch():
    model = models.ready(MarkedInCond())
    with pytest.raises(CompilationError, match='etp_matmul stands inside a `cond`'):
        compile_etrace_graph(model, models.random(3), control_flow=REFUSE)
    graph = compile_etrace_graph(model, models.random(3), control_flow=LEAVE)
    assert graph.hidden_param_op_relations == ()
    (record,) = graph.explain(kind=K.PRIMITIVE_INSIDE_CONTROL_FLOW)
    assert record.source.line == line_of(MarkedInCond)
    # its parameter has a record of its own, and so a gradient that nobody is surprised by
    assert [r.kind for r in graph.explain(weight_path='W')] == [K.PARAMETER_UNMARKED]


def test_hidden_state_in_a_while_may_be_refused():
    model = models.ready(HiddenInWhile())
    policy = ControlFlowPolicy(while_hidden='error')
    with pytest.raises(CompilationError, match=r'ETC303 .*a hidden state passes a `while`'):
        compile_etrace_graph(model, models.random(3), control_flow=policy)


def test_weight_in_a_while_is_refused_whatever_the_policy():
    model = models.ready(WeightInWhile())
    with pytest.raises(CompilationError, match='ETC302 error: a parameter is used in a `while`'):
        compile_etrace_graph(model, models.random(3), control_flow=EXCLUDE)


def test_a_loop_without_parameters_or_states_needs_no_record():
    class LoopOverInput(Driven):
        def update(self, x):
            x = jax.lax.fori_loop(0, 3, lambda i, x: jnp.sin(x), x)
            self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
            return self.h.value

    kinds = {r.kind for r in records_of(LoopOverInput)}
    assert kinds == {K.RELATION_INCLUDED, K.PARAMETER_UNUSED}


# ---------------------------------------------------------------- no parameter without a record


class ConstantDrive(Driven):
    """A product of a constant and a parameter, which meets no input before it meets the state."""

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(jnp.ones(3), self.W.value) + x[0]
        return self.h.value


class Everything(models.Cell):
    """One parameter of every sort."""

    def __init__(self):
        super().__init__()
        self.decay, self.plain, self.unused = (models.parameter(4, seed=i) for i in (5, 6, 7))
        self.out = models.parameter(4, 2, seed=8)

    def update(self, x):
        drive = jnp.tanh(self.drive(x)) + self.plain.value
        self.h.value = jax.nn.sigmoid(element_wise(self.decay.value)) * self.h.value + drive
        return self.h.value @ self.out.value


@pytest.mark.parametrize('model', [*models.EVERY, ConstantDrive, Everything])
def test_no_parameter_is_without_a_record(model):
    """A relation, or a record that says which gradient it gets."""
    if isinstance(model, str):
        model, x = models.build(model)
    else:
        model, x = models.ready(model()), models.random(3)
    graph = compile_etrace_graph(model, x)
    for path in graph.module_info.parameter_paths:
        records = graph.explain(weight_path=path)
        assert any(r.weight_path == path for r in records), path
        assert all(r.weight_path in (path, None) for r in records)


@pytest.mark.parametrize(('model', 'name'), [(Unused, 'R'), (Unused, 'b'), (Stopped, 'W'),
                                             (Averaged, 'b')])  # fmt: skip
def test_a_gradient_of_zero_is_an_error_record(model, name):
    """Never read; read in vain; read behind a stop_gradient; ending in a detached state."""
    graph = compile_etrace_graph(models.ready(model()), models.random(3))
    found = graph.explain(weight_path=name, kind=K.PARAMETER_UNUSED)
    assert [r.level for r in found] == [ERROR]


def test_records_of_one_parameter_of_every_sort():
    graph = compile_etrace_graph(models.ready(Everything()), models.random(3))
    first = {p[0]: graph.explain(weight_path=p)[0].kind for p in graph.module_info.parameter_paths}
    assert first == {
        'W': K.RELATION_INCLUDED,
        'R': K.RELATION_INCLUDED,
        'b': K.RELATION_INCLUDED,
        'decay': K.RELATION_INCLUDED,
        'plain': K.PARAMETER_UNMARKED,
        'unused': K.PARAMETER_UNUSED,
        'out': K.PARAMETER_ONE_STEP,
    }
