"""Plots of how the time of a step grows, as SVG."""

import dataclasses
from pathlib import Path

import matplotlib as mpl
from _bars import Results, step_seconds
from _models import STATES, Case
from _suite import BASE
from matplotlib.figure import Figure

SHOWN = {
    'etrace bptt': ('backpropagation', '#7f7f7f', '-'),
    'etrace d_rtrl/1': ('d_rtrl, step', '#1f77b4', '-'),
    'etrace d_rtrl/32': ('d_rtrl, window 32', '#1f77b4', '--'),
    'etrace pp_prop/1': ('pp_prop, step', '#2ca02c', '-'),
    'etrace pp_prop/32': ('pp_prop, window 32', '#2ca02c', '--'),
    'braintrace d_rtrl/1': ('braintrace D_RTRL', '#d62728', '-'),
    'braintrace d_rtrl/32': ('braintrace D_RTRL, window 32', '#d62728', '--'),
    'braintrace pp_prop/1': ('braintrace pp_prop', '#ff7f0e', '-'),
}


def axes_of_growth() -> dict[str, dict[int, Case]]:
    """Return for every size the cases along it; the other sizes are those of the base case."""

    def along(name: str, values: tuple[int, ...]) -> dict[int, Case]:
        return {value: dataclasses.replace(BASE, **{name: value}) for value in values}

    spiking = {STATES[m]: dataclasses.replace(BASE, model=m) for m in STATES if 'lif' in m}
    return {
        'batch B': along('batch', (1, 16, 64)),
        'units N': along('hidden', (128, 256, 512)),
        'steps T': along('steps', (64, 512)),
        'layers': along('depth', (1, 2, 3)),
        'states S of a spiking layer': spiking,
    }


def draw(results: Results, path: Path) -> None:
    """Draw the time of a step over that of BPTT in the base case, along each size."""
    mpl.rcParams.update({'svg.hashsalt': 'engines', 'svg.fonttype': 'none', 'font.size': 8})
    figure = Figure(figsize=(11, 6), layout='constrained')
    base = step_seconds(results, BASE, 'etrace bptt')
    grid = figure.subplots(2, 3, sharey=True)
    for axes, (title, cases) in zip(grid.flat, axes_of_growth().items(), strict=False):
        for label, (name, colour, style) in SHOWN.items():
            times = {x: step_seconds(results, case, label) for x, case in cases.items()}
            points = [(x, t / base) for x, t in times.items() if t is not None and base]
            if points:
                axes.plot(
                    *zip(*points, strict=True), style, color=colour, marker='o', ms=3, label=name
                )
        axes.set(xlabel=title, yscale='log', xscale='log', xticks=list(cases))
        axes.set_xticks([], minor=True)
        axes.set_xticklabels(map(str, cases))
        axes.grid(alpha=0.3)
    figure.supylabel(f'time of a step / that of backpropagation for {BASE.label}')
    grid[1, 2].axis('off')
    grid[1, 2].legend(*grid[0, 0].get_legend_handles_labels(), loc='center', frameon=False)
    figure.savefig(path, metadata={'Date': None})
