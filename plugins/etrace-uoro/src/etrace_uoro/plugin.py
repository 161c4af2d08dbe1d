"""The plugin: announces the learners, and imports them only when somebody asks for one."""

from collections.abc import Iterable

from etrace_algorithms.plugins import LearnerSpec, hookimpl

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learners of this package."""
    return [
        LearnerSpec(
            name='uoro',
            summary='Unbiased, with as little memory as the model has: one random vector of states '
            'and one of parameters.',
            factory='etrace_uoro.uoro:UORO',
            exactness='unbiased',
            memory='O(B·(N·S + P))',
            reference='Tallec & Ollivier (2018), Unbiased online recurrent optimization, '
            'arXiv:1702.05043',
        ),
        LearnerSpec(
            name='kf_rtrl',
            summary='Unbiased, with less variance than uoro: a random input for each operation and '
            'what its results did to all states.',
            factory='etrace_uoro.kf_rtrl:KFRTRL',
            exactness='unbiased',
            memory='O(B·(I + O·N·S))',
            reference='Mujika, Meier & Steger (2018), Approximating real-time recurrent learning '
            'with random Kronecker factors, arXiv:1805.10842',
        ),
    ]
