"""The other implementation: an environment that has `braintrace`, and processes in either one."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OTHER = 'braintrace==0.2.6'
HOME = ROOT / f'.nox/braintrace-{sys.version_info.major}.{sys.version_info.minor}'


def other_python(home: Path = HOME) -> str | None:
    """Return the Python of an environment that has `braintrace`, made now if there is none."""
    python = home / ('Scripts' if os.name == 'nt' else 'bin') / 'python'
    if not is_installed(python):
        print(f'installing {OTHER} into {home}', flush=True)
        venv.create(home, clear=True, with_pip=True, symlinks=os.name != 'nt')
        # the same jax and brainstate as ours: what differs is the implementation
        constraints = ['-c', str(ROOT / 'constraints.txt')]
        pip = [str(python), '-m', 'pip', 'install', '-qq', *constraints, OTHER]
        subprocess.run(pip, check=False)
    return str(python) if is_installed(python) else None


def is_installed(python: Path) -> bool:
    """Whether a Python is there and can import the other implementation."""
    if not python.exists():
        return False
    run = [str(python), '-c', 'import braintrace']
    return not subprocess.run(run, env=environment('braintrace'), capture_output=True).returncode


def environment(family: str, platform: str = 'cpu') -> dict[str, str]:
    """Return the environment of a process: the other family sees its own packages alone."""
    left_out = {'PYTHONPATH'} if family == 'braintrace' else set()
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, 'JAX_PLATFORMS': platform}


def run_json(family: str, python: str, script: Path, *arguments: str) -> Any:
    """Run a script in a process of its own and read the JSON on the last line it prints."""
    command = [python, str(script), *arguments]
    done = subprocess.run(command, env=environment(family), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{script.name} {family} failed:\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])
