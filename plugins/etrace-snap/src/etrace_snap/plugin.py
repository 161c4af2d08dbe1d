"""The plugin: announces the learners, and imports them only when somebody asks for one."""

from collections.abc import Iterable

from etrace_algorithms.plugins import LearnerSpec, hookimpl

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learners of this package."""
    return [
        LearnerSpec(
            name='rtrl',
            summary='Exact real-time recurrent learning: the whole influence matrix, for small '
            'models and as a reference.',
            factory='etrace_snap.rtrl:RTRL',
            exactness='exact',
            memory='O(B·N·S·P)',
            reference='Williams & Zipser (1989), A learning algorithm for continually running '
            'fully recurrent neural networks, Neural Computation 1(2):270-280, '
            'doi:10.1162/neco.1989.1.2.270',
        ),
        LearnerSpec(
            name='snap',
            summary='SnAp-n: the entries of the influence matrix that n steps can reach.',
            factory='etrace_snap.snap:SnAp',
            exactness='approximate',
            memory='O(B·P·S·R), R positions that a parameter reaches in n steps',
            reference='Menick et al. (2021), Practical real time recurrent learning with a sparse '
            'approximation, arXiv:2006.07232',
        ),
    ]
