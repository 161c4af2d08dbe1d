"""The conformance kit: our own learners pass, and each kind of mistake is told from the others."""

import itertools
import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest

from etrace_algorithms import D_RTRL, Exactness, LearningRule
from etrace_algorithms.plugins import LearnerSpec
from etrace_algorithms.rules import (
    DiagonalRTRL,
    ImmediateDerivatives,
    advance_traces,
    credit_traces,
    zero_traces,
)
from etrace_algorithms.testing import check_learner, conformance_tests
from etrace_algorithms.testing.conformance import QUESTIONS

from .test_rule_contract import Influence

test_d_rtrl = conformance_tests('d_rtrl')
test_pp_prop = conformance_tests('pp_prop', decay_or_rank=0.9)
test_immediate = conformance_tests('immediate', 'quick')
test_exact = conformance_tests(Influence(), 'quick')


# ---------------------------------------------------------------- mutants

DIAGONAL = 'exact where diagonal'


@dataclass(frozen=True)
class Literal(LearningRule):
    """`d_rtrl` in three lines; every mutant has one of them wrong."""

    @property
    def exactness(self):
        return Exactness.EXACT_DIAGONAL

    def init(self, graph):
        return zero_traces(graph)

    def update(self, trace, lin):
        return advance_traces(trace, lin)

    def credit(self, trace, signal):
        return credit_traces(trace, signal)


class SignFlipped(Literal):
    def history(self, *args):
        return jax.tree.map(jnp.negative, super().history(*args))


class TransposedD(Literal):
    def update(self, trace, lin):
        return super().update(trace, replace(lin, D=tuple(d.swapaxes(-1, -2) for d in lin.D)))


class MissingDecay(Literal):
    def update(self, trace, lin):
        eyes = tuple(jnp.broadcast_to(jnp.eye(d.shape[-1]), d.shape) for d in lin.D)
        return super().update(trace, replace(lin, D=eyes))


class StaleTrace(Literal):
    def history(self, before, after, lin, signal, bypass):
        return self.credit(before, signal)


class CountsTwice(Literal):
    def history(self, before, after, lin, signal, bypass):
        return self.credit(after, signal)


class AveragesTheBatch(Literal):
    def history(self, before, after, lin, signal, bypass):
        found = super().history(before, after, lin, signal, bypass)
        return {r.key: found[r.key] / r.block_shape[0] for r in lin.relations}


class Impure(Literal):
    count = itertools.count(1)

    def update(self, trace, lin):
        noise = 1 + 0.01 * next(self.count)
        return super().update(jax.tree.map(lambda e: noise * e, trace), lin)


class Widens(Literal):
    def init(self, graph):
        return zero_traces(graph, jnp.float64)


class ChangesStructure(Literal):
    def update(self, trace, lin):
        return {key: list(value) for key, value in super().update(trace, lin).items()}


class ForgetsInWindows(DiagonalRTRL):
    def window(self, trace, lin, *taps):
        gradients, _ = super().window(jax.tree.map(jnp.zeros_like, trace), lin, *taps)
        return gradients, super().window(trace, lin, *taps)[1]


class Clips(Literal):
    def history(self, before, after, lin, signal, bypass):
        clipped = replace(signal, values=tuple(jnp.clip(v, -0.1, 0.1) for v in signal.values))
        return super().history(before, after, lin, clipped, bypass)


class KnowsNoLoops(Literal):
    def init(self, graph):
        if any(r.loops for r in graph.hidden_param_op_relations):
            raise KeyError('loops')
        return super().init(graph)


class StartsWithOnes(Literal):
    def init(self, graph):
        return jax.tree.map(jnp.ones_like, super().init(graph))


class CompilesAgain(D_RTRL):
    def etrace_grad(self, *sequences, **options):
        self.drives.clear()
        return super().etrace_grad(*sequences, **options)


class NeverResets(D_RTRL):
    def init_etrace_state(self, *args, **kwargs):
        if self.etrace is None:
            super().init_etrace_state(*args, **kwargs)


MUTANTS = [
    (SignFlipped, DIAGONAL, 'one step'),
    (TransposedD, DIAGONAL, 'one step'),
    (MissingDecay, DIAGONAL, 'one step'),
    (StaleTrace, DIAGONAL, 'one step'),
    (CountsTwice, 'one step', 'linear'),
    (AveragesTheBatch, 'vmap', 'one step'),
    (Impure, 'repeatable', 'stable trace'),
    (Widens, 'precision', 'one step'),
    (ChangesStructure, 'stable trace', 'declaration'),
    (ForgetsInWindows, 'windows', DIAGONAL),
    (Clips, 'linear', 'one step'),
    (KnowsNoLoops, 'other graphs', DIAGONAL),
    (StartsWithOnes, 'one step', 'reset'),
    (CompilesAgain, 'compiled once', 'one step'),
    (NeverResets, 'reset', 'compiled once'),
]


