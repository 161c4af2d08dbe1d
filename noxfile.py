# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2025.5"]
# ///
"""Every job of the repository: `python3 noxfile.py -s tests docs`.

Needs nothing but Python 3.11 or newer with `venv`. Where nox is missing it is put into
`.venv`, and this file runs itself in there.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BIN = 'Scripts' if os.name == 'nt' else 'bin'

if sys.version_info < (3, 11):
    sys.exit(f'noxfile.py: got Python {sys.version.split()[0]}; expected 3.11 or newer.')


def run_in_own_environment() -> int | str:
    """Install nox into `.venv` and run this file there."""
    home = ROOT / '.venv'
    python = home / BIN / 'python'
    if not python.exists():
        venv.create(home, clear=True, symlinks=os.name != 'nt')
    if subprocess.run([python, '-c', 'import nox'], stderr=subprocess.DEVNULL).returncode:
        print(f'noxfile.py: installing nox into {home}', flush=True)
        quiet = ['-q', '--disable-pip-version-check']
        if subprocess.run([python, '-m', 'ensurepip'], stdout=subprocess.DEVNULL).returncode:
            return 'noxfile.py: this Python has no ensurepip; install python3-venv, or nox itself.'
        subprocess.run([python, '-m', 'pip', 'install', *quiet, 'nox[uv]>=2025.5'], check=True)
    return subprocess.run([python, __file__, *sys.argv[1:]]).returncode


try:
    import nox
except ModuleNotFoundError:
    sys.exit(run_in_own_environment())

nox.options.default_venv_backend = 'uv|virtualenv'
nox.options.reuse_venv = 'yes'
nox.options.download_python = 'never'
nox.options.sessions = ['tests', 'docs']

PACKAGES = sorted(path.parent for path in ROOT.glob('packages/*/pyproject.toml'))
PLUGINS = sorted(path.parent for path in ROOT.glob('plugins/*/pyproject.toml'))
TEMPLATE = next(ROOT.glob('packages/*/src/*/cli/template/pyproject.toml.tmpl'))
CONSTRAINTS = ROOT / 'constraints.txt'
ENV = {
    # Bytecode off would make every start of jax three times slower.
    'PYTHONDONTWRITEBYTECODE': '',
    'JAX_PLATFORMS': 'cpu',
    'NO_MKDOCS_2_WARNING': '1',
}


def project_name(path: Path) -> str:
    """Read the name of the distribution in a folder."""
    return nox.project.load_toml(path / 'pyproject.toml')['project']['name']


def requirements(group: str) -> tuple[str, ...]:
    """Read one group of requirements."""
    return nox.project.dependency_groups(nox.project.load_toml(ROOT / 'pyproject.toml'), group)


def install(session: nox.Session, group: str) -> None:
    """Install all packages and plugins, editable, and one group of requirements."""
    editable = [arg for path in [*PACKAGES, *PLUGINS] for arg in ('-e', str(path))]
    session.install('-c', str(CONSTRAINTS), *editable, *requirements(group), env=ENV)


def newest_python() -> str | None:
    """Find the newest installed Python that gets the newest stack."""
    pyenv = os.environ.get('PYENV_ROOT', os.path.expanduser('~/.pyenv'))
    for minor in (14, 13, 12):
        name = f'python3.{minor}'
        for path in (shutil.which(name), *glob.glob(f'{pyenv}/versions/3.{minor}.*/bin/python')):
            # pyenv's shims stand on PATH for versions that are not active, and fail.
            if path and not subprocess.run([path, '-c', ''], capture_output=True).returncode:
                return path
    return None


NEWEST = newest_python()


#: Most of the time of the tests goes into compiling programs that run once.
QUICK = ['--xla_backend_optimization_level=0', '--xla_cpu_use_fusion_emitters=false']

#: As many processes as there are cores; what the tests of one file share is made in one of them.
PARALLEL = ['-n', 'auto', '--maxprocesses', '8', '--dist', 'loadfile']

#: On a second stack: every test, but fewer cases of each.
FEWER = ['--one-case-in', '8', '--etrace-level', 'quick', '--hypothesis-profile', 'few']

#: Tests of the engines, which are written for what XLA makes of them.
OPTIMISED = ['test_windows.py', 'test_carried.py', 'test_passes.py', 'test_rules.py']


def has_flag(session: nox.Session, flag: str) -> bool:
    """Whether XLA has a flag; it ends the process over one that it does not have."""
    python = str(Path(session.bin) / 'python')
    trial = {**os.environ, **ENV, 'XLA_FLAGS': flag}
    command = [python, '-c', 'import jax; jax.devices()']
    return not subprocess.run(command, env=trial, capture_output=True).returncode


def quickly(session: nox.Session) -> dict[str, str]:
    """The environment in which XLA compiles quickly."""
    return {**ENV, 'XLA_FLAGS': ' '.join(flag for flag in QUICK if has_flag(session, flag))}


def run_tests(session: nox.Session, *options: str) -> None:
    """Run pytest over everything, or over what is named after `--`, compiled quickly."""
    install(session, 'tests')
    session.run('python', '-c', "import sys, jax; print(sys.version, '| jax', jax.__version__)")
    pytest(session, *(session.posargs or (*options, *PARALLEL)), env=quickly(session))


def pytest(session: nox.Session, *arguments: str, env: dict[str, str]) -> None:
    """Run pytest on several processes."""
    session.run('pytest', *arguments, env=env)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test of every package and plugin in one environment."""
    run_tests(session)


