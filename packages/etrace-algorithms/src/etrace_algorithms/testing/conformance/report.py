"""What the conformance kit found: one answer per question."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from etrace_compiler.terminal import paint

__all__ = ['Answer', 'LearnerReport']

Status = Literal['kept', 'broken', 'not asked']

_COLOURS = {'kept': 'green', 'broken': 'red', 'not asked': 'cyan'}


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        question: What was asked, in a word or two.
        status: `'kept'`, `'broken'`, or `'not asked'` where the question has no meaning.
        detail: What was measured, or what is wrong, or why it was not asked.
    """

    question: str
    status: Status
    detail: str


@dataclass(frozen=True)
class LearnerReport:
    """The report card of a learner.

    Attributes:
        learner: Its name.
        exactness: What it promises.
        level: `'quick'` or `'full'`.
        answers: One per question.
    """

    learner: str
    exactness: str
    level: str
    answers: tuple[Answer, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[str, ...]:
        """The questions whose answer is no."""
        return tuple(a.question for a in self.answers if a.status == 'broken')

    def __getitem__(self, question: str) -> Answer:
        return next(a for a in self.answers if a.question == question)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as numbers, texts, lists and dictionaries."""
        return {**asdict(self), 'answers': [asdict(a) for a in self.answers], 'ok': self.ok}

    def to_str(self, colour: bool = False) -> str:
        """Return the report as a table in text.

        Args:
            colour: Whether to colour it for a terminal.
        """
        asked = [a for a in self.answers if a.status != 'not asked']
        kept = len(asked) - len(self.broken)
        width = max(len(a.question) for a in self.answers)
        lines = [f'{self.learner} ({self.exactness}), level {self.level}: '
                 f'{kept} of {len(asked)} kept']  # fmt: skip
        for a in self.answers:
            status = paint(a.status.ljust(9), _COLOURS[a.status], colour)
            lines.append(f'  {a.question.ljust(width)}  {status}  {a.detail}')
        return '\n'.join(lines)

    def __str__(self) -> str:
        return self.to_str()
