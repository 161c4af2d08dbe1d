"""Announces `immediate`."""

from collections.abc import Iterable

from etrace_algorithms.plugins._sources import MARSCHALL
from etrace_algorithms.plugins.hookspecs import hookimpl
from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learner without a trace."""
    return [
        LearnerSpec(
            name='immediate',
            summary='No trace: the gradient of each step alone, the control that every '
            'comparison needs.',
            factory='etrace_algorithms.learners:Immediate',
            exactness='immediate',
            memory='O(1)',
            reference='The immediate influence of Marschall, Cho & Savin (2020), A unified '
            'framework of online learning algorithms for training recurrent neural networks, '
            'Journal of Machine Learning Research 21(135):1-34, kept without its past',
            bibtex=MARSCHALL,
        )
    ]
