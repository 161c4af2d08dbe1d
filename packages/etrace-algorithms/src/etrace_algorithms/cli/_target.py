"""From `module:factory` to a model and the inputs of one step, with errors a user can read."""

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import brainstate
import brainunit
import jax

from etrace_algorithms.cli._usage import UsageError
from etrace_compiler.errors import explain_error

__all__ = ['load_target', 'user_traceback', 'working_directory']

_NOTES_OF_JAX = ('-----', 'For simplicity, JAX has removed')
_CONTRACT = 'a function without arguments that returns (model, input, ...)'


def load_target(target: str) -> tuple[brainstate.nn.Module, tuple[Any, ...]]:
    """Import a factory and call it.

    Args:
        target: `'module:factory'`; attributes of attributes are separated by dots.

    Returns:
        The model, and the example inputs of one step.

    Raises:
        UsageError: If there is no such module or attribute, if either fails, or if the factory
            returns something else.
    """
    module, colon, attributes = target.partition(':')
    if not (module and colon and attributes):
        raise UsageError(
            _explain(target, 'is not module:factory', target, 'a module, a colon and the name of '
                     'a function', 'For example `etrace inspect model:example`.', 'ETA511')
        )  # fmt: skip
    found = _import(module)
    for name in attributes.split('.'):
        if not hasattr(found, name):
            fix = f'The names there: {_offers(found, name)}.'
            raise UsageError(
                _explain(target, 'names something that does not exist', f'no {name!r}', _CONTRACT,
                         fix, 'ETA512')
            )  # fmt: skip
        found = getattr(found, name)
    return _call(target, found)


def _offers(holder: Any, name: str) -> str:
    """List what there is: what is written almost like a name, or else the first few."""
    members = getattr(holder, '__dict__', {}).items()
    names = [n for n, v in members if not n.startswith('_') and not isinstance(v, ModuleType)]
    return ', '.join(difflib.get_close_matches(name, names) or names[:12]) or 'none'


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # a module that the user's module asks for is another matter
        if error.name is None or not f'{module}.'.startswith(f'{error.name}.'):
            raise UsageError(_failed(module, 'cannot be imported', error)) from error
        message = _explain(
            module, 'is not a module that Python finds', f'no module named {error.name!r}',
            'a module in this folder, or one that is installed',
            'Go to the folder that holds it, or give its dotted name from here.', 'ETA513',
        )  # fmt: skip
        raise UsageError(message) from None
    except (Exception, SystemExit) as error:
        raise UsageError(_failed(module, 'cannot be imported', error)) from error


def _call(target: str, factory: Any) -> tuple[brainstate.nn.Module, tuple[Any, ...]]:
    if callable(factory) and not isinstance(factory, brainstate.nn.Module):
        try:
            made = factory()
        except (Exception, SystemExit) as error:
            raise UsageError(_failed(target, 'fails', error)) from error
    else:
        made = None
    model, *inputs = made if isinstance(made, (tuple, list)) and made else (made,)
    if not isinstance(model, brainstate.nn.Module):
        got = type(factory).__name__ if made is None else f'{type(made).__name__}'
        raise UsageError(
            _explain(target, 'does not give a model', f'{got} {made!r:.80}' if made else got,
                     _CONTRACT, 'Return the model first, then the inputs of one step.', 'ETA514')
        )  # fmt: skip
    return model, tuple(inputs)


def _failed(subject: str, problem: str, error: BaseException) -> str:
    got = f'{type(error).__name__}: {error}'
    fix = 'Correct it; this is where it fails:'
    message = _explain(subject, problem, got, _CONTRACT, fix, 'ETA515')
    return f'{message}\n{user_traceback(error)}'


def _explain(subject: str, problem: str, got: Any, expected: str, fix: str, code: str) -> str:
    return explain_error(subject, problem, got=got, expected=expected, fix=fix, code=code)


def user_traceback(error: BaseException) -> str:
    """Write a traceback without the frames of the libraries between the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_libraries())]
    # a syntax error is in no frame, and tells its line itself
    shown = own if own or isinstance(error, SyntaxError) else frames
    told = traceback.format_exception_only(error)
    lines = [line for line in told if not line.startswith(_NOTES_OF_JAX)]
    return ''.join([*traceback.format_list(shown), *lines]).rstrip()


def _libraries() -> tuple[str, ...]:
    """Folders whose frames tell a user nothing."""
    names = ('etrace_compiler', 'etrace_algorithms', 'etrace_nn')
    specs = [importlib.util.find_spec(name) for name in names]
    files = [spec.origin for spec in specs if spec and spec.origin]
    files += [m.__file__ for m in (jax, brainstate, brainunit, importlib) if m.__file__]
    return ('<frozen', *(f'{Path(file).parent}{os.sep}' for file in files))


@contextlib.contextmanager
def working_directory() -> Iterator[None]:
    """Let modules of this folder be imported, and keep what they print out of the result."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
