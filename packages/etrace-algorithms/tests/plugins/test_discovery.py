"""Discovery as a pure function of entry points: broken plugins are ordinary cases."""

from importlib.metadata import EntryPoint

import pytest

from etrace_algorithms.plugins import Origin
from etrace_algorithms.plugins.discovery import discover, is_disabled

HEAD = 'from etrace_algorithms.plugins import LearnerSpec, hookimpl\n'
SPEC = (
    "LearnerSpec('late', 'A rule.', 'operator:pos', 'approximate', 'O(1)', 'none', api_version={})"
)


def hook(body: str, marker: str = '@hookimpl', arguments: str = '', name: str | None = None) -> str:
    name = name or 'etrace_register_learners'
    return f'{HEAD}{marker}\ndef {name}({arguments}):\n    {body}\n'


# name: (code of the plugin, stage, beginning of the error, its code)
BROKEN = {
    'raises-on-import': (
        "raise RuntimeError('two\\nlines')",
        'import',
        '`plugin` cannot be imported: got RuntimeError: two lines; expected a module that imports',
        'ETA811',
    ),
    'imports-what-is-not-there': (
        'import no_such_module',
        'import',
        '`plugin` cannot be imported: got ModuleNotFoundError: No module named',
        'ETA811',
    ),
    'leaves-on-import': (
        'import sys; sys.exit(3)',
        'import',
        '`plugin` cannot be imported: got SystemExit: 3; expected',
        'ETA811',
    ),
    'syntax-error': (
        'def (',
        'import',
        '`plugin` cannot be imported: got SyntaxError:',
        'ETA811',
    ),
    'unreadable-exception': (
        'class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd',
        'import',
        '`plugin` cannot be imported: got Odd: (no text); expected',
        'ETA811',
    ),
    'raises-what-is-no-exception': (
        'class Stop(BaseException):\n    __str__ = None\nraise Stop',
        'import',
        '`plugin` cannot be imported: got Stop: (no text); expected',
        'ETA811',
    ),
    'wrong-signature': (
        hook('return []', arguments='registry'),
        'validate',
        '`etrace_register_learners` is malformed: got PluginValidationError:',
        'ETA812',
    ),
    'misspelt-hook': (
        hook('return []', name='etrace_register_learner'),
        'validate',
        '`etrace_register_learners` is misspelt: got PluginValidationError: unknown hook '
        "'etrace_register_learner'",
        'ETA813',
    ),
    'misspelt-optional-hook': (
        hook('return []', '@hookimpl(optionalhook=True)', name='etrace_register_learner'),
        'validate',
        '`etrace_register_learners` is missing: got module',
        'ETA814',
    ),
    'unmarked-hook': (
        'def etrace_register_learners():\n    return []',
        'validate',
        "`etrace_register_learners` is missing: got module 'unmarked_hook'; expected a module "
        'with that function, marked with @hookimpl.',
        'ETA814',
    ),
    'wrapper-hook': (
        hook('result = yield\n    return result', '@hookimpl(wrapper=True)'),
        'validate',
        '`etrace_register_learners` is a wrapper: got an implementation with wrapper or '
        'hookwrapper; expected a plain implementation.',
        'ETA815',
    ),
    'hook-raises': (
        hook("raise KeyError('x')"),
        'call',
        "`etrace_register_learners` failed when called: got KeyError: 'x'; expected an iterable",
        'ETA816',
    ),
    'hook-leaves': (
        hook("raise SystemExit('bye')"),
        'call',
        '`etrace_register_learners` failed when called: got SystemExit: bye; expected',
        'ETA816',
    ),
    'generator-raises': (
        hook("yield from ()\n    raise ValueError('late')"),
        'call',
        '`etrace_register_learners` failed when called: got ValueError: late; expected',
        'ETA816',
    ),
    'invalid-spec': (
        hook("return [LearnerSpec('a b', 'A rule.', 'operator:pos', 'unbiased', 'O(1)', 'x')]"),
        'call',
        '`etrace_register_learners` failed when called: got LearnerSpecError: `LearnerSpec.name`',
        'ETA816',
    ),
    'newer-spec': (
        hook("return [LearnerSpec(name='a', formula='x')]"),
        'call',
        '`etrace_register_learners` failed when called: got TypeError:',
        'ETA816',
    ),
    'returns-nothing': (
        hook('return None'),
        'result',
        '`etrace_register_learners` returned the wrong type: got NoneType; expected an iterable',
        'ETA817',
    ),
    'returns-text': (
        hook("return 'learner'"),
        'result',
        '`etrace_register_learners` returned the wrong type: got str; expected an iterable',
        'ETA817',
    ),
    'returns-one-spec': (
        hook(f'return {SPEC.format(1)}'),
        'result',
        '`etrace_register_learners` returned the wrong type: got LearnerSpec; expected an',
        'ETA817',
    ),
    'returns-wrong-items': (
        hook("return [{'name': 'late'}]"),
        'result',
        '`etrace_register_learners` returned a wrong item: got an item of type dict; expected',
        'ETA817',
    ),
    'returns-a-subclass': (
        hook(
            f'return [{SPEC.format(1).replace("LearnerSpec", "type(chr(65), (LearnerSpec,), {})")}]'
        ),
        'result',
        '`etrace_register_learners` returned a wrong item: got an item of type A; expected',
        'ETA817',
    ),
    'forged-spec': (
        hook('return [object.__new__(LearnerSpec)]'),
        'call',
        '`etrace_register_learners` failed when called: got AttributeError:',
        'ETA816',
    ),
    'changed-spec': (
        hook(f"s = {SPEC.format(1)}\n    object.__setattr__(s, 'name', 3)\n    yield s"),
        'call',
        '`etrace_register_learners` failed when called: got LearnerSpecError: `LearnerSpec.name`',
        'ETA816',
    ),
    'newer-interface': (
        hook(f'return [{SPEC.format(2)}]'),
        'version',
        '`late` is made for another plugin interface: got api_version 2; expected api_version 1. '
        "Upgrade 'etrace-algorithms'.",
        'ETA818',
    ),
    'shadows-a-builtin': (
        hook(f'return [{SPEC.format(1).replace("late", "pp-prop")}]'),
        'name',
        '`pp-prop` is the name of a built-in learner: got a claim on it by shadows-a-builtin 0.1',
        'ETA820',
    ),
}
OURS = {'d_rtrl', 'pp_prop', 'param_dim', 'immediate'}


