"""The plugin: announces the learner, and imports it only when somebody asks for it."""

from collections.abc import Iterable

from etrace_algorithms.plugins import LearnerSpec, hookimpl

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learners of this package."""
    return [
        LearnerSpec(
            name='decayed_trace',
            summary='The trace of d_rtrl with a discount: credit of n steps ago counts decay**n.',
            factory='etrace_template.rule:DecayedTrace',
            exactness='approximate',
            memory='O(B·I·O·S)',
            reference='Not published: d_rtrl with a discount factor',
            # or the BibTeX of your publication; without it, an entry is made of `reference`
            bibtex='',
        )
    ]
