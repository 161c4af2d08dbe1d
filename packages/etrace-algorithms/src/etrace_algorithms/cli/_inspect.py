"""`etrace inspect`: what the compiler makes of a model, and what learners would cost on it."""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etrace_algorithms.abstract import compile_abstract
from etrace_algorithms.cli._target import load_target, user_traceback, working_directory
from etrace_algorithms.cli._usage import UsageError
from etrace_algorithms.memory import parse_bytes
from etrace_algorithms.plan import MemoryPlan, memory_plan
from etrace_algorithms.validation import check_trainable
from etrace_compiler import (
    CompilationError,
    CompilationRecord,
    CompilationReport,
    DiagnosticLevel,
    ETraceGraph,
    WeightExactness,
    draw,
    path_key,
)
from etrace_compiler.errors import explain_error
from etrace_compiler.terminal import is_coloured, paint

__all__ = ['add_to']


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        'inspect',
        help='compile a model and say what learns, how exactly, and what it costs',
        description='Compile a model and say which weights learn, how exact their gradients are, '
        'and what every learner would cost. Nothing is trained. Exits with 1 if the model does '
        'not compile or a weight cannot learn, with 2 if the call is wrong.',
    )
    parser.add_argument(
        'target',
        metavar='MODULE:FACTORY',
        help='a function without arguments that returns (model, input, ...)',
    )
    parser.add_argument('--batch', type=_batch, metavar='N', help='batch size of the states')
    parser.add_argument('--budget', metavar='SIZE', help="memory for a learner, such as '512 MB'")
    parser.add_argument('--json', action='store_true', help='write JSON')
    parser.add_argument('--svg', type=Path, metavar='FILE', help='draw the graph into a file')
    parser.add_argument(
        '--level',
        choices=[str(level) for level in DiagnosticLevel],
        default=str(DiagnosticLevel.WARNING),
        help='show records from this level on (%(default)s)',
    )
    parser.add_argument('--weight', metavar='PATH', help='say why one weight learns or does not')
    parser.set_defaults(run=_run)


def _batch(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'got {text!r}; expected a whole number from 1')
    return int(text)


def _run(options: argparse.Namespace) -> int:
    budget = _read_budget(options.budget)
    with working_directory():
        graph, failure, records = _compile(options)
        plan = None if graph is None else memory_plan(graph, budget=budget)
    if graph is None or plan is None:
        if options.json:
            found = {'target': options.target, 'error': failure}
            print(json.dumps({**found, 'records': list(map(_describe, records))}, indent=2))
        print(f'etrace inspect: {failure}', file=sys.stderr)
        return 1
    if options.weight is not None:
        _check_weight(graph, options.weight)
    if options.svg is not None:
        _write_svg(graph, options.svg)
    print((_as_json if options.json else _as_text)(graph, plan, options, failure))
    if failure:
        print(f'etrace inspect: {failure.splitlines()[0]}', file=sys.stderr)
    return 1 if failure or CompilationReport(graph).counts[DiagnosticLevel.ERROR] else 0


def _compile(
    options: argparse.Namespace,
) -> tuple[ETraceGraph | None, str, Sequence[CompilationRecord]]:
    """Return the graph if there is one, what a learner could not do with it, and why."""
    model, inputs = load_target(options.target)
    graph = None
    try:
        graph = compile_abstract(model, *inputs, batch_size=options.batch)
        check_trainable(graph)
    except CompilationError as error:
        return graph, str(error), error.records
    except Exception as error:
        failure = f'{options.target} cannot be traced\n{user_traceback(error)}'
        if options.batch is None:
            failure += '\nIf its states need a batch axis, pass --batch N.'
        return None, failure, ()
    return graph, '', ()


def _read_budget(budget: str | None) -> int | None:
    try:
        return None if budget is None else parse_bytes(budget)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_weight(graph: ETraceGraph, weight: str) -> None:
    keys = [path_key(path) for path in graph.module_info.parameter_paths]
    if weight in keys:
        return
    near = difflib.get_close_matches(weight, keys, n=3) or keys[:8]
    raise UsageError(
        explain_error(
            weight,
            'is not a parameter of this model',
            got=f'--weight {weight}',
            expected='the path of a ParamState',
            fix=f'Take one of these: {", ".join(near) or "none"}.',
            code='ETA516',
        )
    )


def _write_svg(graph: ETraceGraph, file: Path) -> None:
    try:
        file.write_text(draw(graph, 'svg'), encoding='utf-8')
    except OSError as error:
        raise UsageError(
            explain_error(
                str(file),
                'cannot be written',
                got=f'{type(error).__name__}: {error.strerror}',
                expected='a file in a folder that exists and may be written',
                fix='Choose another place for the picture.',
                code='ETA517',
            )
        ) from None


def _as_text(
    graph: ETraceGraph, plan: MemoryPlan, options: argparse.Namespace, failure: str
) -> str:
    coloured = is_coloured(sys.stdout)
    if options.weight is not None:
        return _weight_text(graph, options.weight, coloured)
    report = CompilationReport(graph).to_str(options.level, coloured)
    return f'{report}\n\n{paint("Memory and work:", "bold", coloured)}\n{plan}'


def _weight_text(graph: ETraceGraph, weight: str, coloured: bool) -> str:
    """Answer why one weight learns or does not: its verdict, and every record about it."""
    found = graph.exactness.get(weight)
    lines = [f'{paint(weight, "bold", coloured)}: {found.verdict if found else "not used"}']
    lines += [f'  dropped: {lost}' for lost in (found.dropped if found else ())]
    lines += [str(record) for record in graph.explain(weight_path=weight)]
    return '\n'.join(lines)


def _as_json(
    graph: ETraceGraph, plan: MemoryPlan, options: argparse.Namespace, failure: str
) -> str:
    report = CompilationReport(graph)
    exactness = {
        key: _describe_exactness(found)
        for key, found in graph.exactness.items()
        if options.weight in (None, key)
    }
    return json.dumps(
        {
            'target': options.target,
            'error': failure or None,
            'hidden_groups': report.hidden_groups,
            'dynamic_states': report.dynamic_states,
            'etrace_weights': report.etrace_weights,
            'excluded_weights': report.excluded_weights,
            'exactness': exactness,
            'counts': report.counts,
            'records': [_describe(r) for r in graph.explain(weight_path=options.weight)],
            'memory': plan.as_dict(),
        },
        indent=2,
    )


def _describe(record: CompilationRecord) -> dict[str, Any]:
    return {
        'code': record.code,
        'kind': str(record.kind),
        'level': str(record.level),
        'message': record.message,
        'action': record.action,
        'primitive': record.primitive,
        'weight': None if record.weight_path is None else path_key(record.weight_path),
        'hidden': [path_key(path) for path in record.hidden_paths],
        'source': None if record.source is None else str(record.source),
    }


def _describe_exactness(found: WeightExactness) -> dict[str, Any]:
    return {
        'verdict': str(found.verdict),
        'dropped': [
            {
                'reason': str(lost.reason),
                'message': lost.message,
                'source': None if lost.source is None else str(lost.source),
            }
            for lost in found.dropped
        ],
    }
