"""Ask a learner all questions, and write its report card."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import brainstate
import jax

from etrace_algorithms.testing.conformance.always import ALWAYS
from etrace_algorithms.testing.conformance.promises import PROMISES
from etrace_algorithms.testing.conformance.report import Answer, LearnerReport
from etrace_algorithms.testing.conformance.subject import Broken, Subject
from etrace_compiler.errors import explain_error

__all__ = ['QUESTIONS', 'check_learner', 'conformance_tests']

Level = Literal['quick', 'full']

#: Every question that may be asked, and what it asks.
QUESTIONS: dict[str, str] = {
    'declaration': 'The plugin promises what the rule promises.',
    **{
        name: str(ask.__doc__).splitlines()[0]
        for asked in (ALWAYS, *PROMISES.values())
        for name, ask in asked.items()
    },
}


def check_learner(
    learner: Any,
    level: Level = 'quick',
    *,
    only: Collection[str] | None = None,
    **options: Any,
) -> LearnerReport:
    """Ask whether a learner keeps what every learner must, and what it promises.

    All runs are in float64, except where float32 is the question; nothing depends on chance.

    Args:
        learner: The name of an installed learner, a `LearnerSpec`, a learning rule, a class of
            rules, or a class of learners.
        level: `'quick'` tries three models, `'full'` eight, and more samples of random rules.
        only: The questions to ask, of `QUESTIONS`; all that have a meaning by default.
        **options: Options of the learner, for example `decay_or_rank=0.9`.

    Returns:
        One answer per question. What is asked depends on the declared exactness: equality with
        backpropagation for `'exact'` and `'exact-diagonal'`, the mean over random keys for
        `'unbiased'`, the sum of single steps for `'immediate'`, alignment for `'approximate'`.

    Raises:
        ValueError: If the level or a question is unknown.
        UnknownLearnerError: If no learner has this name.

    Example:
        >>> from etrace_algorithms.rules import ImmediateDerivatives
        >>> check_learner(ImmediateDerivatives()).ok
        True
    """
    with _double():
        wanted = QUESTIONS if only is None else only
        _check('level', [level], ('quick', 'full'))
        _check('only', wanted, QUESTIONS)
        subject = Subject.of(learner, options, level)
        asked = {name: ask for name, ask in _questions(subject).items() if name in wanted}
        answers = [_answer(subject, name, ask) for name, ask in asked.items()]
    return LearnerReport(subject.name, subject.exactness, level, tuple(answers))


def conformance_tests(
    learner: Any,
    level: Level = 'full',
    *,
    only: Collection[str] | None = None,
    **options: Any,
) -> Callable[..., None]:
    """Return a test function for pytest, with one test per question.

    It needs pytest. The whole test file of a learner may be

        from etrace_algorithms.testing import conformance_tests

        test_conformance = conformance_tests('my_learner')

    Args:
        learner: As for `check_learner`; a name is looked up when the tests run.
        level: As for `check_learner`; the option `--etrace-level` of pytest overrides it.
        only: As for `check_learner`.
        **options: Options of the learner.

    Raises:
        ValueError: If a question is unknown.
    """
    import pytest

    questions = list(QUESTIONS if only is None else only)
    _check('only', questions, QUESTIONS)

    subjects: dict[str, Subject] = {}

    @pytest.mark.parametrize('question', questions)
    def test_conformance(question: str, request: pytest.FixtureRequest) -> None:
        wanted = request.config.getoption('--etrace-level', default=None) or level
        with _double():
            if wanted not in subjects:
                _check('level', [wanted], ('quick', 'full'))
                subjects[wanted] = Subject.of(learner, options, wanted)
            asked = _questions(subjects[wanted])
            if question not in asked:
                pytest.skip(f'not a question for a learner that is {subjects[wanted].exactness}')
            answer = _answer(subjects[wanted], question, asked[question])
        if answer.status == 'not asked':
            pytest.skip(answer.detail)
        assert answer.status == 'kept', answer.detail

    return test_conformance


def _check(argument: str, given: Collection[str], known: Collection[str]) -> None:
    for value in given:
        if value not in known:
            raise ValueError(
                explain_error(
                    argument,
                    'is unknown',
                    got=repr(value),
                    expected=', '.join(map(repr, known)),
                    fix=f'Leave {argument} out.',
                    code='ETA125',
                )
            )


def _questions(subject: Subject) -> dict[str, Callable[[Subject], str]]:
    """The questions for a learner of this exactness."""
    return {'declaration': _declaration, **ALWAYS, **PROMISES[subject.exactness]}


def _declaration(subject: Subject) -> str:
    """The plugin promises what the rule promises."""
    rule = subject.rule
    promised = None if rule is None else str(rule.exactness)
    if promised not in (None, subject.exactness):
        raise Broken(f'the plugin says {subject.exactness}, the rule {promised}')
    return f'{subject.exactness}, said by {"rule and plugin" if subject.spec else "the rule"}'


def _answer(subject: Subject, name: str, ask: Callable[[Subject], str]) -> Answer:
    """Ask one question; whatever goes wrong is an answer too."""
    try:
        if reason := _pointless(subject, name):
            return Answer(name, 'not asked', reason)
        return Answer(name, 'kept', ask(subject))
    except Broken as broken:
        return Answer(name, 'broken', str(broken))
    except Exception as error:
        text = (str(error).strip() or 'no message').splitlines()[0]
        return Answer(name, 'broken', f'{type(error).__name__}: {text}')


def _pointless(subject: Subject, name: str) -> str | None:
    """Why a question has no meaning for a learner, if it has none."""
    if name in ('one step', 'aligned', 'descent') and not subject.exact_at_one_step:
        return 'the rule puts another signal in the place of the derivative of the loss'
    if name == 'windows' and subject.by_windows:
        return 'the learner differentiates through its windows: other windows, other gradients'
    return None


@contextlib.contextmanager
def _double() -> Iterator[None]:
    """Allow float64, as the oracles need it."""
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update('jax_enable_x64', True)
    try:
        with brainstate.environ.context(precision=64):
            yield
    finally:
        jax.config.update('jax_enable_x64', before)
