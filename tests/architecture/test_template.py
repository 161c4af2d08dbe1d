"""`plugins/etrace-template` is what `etrace new-plugin` writes: one source for both."""

from pathlib import Path

from etrace_algorithms.cli import main

ROOT = Path(__file__).resolve().parents[2]
IGNORED = ('__pycache__', '.pytest_cache', '.venv', 'build', 'dist')


def files_in(folder):
    paths = (p.relative_to(folder) for p in folder.rglob('*') if p.is_file())
    return {
        p.as_posix(): (folder / p).read_bytes() for p in paths if not set(p.parts) & set(IGNORED)
    }


def test_the_template_is_a_plugin_like_any_other(tmp_path, monkeypatch):
    # here its names are taken, by itself
    monkeypatch.setattr('etrace_algorithms.cli._new_plugin._taken', lambda names: None)
    folder = str(tmp_path)
    command = ['new-plugin', 'decayed_trace', '--package', 'etrace-template']
    assert main([*command, '--directory', folder]) == 0
    written = files_in(tmp_path / 'etrace-template')
    assert written == files_in(ROOT / 'plugins/etrace-template')
    assert {'pyproject.toml', '.github/workflows/ci.yml'} <= set(written)
