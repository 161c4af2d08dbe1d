"""Fill the navigation from the folders; write a page per public module and per diagnostic.

A page takes its place in its folder by `order` in its front matter, then by name.
"""

from pathlib import Path

import benchmark_page
import example_page
from code_pages import add_code_pages, table_of_codes
from mkdocs.structure.files import File
from mkdocs.utils.meta import get_data

KINDS = {
    'Tutorials': 'tutorials',
    'How-to guides': 'how-to',
    'Explanation': 'explanation',
    'Reference': 'reference',
    'Decisions': 'adr',
}


def pages_of(files, folder):
    """List the written pages of a folder in the order that they ask for."""

    def place(file):
        order = get_data(file.content_string)[1].get('order', 1000)
        return (file.name != 'index', order, file.src_uri)

    own = (
        file
        for file in files.documentation_pages()
        if file.src_uri.startswith(f'{folder}/')
    )
    return [file.src_uri for file in sorted(own, key=place)]


def api_pages(files, config, package):
    """Add a page for every public module of one package, and list them by their short names."""
    nav = []
    for source in sorted(package.rglob('*.py')):
        parts = source.relative_to(package).with_suffix('').parts
        parts = parts[:-1] if parts[-1] == '__init__' else parts
        if any(part.startswith('_') for part in parts):
            continue
        name = '.'.join((package.name, *parts))
        uri = f'reference/api/{package.name}/{".".join(parts) or "index"}.md'
        content = f'---\ntitle: {name}\n---\n\n::: {name}\n'
        files.append(File.generated(config, uri, content=content))
        nav.append({'.'.join(parts): uri} if parts else uri)
    return {package.name: nav}


def on_files(files, config):
    """Run by mkdocs once it has listed the files, before it reads the navigation."""
    root = Path(config.config_file_path).parent
    nav = {title: pages_of(files, folder) for title, folder in KINDS.items()}
    packages = sorted(
        path.parent for path in root.glob('packages/*/src/*/__init__.py')
    )
    nav['Reference'] += [
        {'Diagnostics, one by one': add_code_pages(files, config)},
        *(api_pages(files, config, package) for package in packages),
    ]
    benchmark_page.add_plot(files, config)
    example_page.add_plots(files, config)
    config.nav = [
        {'Home': 'index.md'},
        *({title: pages} for title, pages in nav.items() if pages),
    ]
    return files


def on_page_markdown(markdown, page, **kwargs):
    """Run by mkdocs for every page, before it is rendered."""
    if page.file.src_uri == 'reference/diagnostics.md':
        return markdown.replace('<!-- codes -->', table_of_codes())
    if page.file.src_uri == benchmark_page.PAGE:
        return benchmark_page.fill(markdown)
    if page.file.src_uri == example_page.PAGE:
        return example_page.fill(markdown)
    return markdown
