"""`LearnerSpec`: what it refuses, and how it loads."""

import operator
import pickle
import re

import pytest

from etrace_algorithms.plugins import API_VERSION, EXACTNESS, LearnerSpec, Origin
from etrace_algorithms.plugins.errors import LearnerLoadError, LearnerSpecError


def make(**changes) -> LearnerSpec:
    fields = {
        'name': 'rule',
        'summary': 'A rule.',
        'factory': 'operator:pos',
        'exactness': 'approximate',
        'memory': 'O(1)',
        'reference': 'unpublished',
    }
    return LearnerSpec(**(fields | changes))


def test_fields_keep_their_order():
    spec = LearnerSpec(
        'a', 'A rule.', operator.pos, 'unbiased', 'O(1)', 'none', ('json',), 1, ('b',)
    )
    assert (spec.requires, spec.api_version, spec.aliases) == (('json',), 1, ('b',))
    assert spec.origin is None


def test_lists_become_tuples_so_that_a_spec_can_be_hashed():
    spec = make(aliases=['b'], requires=['json'])
    assert spec == make(aliases=('b',), requires=('json',))
    assert hash(spec) == hash(make(aliases=('b',), requires=('json',)))


def test_a_spec_cannot_be_changed_and_can_be_pickled():
    spec = make()
    with pytest.raises(AttributeError):
        spec.name = 'other'  # pyright: ignore[reportAttributeAccessIssue]
    spec.load()
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_every_exactness_is_accepted_and_explained():
    assert set(EXACTNESS) == {'exact', 'exact-diagonal', 'approximate', 'unbiased', 'immediate'}
    for value, meaning in EXACTNESS.items():
        assert make(exactness=value).exactness == value
        assert meaning


def test_a_plugin_of_today_keeps_its_version_when_the_interface_moves_on():
    assert make().api_version == API_VERSION == 1


@pytest.mark.parametrize(
    ('changes', 'subject', 'got', 'expected'),
    [
        ({'name': ''}, 'name', "''", 'letters, digits, _, - and .'),
        ({'name': 3}, 'name', '3', 'letters, digits, _, - and .'),
        ({'name': 'a:b'}, 'name', "'a:b'", 'letters, digits, _, - and .'),
        ({'name': 'a b'}, 'name', "'a b'", 'letters, digits, _, - and .'),
        ({'summary': ' '}, 'summary', "' '", 'one line of text'),
        ({'summary': 'two\nlines'}, 'summary', r"'two\nlines'", 'one line of text'),
        ({'memory': None}, 'memory', 'None', 'one line of text'),
        ({'reference': '\x1b[31m'}, 'reference', r"'\x1b[31m'", 'one line of text'),
        ({'factory': 3}, 'factory', '3', "a callable or 'module:attr'"),
        ({'factory': 'module.attr'}, 'factory', "'module.attr'", "a callable or 'module:attr'"),
        ({'factory': 'a:b:c'}, 'factory', "'a:b:c'", "a callable or 'module:attr'"),
        ({'exactness': 'good'}, 'exactness', "'good'", 'one of exact, exact-diagonal'),
        ({'exactness': []}, 'exactness', '[]', 'one of exact, exact-diagonal'),
        ({'requires': 'json'}, 'requires', "'json'", 'a tuple of strings'),
        ({'requires': ('a>=1',)}, 'requires', "'a>=1'", 'names of top-level modules'),
        ({'requires': ('os.path',)}, 'requires', "'os.path'", 'names of top-level modules'),
        ({'api_version': 0}, 'api_version', '0', 'an integer from 1'),
        ({'api_version': True}, 'api_version', 'True', 'an integer from 1'),
        ({'api_version': '1'}, 'api_version', "'1'", 'an integer from 1'),
        ({'aliases': 'b'}, 'aliases', "'b'", 'a tuple of strings'),
        ({'aliases': ('b c',)}, 'aliases', "'b c'", 'letters, digits, _, - and .'),
        ({'aliases': ('Rule',)}, 'aliases', "'Rule'", 'names that differ'),
        ({'aliases': ('b-c', 'b_c')}, 'aliases', "'b_c'", 'names that differ'),
    ],
)
def test_an_impossible_field_is_named(changes, subject, got, expected):
    text = f'`LearnerSpec.{subject}` is not valid: got {got}; expected {expected}'
    with pytest.raises(LearnerSpecError, match=re.escape(text)) as raised:
        make(**changes)
    assert 'Correct the LearnerSpec of' in str(raised.value)
    assert str(raised.value).endswith('[ETA801]')


def test_load_returns_the_object_itself_or_what_the_text_names():
    assert make(factory=operator.neg).load() is operator.neg
    assert make(factory='operator:pos').load() is operator.pos
    assert make(factory='collections:OrderedDict.fromkeys').load() is not None


def test_nothing_is_imported_before_load_and_only_once_after(site):
    site.add_module('late_rule', 'import builtins\nbuiltins.late = True\nrule = object()')
    spec = make(factory='late_rule:rule')
    import sys

    assert 'late_rule' not in sys.modules
    first = spec.load()
    del sys.modules['late_rule']
    assert spec.load() is first


@pytest.mark.parametrize(
    ('factory', 'cause'),
    [
        ('no_such_module:rule', "ModuleNotFoundError: No module named 'no_such_module'"),
        ('operator:rule', "AttributeError: module 'operator' has no attribute 'rule'"),
        ('leaving_rule:rule', 'SystemExit: 3'),
        ('odd_rule:rule', 'Odd: (no text)'),
    ],
)
def test_a_failing_load_names_the_plugin(site, factory, cause):
    site.add_module('leaving_rule', 'raise SystemExit(3)')
    site.add_module(
        'odd_rule',
        'class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd',
    )
    spec = make(factory=factory, origin=Origin('etrace-x', '0.1', 'x'))
    text = f"`etrace-x:rule` cannot be loaded from '{factory}': got {cause}"
    with pytest.raises(LearnerLoadError, match=re.escape(text)) as raised:
        spec.load()
    assert '[ETA802]' in str(raised.value)
    assert raised.value.__cause__ is not None


def test_a_failing_load_is_tried_again(site):
    spec = make(factory='installed_later:rule')
    with pytest.raises(LearnerLoadError, match='`rule` cannot be loaded'):
        spec.load()
    site.add_module('installed_later', 'rule = 7')
    import importlib

    importlib.invalidate_caches()
    assert spec.load() == 7


def test_a_missing_requirement_is_said_before_anything_is_imported():
    spec = make(requires=('json', 'no_such_a', 'no_such_b'), factory='no_such_module:rule')
    assert spec.missing() == ('no_such_a', 'no_such_b')
    text = (
        '`rule` needs modules that are not installed: got no no_such_a, no_such_b; '
        'expected json, no_such_a, no_such_b. Install what is missing, for example '
        '`pip install no_such_a no_such_b`. [ETA803]'
    )
    with pytest.raises(LearnerLoadError, match=re.escape(text)):
        spec.load()


def test_a_requirement_that_is_there_does_not_hinder():
    assert make(requires=('json',)).missing() == ()
    assert make(requires=('json',)).load() is operator.pos