@pytest.mark.parametrize(('mutant', 'broken', 'kept'), MUTANTS)
def test_a_mutant_fails_for_the_right_reason(mutant, broken, kept):
    subject = mutant() if issubclass(mutant, LearningRule) else mutant
    report = check_learner(subject, only=(broken, kept))
    assert report.broken == (broken,)
    assert report[broken].detail
    assert report[kept].status == 'kept'


def test_what_the_mutants_are_made_of_passes():
    asked = {question for _, *both in MUTANTS for question in both}
    report = check_learner(Literal(), only=asked)
    assert report.ok
    assert len(report.answers) == len(asked)


# ---------------------------------------------------------------- promises of other kinds


@dataclass(frozen=True)
class Noise(Influence):
    """Exact but for noise of a mean."""

    mean: float = 1.0

    @property
    def exactness(self):
        return Exactness.UNBIASED

    def init(self, graph):
        return jax.random.key(0), super().init(graph)

    def update(self, trace, lin):
        return jax.random.split(trace[0])[0], super().update(trace[1], lin)

    def credit(self, trace, signal):
        noise = self.mean + 0.5 * jax.random.rademacher(trace[0], (), float)
        return jax.tree.map(lambda g: noise * g, super().credit(trace[1], signal))


def test_a_random_rule_is_right_in_the_mean():
    assert check_learner(Noise(), only=['unbiased', 'one step', 'vmap']).ok


def test_a_biased_mean_is_noticed():
    report = check_learner(Noise(mean=0.9), only=['unbiased'])
    assert 'standard errors' in report['unbiased'].detail


def test_a_random_rule_without_a_key_is_told_what_is_missing():
    class NoKey(Influence):
        exactness = Exactness.UNBIASED

    report = check_learner(NoKey(), only=['unbiased'])
    assert 'random key' in report['unbiased'].detail


def test_a_rule_that_promises_too_much():
    spec = LearnerSpec('mine', 'Mine.', ImmediateDerivatives, 'exact-diagonal', 'O(1)', 'none')
    report = check_learner(spec, only=['declaration', DIAGONAL])
    assert report.broken == ('declaration', DIAGONAL)
    assert report['declaration'].detail == 'the plugin says exact-diagonal, the rule immediate'


def test_against_the_gradient_is_not_aligned():
    class Away(Literal):
        exactness = Exactness.APPROXIMATE

        def gradient(self, *args):
            return jax.tree.map(jnp.negative, super().gradient(*args))

    assert check_learner(Away(), only=['aligned']).broken == ('aligned',)


def test_a_replaced_signal_is_not_asked_for_its_first_step():
    class Elsewhere(Literal):
        exactness = Exactness.APPROXIMATE
        exact_at_one_step = False

    report = check_learner(Elsewhere(), only=['one step', 'reset'])
    assert report['one step'].status == 'not asked'
    assert report.ok


# ---------------------------------------------------------------- the report


def test_a_report_card_in_words_and_numbers():
    report = check_learner('immediate', only=['declaration', 'reset'])
    assert str(report).splitlines() == [
        'immediate (immediate), level quick: 2 of 2 kept',
        '  declaration  kept       immediate, said by rule and plugin',
        '  reset        kept       the trace begins anew',
    ]
    assert json.loads(json.dumps(report.to_dict()))['ok'] is True
    assert '\x1b[32m' in report.to_str(colour=True)


def test_every_question_is_said_in_one_sentence():
    assert all(text.endswith('.') for text in QUESTIONS.values())


@pytest.mark.parametrize('wrong', [{'level': 'some'}, {'only': ['soundness']}])
def test_unknown_levels_and_questions_are_refused(wrong):
    with pytest.raises(ValueError, match=r'is unknown: got .* \[ETA125\]'):
        check_learner('immediate', **wrong)


pytest_plugins = ['pytester']


def test_the_test_file_of_an_author(pytester):
    """Three lines, run by a pytest of its own."""
    pytester.makepyfile(
        test_mine="""
        from etrace_algorithms.testing import conformance_tests

        test_conformance = conformance_tests('immediate')
        """
    )
    run = [
        '-p',
        'no:cacheprovider',
        '--etrace-level',
        'quick',
        '-k',
        'declaration or reset or exact',
    ]
    pytester.runpytest_subprocess(*run).assert_outcomes(passed=2, skipped=2)