@nox.session(python=NEWEST, venv_backend=None if NEWEST else 'none')
def compat(session: nox.Session) -> None:
    """Run every test on the newest stack, if a Python for it is installed, with fewer cases.

    The tests of the engines run with all their cases, on programs that are compiled as users
    compile them. After `--` stands what pytest is to run instead: `-n auto` is everything.
    """
    if NEWEST is None:
        session.skip('no Python 3.12 or newer found: the newest stack was NOT tested')
    optimised = sorted(p for name in OPTIMISED for p in glob.glob(f'packages/*/tests/{name}'))
    run_tests(session, *FEWER, *(f'--ignore={path}' for path in optimised))
    if not session.posargs:
        pytest(session, *PARALLEL, *optimised, env=ENV)


@nox.session
def nightly(session: nox.Session) -> None:
    """Draw thousands of random models, and compare each with backpropagation."""
    install(session, 'tests')
    files = sorted(glob.glob('packages/*/tests/test_random_models.py'))
    arguments = session.posargs or PARALLEL
    session.run('pytest', '--hypothesis-profile=nightly', *arguments, *files, env=ENV)


@nox.session
def conformance(session: nox.Session) -> None:
    """Hold every learner of the repository to its promises, with all that the kit can try."""
    files = ['plugins', *sorted(glob.glob('packages/*/tests/test_conformance.py'))]
    install(session, 'tests')
    arguments = session.posargs or [*PARALLEL, *files]
    pytest(session, '--etrace-level', 'full', *arguments, env=quickly(session))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into `site/`; any warning is an error."""
    install(session, 'docs')
    session.run('mkdocs', *(session.posargs or ['build', '--strict']), env=quickly(session))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, import contracts and types."""
    install(session, 'lint')
    session.run('ruff', 'check', env=ENV)
    session.run('ruff', 'format', '--check', env=ENV)
    session.run('lint-imports', env=ENV)
    session.run('pyright', env=ENV)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build everything and install it the way a user does, with pip."""
    session.install('-c', str(CONSTRAINTS), *requirements('wheels'))
    tmp = Path(session.create_tmp()).resolve()
    house, user = tmp / 'wheelhouse', tmp / 'user'
    shutil.rmtree(house, ignore_errors=True)
    for path in [*PACKAGES, *PLUGINS]:
        session.run('python', '-m', 'build', '--no-isolation', '-o', str(house), str(path))
    session.run('python', '-m', 'venv', '--clear', str(user))

    def run(program: str, *args: str, **env: str) -> str:
        command = [str(user / BIN / program), *args]
        return session.run(*command, silent=True, external=True, env={**ENV, **env})

    def pip_install(name: str) -> None:
        report = tmp / 'report.json'
        options = ['--find-links', str(house), '-c', str(CONSTRAINTS), '--report', str(report)]
        run('python', '-m', 'pip', 'install', '-q', *options, name)
        for item in json.loads(report.read_text())['install']:
            url = item['download_info']['url']
            if item['metadata']['name'] in built and not url.startswith(house.as_uri()):
                session.error(
                    f'{item["metadata"]["name"]} came from {url}, not from the wheelhouse'
                )

    def listed(key: str) -> set[str]:
        found = json.loads(run('etrace', 'list', '--json'))
        if found['problems']:
            session.error(f'`etrace list` reports problems: {found["problems"]}')
        return {learner[key] for learner in found['learners']}

    def check_listed(key: str, *expected: str) -> None:
        if missing := set(expected) - listed(key):
            session.error(f'`etrace list` misses {missing}')

    def prove_third_party(name: str) -> None:
        """Publish a new plugin to this machine, use it by name, and take it away again."""
        # elsewhere, or pytest would find the settings of this repository
        with tempfile.TemporaryDirectory() as empty, session.chdir(empty):
            run('etrace', 'new-plugin', name)
            (package,) = Path(empty).iterdir()
            session.run('python', '-m', 'build', '--no-isolation', package.name)
            pip_install(str(*package.glob('dist/*.whl')))
            check_listed('name', name)
            pip_install('pytest')
            run('python', '-m', 'pytest', '-q', package.name, XLA_FLAGS=QUICK[0])
            session.log(run('python', str(ROOT / 'tests/third_party.py'), name).strip())
        run('python', '-m', 'pip', 'uninstall', '-q', '-y', package.name)
        if name in listed('name'):
            session.error(f'{name} is uninstalled, and still listed')

    built = {project_name(path) for path in [*PACKAGES, *PLUGINS]}
    pip_install('etrace-algorithms')
    run('python', '-c', "from importlib.util import find_spec as f; assert f('etrace_nn') is None")
    check_listed('name', 'd_rtrl', 'pp_prop', 'param_dim', 'immediate')
    pip_install('etrace-nn')
    run('python', '-c', 'import etrace_nn')
    prove_third_party('proof')
    for plugin in map(project_name, PLUGINS):
        pip_install(plugin)
        check_listed('distribution', plugin)
    run('python', '-m', 'pip', 'check')
    session.log(f'installed from the wheelhouse and found: {", ".join(sorted(built))}')


@nox.session
def demo(session: nox.Session) -> None:
    """Train a network online on handwritten digits and say what it cost."""
    install(session, 'demo')
    session.run('python', 'examples/digits.py', *session.posargs, env=ENV)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the example after `--` with its arguments (`-- copy_memory --seed 1`), or all."""
    install(session, 'demo')
    names = [[Path(path).stem] for path in sorted(glob.glob('examples/[!_]*.py'))]
    for name, *arguments in [session.posargs] if session.posargs else names:
        session.run('python', f'examples/{name}.py', *arguments, env=ENV)


