"""Look-up in a process: lazy, once, with warnings, strictly, and again on request."""

import re
import subprocess
import sys
import threading
import warnings

import pytest

from etrace_algorithms import plugins
from etrace_algorithms.plugins import (
    PluginDiscoveryError,
    PluginWarning,
    UnknownLearnerError,
    _entry_points,
    get_learner,
    learners,
    lookup,
    problems,
    refresh,
)

BROKEN = 'raise RuntimeError("broken")'
COUNTING = 'import builtins\nbuiltins.imports = getattr(builtins, "imports", 0) + 1\n'


def ours(distribution: str):
    """Return the problems of one distribution; others may be installed here."""
    return [problem for problem in problems() if problem.distribution == distribution]


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', PluginWarning)
        yield


def test_the_builtin_learners_are_found(site):
    found = {spec.name: spec for spec in learners()}
    assert {'d_rtrl', 'pp_prop', 'param_dim', 'immediate'} <= set(found)
    assert get_learner('es-d-rtrl') is found['pp_prop']
    assert get_learner('etrace-algorithms:diagonal') is found['d_rtrl']


def test_an_installed_plugin_is_found_and_loads(site):
    site.add_good('etrace-good', 'good')
    import operator

    assert get_learner('good').load() is operator.pos
    assert get_learner('etrace-good:good').origin.version == '0.1'
    assert ours('etrace-good') == []


def test_a_broken_plugin_warns_once_and_leaves_the_others(site):
    site.add('etrace-broken', BROKEN)
    site.add_good('etrace-good', 'good')
    text = r"plugin 'etrace_broken' of etrace-broken 0\.1 \(import\): `plugin` cannot be imported"
    with pytest.warns(PluginWarning, match=text) as told:
        assert get_learner('good').name == 'good'
    assert [w.filename for w in told if 'etrace-broken' in str(w.message)] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert learners()
        refresh()
        assert get_learner('d_rtrl')


def test_asking_for_the_problems_does_not_warn(site):
    site.add('etrace-broken', BROKEN)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (problem,) = ours('etrace-broken')
    assert problem.stage == 'import'


@pytest.mark.usefixtures('quiet')
def test_an_unknown_name_says_what_failed_and_what_is_disabled(site, monkeypatch):
    site.add('etrace-broken', BROKEN)
    site.add_good('etrace-good', 'good')
    monkeypatch.setenv('ETRACE_DISABLE_PLUGINS', 'etrace-good')
    with pytest.raises(UnknownLearnerError, match="Did you mean 'd_rtrl'") as raised:
        get_learner('d_rtl')
    assert 'etrace-broken:etrace_broken (import)' in str(raised.value)
    assert 'Disabled: etrace-good:etrace_good.' in str(raised.value)


@pytest.mark.usefixtures('quiet')
def test_discovery_happens_once_until_refreshed(site, monkeypatch):
    import builtins

    monkeypatch.setattr(builtins, 'imports', 0, raising=False)
    site.add('etrace-count', COUNTING + BROKEN)
    for _ in range(3):
        learners()
    assert builtins.imports == 1
    site.add_good('etrace-new', 'new')
    with pytest.raises(UnknownLearnerError):
        get_learner('new')
    refresh()
    assert get_learner('new').name == 'new'
    assert builtins.imports == 2


@pytest.mark.parametrize('value', ['1', 'true', 'YES'])
def test_strict_mode_raises_all_problems_at_once(site, monkeypatch, value):
    monkeypatch.setenv('ETRACE_STRICT_PLUGINS', value)
    site.add('etrace-broken', BROKEN)
    site.add('etrace-empty', '')
    for ask in (learners, lambda: get_learner('d_rtrl'), learners):
        with pytest.raises(PluginDiscoveryError, match=r'\[ETA807\]') as raised:
            ask()
        assert 'forbids plugins that cannot be used: got ' in str(raised.value)
        assert re.search(r"\n  plugin 'etrace_broken' of .*\[ETA811\]", str(raised.value))
        assert re.search(r"\n  plugin 'etrace_empty' of .*\[ETA814\]", str(raised.value))
        assert raised.value.problems == problems()


@pytest.mark.usefixtures('quiet')
@pytest.mark.parametrize('value', ['', '0', 'false', 'No', 'off'])
def test_strict_mode_is_off_otherwise(site, monkeypatch, value):
    monkeypatch.setenv('ETRACE_STRICT_PLUGINS', value)
    site.add('etrace-broken', BROKEN)
    assert get_learner('d_rtrl')