def names(found) -> set[str]:
    return set(found.registry.names())


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_plugin_is_a_problem_and_harms_no_other(site, name):
    code, stage, error, number = BROKEN[name]
    site.add_good('aaa-before', 'before')
    site.add(name, code)
    site.add_good('zzz-after', 'after')
    found = discover(site.entry_points())
    (problem,) = found.problems
    plugin = name.replace('-', '_')
    assert (problem.plugin, problem.distribution, problem.version) == (plugin, name, '0.1')
    assert problem.stage == stage
    assert problem.error.startswith(error)
    assert problem.error.endswith(f'[{number}]')
    assert str(problem).startswith(f"plugin '{plugin}' of {name} 0.1 ({stage}): `")
    assert OURS | {'before', 'after'} <= names(found)
    assert found.registry.get('pp_prop').origin.is_builtin


def test_all_broken_plugins_at_once(site):
    for name, (code, *_) in BROKEN.items():
        site.add(name, code)
    site.add_good('etrace-good', 'good')
    found = discover(site.entry_points())
    assert names(found) == OURS | {'good', 'shadows-a-builtin:pp-prop'}
    assert {p.distribution for p in found.problems} == set(BROKEN)
    assert len(found.problems) == len(BROKEN)


def test_a_plugin_that_works_is_no_problem(site):
    site.add_good('etrace-good', 'good', aliases=('fine',))
    found = discover(site.entry_points())
    assert (found.problems, found.disabled) == ((), ())
    assert found.registry.get('Fine') is found.registry.get('etrace-good:good')
    assert found.registry.get('good').origin == Origin('etrace-good', '0.1', 'etrace_good')


def test_our_own_come_first_whatever_the_order(site):
    site.add_good('aaa', 'first')
    site.add_good('zzz', 'last')
    entry_points = site.entry_points()
    forward = discover(entry_points).registry.names()
    assert forward == discover(entry_points[::-1]).registry.names()
    assert forward == ('d_rtrl', 'immediate', 'pp_prop', 'param_dim', 'first', 'last')


def test_good_learners_of_a_plugin_survive_a_bad_item(site):
    body = f'return [{SPEC.format(1)}, 3, {SPEC.format(9)}]'
    site.add('etrace-mixed', hook(body))
    found = discover(site.entry_points())
    assert 'late' in names(found)
    assert [problem.stage for problem in found.problems] == ['result', 'version']