@nox.session
def bench(session: nox.Session) -> None:
    """Run every script in `benchmarks/`, or the one after `--` with its arguments."""
    install(session, 'bench')
    scripts = [[script] for script in sorted(glob.glob('benchmarks/[!_]*.py'))]
    for command in [session.posargs] if session.posargs else scripts:
        session.run('python', *command, env=ENV)


@nox.session(venv_backend='none')
def bump(session: nox.Session) -> None:
    """Write one version into every package and plugin: `-s bump -- 0.2.0`."""
    match session.posargs:
        case [version] if found := re.fullmatch(r'(\d+)\.(\d+)\.\d+', version):
            major, minor = map(int, found.groups())
        case _:
            session.error(f'got {session.posargs}; expected one version such as 0.2.0')
    pin = f'>={version},<{f"0.{minor + 1}" if major == 0 else major + 1}'
    for file in [*(path / 'pyproject.toml' for path in [*PACKAGES, *PLUGINS]), TEMPLATE]:
        text = re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', file.read_text())
        for name in map(project_name, PACKAGES):
            text = re.sub(rf'"{name}[><=][^"]*"', f'"{name}{pin}"', text)
        file.write_text(text)


@nox.session
def constraints(session: nox.Session) -> None:
    """Resolve every requirement anew into `constraints.txt`, for all Pythons at once."""
    session.install('uv')
    groups = nox.project.load_toml('pyproject.toml')['dependency-groups']
    session.run(
        *('uv', 'pip', 'compile', '--upgrade', '--universal', '--python-version', '3.11'),
        *('--no-header', '--no-annotate', '--quiet', '--output-file', str(CONSTRAINTS)),
        *(arg for path in PACKAGES for arg in ('--no-emit-package', project_name(path))),
        *(arg for group in groups for arg in ('--group', group)),
        *(str(path / 'pyproject.toml') for path in [*PACKAGES, *PLUGINS]),
    )


if __name__ == '__main__':
    os.chdir(ROOT)
    nox.main()
