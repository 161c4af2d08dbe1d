"""Fill the page of the benchmarks from the results that are written down in the repository."""

import json
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
RESULTS = BENCHMARKS / 'results'
PAGE = 'explanation/benchmarks.md'


def add_plot(files, config):
    """Make the plot a file of the site."""
    plot = str(RESULTS / 'engines.svg')
    files.append(
        File.generated(config, 'assets/engines.svg', abs_src_path=plot)
    )


def fill(markdown):
    """Put a table in the place of each `<!-- benchmark: name -->`."""
    sys.path.insert(0, str(BENCHMARKS))
    import _tables

    results = json.loads((RESULTS / 'engines.json').read_text())
    return re.sub(
        r'<!-- benchmark: (\w+) -->',
        lambda found: getattr(_tables, found[1])(results),
        markdown,
    )
