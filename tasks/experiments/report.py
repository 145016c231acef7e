"""The finished runs of an experiment as a table and a plot."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from mmengine.config import Config
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from .. import engine
from ..config_source import image_shape, networks
from ..engine.checkpoints import write_atomically
from ..engine.plots import save_figure
from ..engine.steps import step_times
from ..recipes import experiment
from .headline import Headline, headline_of

__all__ = ["Entry", "macs", "report"]

MARKERS = "os^DvXP*<>ph"
COLORS = [*colormaps["tab10"].colors, "black", "gold"]


@dataclass(frozen=True)
class Entry:
    """One row of the table: a config over its seeds."""

    name: str
    parameters: int
    macs: int  # of one image
    values: list[float]  # of the headline's metric
    others: list[float]  # means of its other metrics
    step_ms_per_image: float  # of a training step without data loading, all configs taking turns
    train_s: float  # median over the runs
    device: str

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def report(name: str, runs: Path) -> list[Entry]:
    """Prints the table of the finished runs, and writes ``table.md``, ``table.json`` and ``plot.png`` into ``runs``.

    The time of a training step is not taken from the runs, beside which others may have run, but measured now.

    Args:
        name: as `recipes.experiment` takes it.
        runs: of `run`.

    Returns:
        Entries, the best first.

    Raises:
        ValueError: no run is finished.
    """
    recipe = experiment(name)
    results = {
        cell.name: [json.loads(path.read_text()) for path in sorted((runs / cell.name).glob("seed_*/result.json"))]
        for cell in recipe.cells
    }
    done = [cell for cell in recipe.cells if results[cell.name]]
    if not done:
        raise ValueError(f"{runs}: no finished run of {name}; run `mixerzoo experiment {name} --runs {runs}` first")
    claim = runs / "experiment.json"
    unclaimed = {"experiment": recipe.name, "options": [], "data": None, "jobs": 1}
    note = json.loads(claim.read_text()) if claim.exists() else unclaimed
    options = engine.parse_options(note["options"])
    configs = {cell.name: engine.load_config(recipe.path, {**cell.options, **options}, note["data"]) for cell in done}
    headline = headline_of(next(iter(configs.values())))
    times = _step_times(configs, runs / "steps.json")
    entries = [_entry(label, cfg, results[label], headline, times[label]) for label, cfg in configs.items()]
    entries.sort(key=lambda entry: headline.sign() * entry.mean)
    _print(entries, headline, name)
    write_atomically(_markdown(entries, headline, note).encode(), runs / "table.md")
    content = {
        **note,
        "headline": asdict(headline),
        "torch": torch.__version__,
        "entries": [asdict(entry) for entry in entries],
    }
    write_atomically(json.dumps(content, indent=1).encode(), runs / "table.json")
    _draw(entries, headline, runs / "plot.png")
    print(f"{runs}: table.md, table.json, plot.png, and a folder per cell and seed")
    return entries


def _step_times(configs: Mapping[str, Config], path: Path) -> dict[str, float]:
    """Of `steps.step_times`; ``path`` keeps them for the next report."""
    times = json.loads(path.read_text()) if path.exists() else {}
    if configs.keys() - times.keys():  # all again: figures of different occasions do not compare
        times = step_times(configs)
        write_atomically(json.dumps(times, indent=1), path)
    return times


def _entry(label: str, cfg: Config, results: Sequence[dict[str, Any]], headline: Headline, step_ms: float) -> Entry:
    metrics = [result["metrics"] for result in results]
    return Entry(
        label,
        results[0]["parameters"],
        macs(cfg),
        [values[headline.metric] for values in metrics],
        [statistics.mean(values[key] for values in metrics) for key in headline.others],
        step_ms,
        statistics.median(result["train_seconds"] for result in results),
        results[0]["device"],
    )


def macs(cfg: Config) -> int:
    """Multiply-adds of one image through the config's network, by PyTorch's own counter (attention counted in full)."""
    net = next(iter(networks(cfg).values()))
    image = torch.zeros(1, *image_shape(cfg), device="meta")  # (1, channels, H, W)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return counter.get_total_flops() // 2


def _columns(headline: Headline) -> tuple[str, ...]:
    figures = (headline.label, "± sd", "lowest", "highest", *headline.others.values())
    return ("model", "seeds", *figures, "Mparams", "MMACs", "µs/image", "train s")


def _cells(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        str(len(entry.values)),
        f"{entry.mean:.4g}",
        "" if entry.spread is None else f"{entry.spread:.2g}",
        f"{min(entry.values):.4g}",
        f"{max(entry.values):.4g}",
        *(f"{value:.4g}" for value in entry.others),
        f"{entry.parameters / 1e6:.2f}",
        f"{entry.macs / 1e6:.1f}",
        f"{1e3 * entry.step_ms_per_image:.0f}",
        f"{entry.train_s:.0f}",
    )


def _print(entries: Sequence[Entry], headline: Headline, name: str) -> None:
    title = f"{name}: {headline.label} on the test set; µs/image of a training step ({entries[0].device})"
    table = Table(*_columns(headline), title=title)
    for entry in entries:
        table.add_row(*_cells(entry))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _markdown(entries: Sequence[Entry], headline: Headline, note: dict[str, Any]) -> str:
    columns = _columns(headline)
    lines = [
        f"`mixerzoo experiment {note['experiment']}`, options {' '.join(note['options']) or 'none'}, "
        f"{note['jobs']} run(s) at a time, on {entries[0].device}, torch {torch.__version__}.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
        *("| " + " | ".join(_cells(entry)) + " |" for entry in entries),
    ]
    return "\n".join(lines) + "\n"


def _draw(entries: Sequence[Entry], headline: Headline, path: Path) -> None:
    """The metric against multiply-adds and against the time of a training step; a bar reaches over all seeds."""
    rows = _rows(entries, headline)
    figure = Figure(figsize=(11, 0.6 + 4 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
    networks = {entry.name: _network(entry, headline) for entry in entries}
    looks = {name: number for number, name in enumerate(sorted(set(networks.values())))}
    for (costs, times), (group, shown) in zip(grid, rows, strict=True):
        labels = [networks[entry.name] for entry in shown]
        _scatter(costs, shown, labels, [entry.macs / 1e6 for entry in shown], looks)
        _scatter(times, shown, labels, [1e3 * entry.step_ms_per_image for entry in shown], looks)
        costs.set(ylabel=f"{headline.label}, all seeds{group.replace('_', ', ')}")
    grid[-1, 0].set(xlabel="million multiply-adds per image")
    grid[-1, 1].set(xlabel=f"µs per image of a training step on {entries[0].device}")
    legend = {}
    for axes in grid[:, 0]:
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside right upper")
    save_figure(figure, path)


def _rows(entries: Sequence[Entry], headline: Headline) -> list[tuple[str, Sequence[Entry]]]:
    """Entries that share a pair of plots, each with its group.

    Without groups, all do; where a few networks are far off, a second row shows the others by themselves.
    """
    if headline.groups:
        rows = [(group, [entry for entry in entries if entry.name.endswith(group)]) for group in headline.groups]
        return [(group, shown) for group, shown in rows if shown]
    far = max(abs(entry.mean - entries[0].mean) for entry in entries) / 4
    close = [entry for entry in entries if abs(entry.mean - entries[0].mean) <= far]
    return [("", entries), ("", close)] if 2 <= len(close) < len(entries) else [("", entries)]


def _network(entry: Entry, headline: Headline) -> str:
    """Its name without the group."""
    group = next((group for group in headline.groups if entry.name.endswith(group)), "")
    return entry.name.removesuffix(group)


def _scatter(
    axes: Axes, entries: Sequence[Entry], labels: Sequence[str], xs: Sequence[float], looks: Mapping[str, int]
) -> None:
    """One marker per entry; on a logarithmic axis if the dearest costs several times what the cheapest does."""
    for entry, label, x in zip(entries, labels, xs, strict=True):
        error = [[entry.mean - min(entry.values)], [max(entry.values) - entry.mean]]
        look = looks[label]
        color, marker = COLORS[look % len(COLORS)], MARKERS[look % len(MARKERS)]
        axes.errorbar(x, entry.mean, error, linestyle="", marker=marker, color=color, label=label, capsize=3)
    if max(xs) > 4 * min(xs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.grid(alpha=0.3)
