"""The registry as a pure function of (learner, origin) pairs."""

import re

import pytest

from etrace_algorithms.plugins import LearnerSpec, Origin, PluginProblem
from etrace_algorithms.plugins.errors import AmbiguousLearnerError, UnknownLearnerError
from etrace_algorithms.plugins.registry import Registry, build_registry


def found(name: str, distribution: str, *aliases: str, plugin: str = 'p'):
    spec = LearnerSpec(
        name, 'A rule.', 'operator:pos', 'approximate', 'O(1)', 'none', aliases=aliases
    )
    return spec, Origin(distribution, '0.1', plugin)


BUILTIN = [
    found('d_rtrl', 'etrace-algorithms', 'diagonal'),
    found('pp_prop', 'etrace-algorithms', 'es_d_rtrl'),
]


def test_names_and_aliases_ignore_case_and_the_kind_of_dash():
    registry, problems = build_registry(BUILTIN)
    assert problems == ()
    for name in ('pp_prop', 'PP-Prop', ' pp_prop ', 'ES-D-RTRL'):
        assert registry.get(name).name == 'pp_prop'
    assert registry.get('Etrace_Algorithms:DIAGONAL').name == 'd_rtrl'


def test_a_learner_knows_where_it_comes_from():
    registry, _ = build_registry([found('eprop', 'etrace-eprop')])
    assert registry.get('eprop').origin == Origin('etrace-eprop', '0.1', 'p')
    assert not registry.get('eprop').origin.is_builtin


def test_two_claims_are_ambiguous_and_both_can_be_asked_for():
    registry, problems = build_registry(
        [found('eprop', 'etrace-a'), found('e-prop', 'etrace-b', 'EProp')]
    )
    assert problems == ()
    text = (
        '`eprop` is ambiguous: got a name that 2 distributions offer; expected one of '
        'etrace-a:eprop, etrace-b:eprop. Ask for one of these, or uninstall the other. [ETA806]'
    )
    with pytest.raises(AmbiguousLearnerError, match=re.escape(text)):
        registry.get('eprop')
    assert registry.get('etrace-a:eprop').origin.distribution == 'etrace-a'
    assert registry.get('etrace-b:eprop').name == 'e-prop'
    assert registry.names() == ('etrace-a:eprop', 'e-prop')


def test_one_claim_alone_is_not_ambiguous():
    registry, _ = build_registry([found('eprop', 'etrace-a')])
    assert registry.get('eprop').origin.distribution == 'etrace-a'
    assert registry.names() == ('eprop',)


@pytest.mark.parametrize('ours_first', [True, False])
def test_a_builtin_cannot_be_shadowed(ours_first):
    impostor = [found('mine', 'etrace-x', 'D-RTRL')]
    registry, problems = build_registry(BUILTIN + impostor if ours_first else impostor + BUILTIN)
    assert registry.get('d_rtrl').origin.is_builtin
    assert registry.get('mine').origin.distribution == 'etrace-x'
    assert registry.get('etrace-x:d_rtrl').name == 'mine'
    text = (
        '`D-RTRL` is the name of a built-in learner: got a claim on it by etrace-x 0.1; '
        "expected a name of its own. Ask for 'etrace-x:D-RTRL'; the plain name stays with the "
        'built-in. [ETA820]'
    )
    assert problems == (PluginProblem('p', 'etrace-x', '0.1', 'name', text),)


def test_one_distribution_cannot_offer_a_name_twice():
    registry, problems = build_registry(
        [found('eprop', 'etrace-x'), found('other', 'etrace-x', 'e', 'EProp', plugin='q')]
    )
    assert [spec.name for spec in registry.specs] == ['eprop']
    assert registry.get('eprop').name == 'eprop'
    text = (
        '`EProp` is offered twice by one distribution: got a second learner '
        "'other' from etrace-x 0.1; expected names and aliases that differ within a distribution."
    )
    (problem,) = problems
    assert (problem.plugin, problem.stage) == ('q', 'name')
    assert problem.error.startswith(text)
    assert problem.error.endswith('[ETA821]')


@pytest.mark.parametrize(
    ('name', 'near'),
    [
        ('d_rtl', 'd_rtrl'),
        ('D-RTL', 'd_rtrl'),
        ('diagnal', 'diagonal'),
        ('pprop', 'pp_prop'),
        ('etrace-algorithm:d_rtrl', 'etrace-algorithms:d_rtrl'),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, near):
    registry, _ = build_registry(BUILTIN)
    text = (
        f'`{name}` is not a known learner: got {name!r}; expected one of d_rtrl, pp_prop. '
        f'Did you mean {near!r}? [ETA805]'
    )
    with pytest.raises(UnknownLearnerError, match=re.escape(text)):
        registry.get(name)
    assert registry.get(near)


def test_an_unknown_name_like_no_other_lists_what_is_there_and_what_is_not_usable():
    registry, _ = build_registry(BUILTIN)
    problem = PluginProblem('x', 'etrace-x', '0.1', 'import', 'broken')
    text = (
        "`xyz` is not a known learner: got 'xyz'; expected one of d_rtrl, pp_prop. Install the "
        'package that offers it. Not usable: etrace-x:x (import); `etrace list` says why. '
        'Disabled: etrace-y:y. [ETA805]'
    )
    with pytest.raises(UnknownLearnerError, match=re.escape(text)):
        registry.get('xyz', [problem], ['etrace-y:y'])


def test_an_ambiguous_name_is_never_proposed():
    registry, _ = build_registry([found('eprop', 'etrace-a'), found('eprop', 'etrace-b')])
    with pytest.raises(UnknownLearnerError, match=r'Install the package that offers it\.'):
        registry.get('eprob')
    with pytest.raises(UnknownLearnerError, match="Did you mean 'etrace-a:eprop'"):
        registry.get('etrace-a:eprob')


def test_an_empty_registry_says_that_nothing_is_installed():
    text = "expected one of (none found). Install 'etrace-algorithms' itself"
    with pytest.raises(UnknownLearnerError, match=re.escape(text)):
        Registry().get('d_rtrl')


@pytest.mark.parametrize('name', ['', ':', 'a:', ':d_rtrl', 'a:b:c', 'x\ny'])
def test_odd_names_are_unknown(name):
    registry, _ = build_registry(BUILTIN)
    with pytest.raises(UnknownLearnerError, match='is not a known learner') as raised:
        registry.get(name)
    assert '\n' not in str(raised.value)


def test_a_name_has_to_be_a_string():
    text = '`name` is not the name of a learner: got 3 of type int; expected a string.'
    with pytest.raises(TypeError, match=re.escape(text)) as raised:
        Registry().get(3)  # pyright: ignore[reportArgumentType]
    assert str(raised.value).endswith('[ETA804]')