def test_entry_points_of_the_same_name_in_two_distributions_are_two_plugins(site):
    site.add_good('etrace-a', 'one', plugin='diagonal')
    site.add_good('etrace-b', 'two', plugin='diagonal')
    found = discover(site.entry_points())
    assert found.problems == ()
    assert OURS | {'one', 'two'} == names(found)


def test_entry_points_of_the_same_name_in_one_distribution_are_a_problem(site):
    site.add_module('twice', hook(f'return [{SPEC.format(1)}]'))
    site.add_metadata('etrace-twice', 'a-b = twice\na_b = twice')
    found = discover(site.entry_points())
    (problem,) = found.problems
    assert problem.stage == 'name'
    assert problem.error == (
        '`a_b` is the name of two entry points of one distribution: got a second one, '
        "'twice', from etrace-twice 0.1; expected names that differ. Its author has to rename "
        'one; the first is kept. [ETA819]'
    )
    assert 'late' in names(found)


def test_the_same_learner_name_in_two_distributions_is_ambiguous_not_broken(site):
    site.add_good('etrace-a', 'same')
    site.add_good('etrace-b', 'Same')
    found = discover(site.entry_points())
    assert found.problems == ()
    assert names(found) == OURS | {'etrace-a:same', 'etrace-b:Same'}


@pytest.mark.parametrize(
    ('target', 'error'),
    [
        ('operator:no_such_attribute', 'AttributeError'),
        ('no_such_module:plugin', 'ModuleNotFoundError'),
        ('not a module', 'AttributeError'),
        ('', 'AttributeError'),
    ],
)
def test_entry_points_that_lead_nowhere(site, target, error):
    site.add_good('etrace-good', 'good')
    wrong = EntryPoint('wrong', target, 'etrace.learners')
    found = discover([wrong, *site.entry_points()])
    (problem,) = found.problems
    assert (problem.plugin, problem.stage) == ('wrong', 'import')
    assert problem.error.startswith(f'`plugin` cannot be imported: got {error}')
    assert 'good' in names(found)


def test_a_distribution_without_metadata(site):
    site.add_good('etrace-bare', 'good')
    (site.folder / 'etrace_bare-0.1.dist-info/METADATA').unlink()
    site.add_good('etrace-good', 'better')
    found = discover(site.entry_points())
    assert {'good', 'better'} <= names(found)
    assert found.registry.get('better').origin.distribution == 'etrace-good'


def test_a_learner_with_a_missing_requirement_is_listed(site):
    site.add_good('etrace-a', 'hungry', requires=('no_such_module',))
    found = discover(site.entry_points())
    assert found.problems == ()
    assert found.registry.get('hungry').missing() == ('no_such_module',)


def test_an_entry_point_without_a_distribution(site):
    site.add_module('alone', hook(f'return [{SPEC.format(1)}]'))
    found = discover([EntryPoint('alone', 'alone', 'etrace.learners')])
    assert found.registry.get('late').origin == Origin('unknown', 'unknown', 'alone')


def test_control_characters_of_a_plugin_reach_no_terminal(site):
    site.add('etrace-rude', "raise ValueError('\\x1b[2J\\x07')")
    (problem,) = discover(site.entry_points()).problems
    assert problem.error.isprintable()


def test_interruption_is_not_swallowed(site):
    site.add('etrace-slow', 'raise KeyboardInterrupt')
    with pytest.raises(KeyboardInterrupt):
        discover(site.entry_points())


def test_disabled_plugins_are_not_imported(site):
    site.add('etrace-broken', 'raise RuntimeError')
    site.add_good('etrace-good', 'good')
    found = discover(site.entry_points(), ['Etrace_Broken'])
    assert (found.problems, found.disabled) == ((), ('etrace-broken:etrace_broken',))
    assert 'good' in names(found)


def test_the_star_spares_what_is_built_in(site):
    site.add_good('etrace-good', 'good')
    assert names(discover(site.entry_points(), ['*'])) == OURS
    assert names(discover(site.entry_points(), ['*', 'io_dim'])) == OURS - {'pp_prop'}


@pytest.mark.parametrize(
    ('entry', 'expected'),
    [
        ('e-prop', True),
        ('E_PROP', True),
        ('etrace-eprop', True),
        ('etrace.eprop:e_prop', True),
        ('*', True),
        ('other:e_prop', False),
        ('etrace-eprop:other', False),
        ('prop', False),
        ('', False),
    ],
)
def test_what_disables_a_plugin(entry, expected):
    assert is_disabled(Origin('etrace-eprop', '1.0', 'e-prop'), [entry]) is expected