def test_strict_mode_is_content_when_the_broken_plugin_is_disabled(site, monkeypatch):
    monkeypatch.setenv('ETRACE_STRICT_PLUGINS', '1')
    monkeypatch.setenv('ETRACE_DISABLE_PLUGINS', ' * , ')
    site.add('etrace-broken', BROKEN)
    assert get_learner('d_rtrl')
    assert problems() == ()


@pytest.mark.usefixtures('quiet')
def test_a_malformed_distribution_does_not_hide_the_others(site):
    site.add_metadata('etrace-garbled', 'no equals sign')
    site.add_good('etrace-good', 'good')
    (problem,) = ours('etrace-garbled')
    assert (problem.plugin, problem.version) == ('*', '0.1')
    assert problem.stage == 'metadata'
    assert problem.error.startswith('`entry_points.txt` cannot be read: got ')
    assert problem.error.endswith('Reinstall or uninstall the package. [ETA822]')
    assert get_learner('good').origin.distribution == 'etrace-good'
    assert get_learner('d_rtrl').origin.is_builtin


@pytest.mark.usefixtures('quiet')
def test_a_malformed_distribution_without_plugins_is_none_of_our_business(site):
    site.add_metadata('garbled', 'no equals sign', group='console_scripts')
    assert ours('garbled') == []
    assert get_learner('d_rtrl').origin.is_builtin


def test_reading_one_by_one_finds_what_the_standard_library_finds(site):
    site.add_good('etrace-good', 'good')
    together, _ = _entry_points.installed_entry_points()
    one_by_one, unreadable = _entry_points._read_one_by_one()
    assert unreadable == ()
    assert {(e.name, e.value) for e in together} == {(e.name, e.value) for e in one_by_one}


def test_a_plugin_that_looks_learners_up_while_loading_is_told_so(site):
    site.add(
        'etrace-eager', "from etrace_algorithms.plugins import get_learner\nget_learner('d_rtrl')"
    )
    (problem,) = ours('etrace-eager')
    assert problem.stage == 'import'
    assert '`learners` are not known yet: got a look-up while plugins are being' in problem.error
    assert '[ETA808]' in problem.error


@pytest.mark.usefixtures('quiet')
def test_many_threads_discover_once(site, monkeypatch):
    import builtins

    monkeypatch.setattr(builtins, 'imports', 0, raising=False)
    site.add('etrace-count', COUNTING + 'import time\ntime.sleep(0.05)\n' + BROKEN)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(get_learner('d_rtrl'))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len({id(spec) for spec in results}) == 1
    assert builtins.imports == 1


def test_settings_are_read_from_the_environment():
    assert lookup.Settings.of({}) == lookup.Settings()
    assert lookup.Settings.of(
        {'ETRACE_STRICT_PLUGINS': '1', 'ETRACE_DISABLE_PLUGINS': 'a,, b '}
    ) == lookup.Settings(True, ('a', 'b'))


def test_importing_the_package_reads_no_plugin(site):
    site.add('etrace-loud', 'raise SystemExit("imported")')
    for n in range(20):
        site.add_good(f'etrace-many-{n}', f'many_{n}')
    code = (
        f'import sys; sys.path.insert(0, {str(site.folder)!r})\n'
        'from importlib.metadata import EntryPoint\n'
        'loaded, load = [], EntryPoint.load\n'
        'EntryPoint.load = lambda self: (loaded.append(self.group), load(self))[1]\n'
        'import etrace_algorithms, etrace_algorithms.plugins as p\n'
        'from etrace_algorithms.plugins import lookup\n'
        'seen = [m for m in sys.modules if ".builtin." in m or m.startswith("etrace_many")]\n'
        'assert not seen, seen\n'
        'assert "etrace.learners" not in loaded, loaded\n'
        'assert lookup._memory.discovery is None\n'
        'assert [q.stage for q in p.problems() if q.distribution == "etrace-loud"] == ["import"]\n'
        'assert loaded.count("etrace.learners") >= 25, loaded\n'
        'assert "etrace_many_7" in sys.modules\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_exported_exists():
    for name in plugins.__all__:
        assert getattr(plugins, name) is not None
