"""The plugin: announces the learner, and imports it only when somebody asks for it."""

from collections.abc import Iterable

from etrace_algorithms.plugins import LearnerSpec, hookimpl

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learners of this package."""
    return [
        LearnerSpec(
            name='eprop',
            summary='Eligibility propagation: filtered traces of single neurons, and a signal by '
            'symmetric, random or adaptive feedback.',
            factory='etrace_eprop.rule:EProp',
            exactness='approximate',
            memory='O(B·I·O·S)',
            reference='Bellec et al. (2020), A solution to the learning dilemma for recurrent '
            'networks of spiking neurons, Nature Communications 11:3625, '
            'doi:10.1038/s41467-020-17236-y',
            aliases=('e_prop',),
        )
    ]
