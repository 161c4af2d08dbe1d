"""Fill the page of the examples from the results that are written down in the repository."""

import json
import re
from pathlib import Path
from statistics import mean

from mkdocs.structure.files import File

RESULTS = Path(__file__).parents[2] / 'examples' / 'results'
PAGE = 'explanation/examples.md'
MARK = re.compile(r'<!-- example: (\w+) -->')


def add_plots(files, config):
    """Make the figures files of the site."""
    for path in sorted(RESULTS.glob('*.svg')):
        uri = f'assets/examples/{path.name}'
        files.append(File.generated(config, uri, abs_src_path=str(path)))


def fill(markdown):
    """Put tables, findings and figure in the place of each `<!-- example: name -->`."""
    return MARK.sub(lambda found: section(found[1]), markdown)


def section(name):
    """Write what came out of one example."""
    report = json.loads((RESULTS / f'{name}.json').read_text())
    parts = [f'`python3 noxfile.py -s examples -- {name}` {cost(report)}']
    for network, entry in report['experiments'].items():
        parts += [table(network, entry['learners']), bullets(entry['findings'])]
    parts.append(f'![Learning curves](../assets/examples/{name}.svg)')
    return '\n\n'.join(parts)


def cost(report):
    """Write what a run took, and what the figures stand for."""
    seeds, minutes = len(report['seeds']), report['seconds'] / 60
    return (
        f'took {minutes:.1f} minutes. Means of {seeds} seeds, and their range:'
    )


def table(network, learners):
    """Write the table of one network."""
    scores = list(next(iter(learners.values()))[0]['score'])
    lines = [
        f'| {network} | {" | ".join(scores)} |',
        f'| --- |{" ---: |" * len(scores)}',
    ]
    for name, runs in learners.items():
        cells = [spread([run['score'][key] for run in runs]) for key in scores]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def spread(values):
    """Write mean and range of a number over the seeds."""
    return f'{mean(values):.3g} ({min(values):.3g} to {max(values):.3g})'


def bullets(sentences):
    """Write a list."""
    return '\n'.join(f'* {sentence}' for sentence in sentences)
