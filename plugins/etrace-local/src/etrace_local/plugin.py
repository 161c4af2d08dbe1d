"""The plugin: announces the learners, and imports them only when somebody asks for them."""

from collections.abc import Iterable

from etrace_algorithms.plugins import LearnerSpec, hookimpl

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learners of this package."""
    return [
        LearnerSpec(
            name='rflo',
            summary='Traces with one leak for all units, and random feedback.',
            factory='etrace_local.rflo:RFLO',
            exactness='approximate',
            memory='O(B·I·O·S)',
            reference='Murray (2019), Local online learning in recurrent networks with random '
            'feedback, eLife 8:e43299, doi:10.7554/eLife.43299',
        ),
        LearnerSpec(
            name='ottt',
            summary='A leaky trace of each input, times the derivative of the present step.',
            factory='etrace_local.ottt:OTTT',
            exactness='approximate',
            memory='O(B·(I+O·S))',
            reference='Xiao et al. (2022), Online training through time for spiking neural '
            'networks, arXiv:2210.04195',
        ),
        LearnerSpec(
            name='otpe',
            summary='Traces that go on in the membrane of the next layer.',
            factory='etrace_local.otpe:OTPE',
            exactness='approximate',
            memory='O(B·I·O·S)',
            reference='Summe, Schaefer & Joshi (2023), Estimating post-synaptic effects for '
            'online training of feed-forward SNNs, arXiv:2311.16151',
        ),
        LearnerSpec(
            name='ostl',
            summary='The complete Jacobian within each layer, none from layer to layer.',
            factory='etrace_local.ostl:OSTL',
            exactness='exact-diagonal',
            memory='O(B·P·I·O·S)',
            reference='Bohnstingl et al. (2022), Online spatio-temporal learning in deep neural '
            'networks, doi:10.1109/TNNLS.2022.3153985',
        ),
        LearnerSpec(
            name='ostl_feedforward',
            summary='What each unit keeps by itself, for layers without recurrent weights.',
            factory='etrace_local.ostl:FeedforwardOSTL',
            exactness='exact-diagonal',
            memory='O(B·I·O·S)',
            reference='Bohnstingl et al. (2022), Online spatio-temporal learning in deep neural '
            'networks, doi:10.1109/TNNLS.2022.3153985',
        ),
        LearnerSpec(
            name='three_factor',
            summary='Eligibility traces times a modulator that is an argument of every step.',
            factory='etrace_local.three_factor:ThreeFactor',
            exactness='approximate',
            memory='O(B·I·O·S)',
            reference='Frémaux & Gerstner (2016), Neuromodulated spike-timing-dependent '
            'plasticity, and theory of three-factor learning rules, Frontiers in Neural Circuits '
            '9:85, doi:10.3389/fncir.2015.00085',
            aliases=('modulated',),
        ),
    ]
