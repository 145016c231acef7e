"""Pictures of an experiment, as PNG files: each drawn from the records, none where its runs are missing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ....backbones.checkpoints import write_atomically
from .train import data_sets

if TYPE_CHECKING:
    from .grid import Cell
    from .report import Judgement, Runs

__all__ = ["draw_all"]

COLORS = colormaps["tab20"].colors


def draw_all(runs: Runs, judgements: Sequence[Judgement], out: Path) -> list[str]:
    """Draws what there are runs for; returns the names of the files written into ``out``."""
    pictures = {
        "differences.png": _differences(judgements, runs.grid.metric),
        "curves.png": _curves(runs),
        "cost.png": _cost(runs),
        "dose.png": _dose(runs, judgements),
        "distance.png": _distance(runs),
    }
    written = []
    for name, figure in pictures.items():
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=120)
            write_atomically(buffer.getvalue(), out / name)
            written.append(name)
    return written


def _color(runs: Runs, mixer: str) -> tuple[float, ...]:
    names = list(dict.fromkeys(mixer for cell in runs.grid.cells.values() for mixer in cell.mixers))
    return COLORS[names.index(mixer) % len(COLORS)]


def _differences(judgements: Sequence[Judgement], metric: str) -> Figure | None:
    """Every paired difference, the mean with its 95 % interval, and the margin of equivalence."""
    shown = [judgement for judgement in judgements if judgement.difference is not None]
    if not shown:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.55 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, judgement in enumerate(shown):
        difference = judgement.difference
        axes.barh(row, 2 * difference.margin, left=-difference.margin, height=0.8, color="0.9")
        axes.plot(difference.values, [row + 0.15] * len(difference.values), "o", color="C0", alpha=0.5, markersize=4)
        interval = difference.interval
        axes.plot([interval.low, interval.high], [row - 0.15] * 2, color="black", linewidth=2)
        axes.plot(interval.mean, row - 0.15, "D", color="black", markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{j.contrast.name}: {j.verdict}" for j in shown])
    axes.invert_yaxis()
    axes.set(xlabel=f"paired difference in {metric}, positive: first better; grey: counts as none")
    return figure


def _curves(runs: Runs) -> Figure | None:
    """Every learning curve, thin, and the mean over seeds."""
    names = [name for name, mixers in runs.cells.items() if mixers]
    if not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(grid.flat, names, strict=False):
        for mixer, by_seed in runs.cells[name].items():
            curves = [record["curve"] for record in by_seed.values()]
            color = _color(runs, mixer)
            for curve in curves:
                axes.plot(*zip(*curve, strict=True), color=color, alpha=0.2, linewidth=0.7)
            whole = [curve for curve in curves if len(curve) == max(map(len, curves))]
            steps = [step for step, _ in whole[0]]
            axes.plot(steps, np.mean([[v for _, v in curve] for curve in whole], axis=0), color=color, label=mixer)
        axes.set(title=name, xlabel="steps", ylabel=runs.grid.metric)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    return figure


def _cost(runs: Runs) -> Figure | None:
    """What a network reaches against the CPU time of its training."""
    names = [name for name, mixers in runs.cells.items() if mixers]
    if not names:
        return None
    figure = Figure(figsize=(4.5 * len(names), 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for mixer, by_seed in runs.cells[name].items():
            made = [record for record in by_seed.values() if record["finite"]]
            seconds, values = [r["cpu_s"] for r in made], [r["value"] for r in made]
            axes.plot(seconds, values, "o", color=_color(runs, mixer), label=mixer, markersize=4)
        axes.set(title=name, xlabel="CPU seconds of training", ylabel=runs.grid.metric, xscale="log")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    return figure


def _length(cell: Cell) -> int:
    return (cell.data.get("side", 28) // cell.network["patch_size"]) ** 2


def _dose(runs: Runs, judgements: Sequence[Judgement]) -> Figure | None:
    """The marginal value of the scan against L/6D, with the step at 1 that the criterion predicts."""
    points = []
    for judgement in judgements:
        if judgement.kind == "secondary" and judgement.difference is not None:
            cell = runs.grid.cell(judgement.contrast.cells()[0])
            dim = cell.network["embed_dim"]
            points.append((_length(cell) / (6 * dim), dim, judgement.difference))
    if not points:
        return None
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    top = max(difference.interval.mean for _, _, difference in points)
    axes.plot([0.1, 1, 1, 10], [0, 0, top, top], color="0.6", linestyle="--", label="criterion: gain iff L > 6D")
    for dim in sorted({dim for _, dim, _ in points}):
        chosen = sorted(((ratio, d) for ratio, other, d in points if other == dim), key=lambda point: point[0])
        ratios = [ratio for ratio, _ in chosen]
        means = np.array([d.interval.mean for _, d in chosen])
        bars = [means - [d.interval.low for _, d in chosen], [d.interval.high for _, d in chosen] - means]
        axes.errorbar(ratios, means, bars, marker="o", capsize=3, label=f"D = {dim}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="L / 6D", ylabel=f"scan minus placebo, {runs.grid.metric} (positive: better)")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _distance(runs: Runs) -> Figure | None:
    """Accuracy per row against the distance to the legend, with the reach of the convolution."""
    names = [
        name
        for name, cell in runs.grid.cells.items()
        if cell.data["type"] == "legend" and cell.task in ("far", "load") and runs.cells[name]
    ]
    if not names:
        return None
    figure = Figure(figsize=(4.5 * len(names), 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        cell = runs.grid.cell(name)
        data, _ = data_sets(cell, 0)
        distances = data.row_distances()
        for mixer, by_seed in runs.cells[name].items():
            rows = [record["accuracy_by_row"] for record in by_seed.values() if record["finite"]]
            pairs = [
                (distance, np.mean([row[i] for row in rows]))
                for i, distance in enumerate(distances)
                if rows and rows[0][i] is not None
            ]
            if pairs:
                axes.plot(*zip(*sorted(pairs), strict=True), marker=".", color=_color(runs, mixer), label=mixer)
        axes.axvline(3 * cell.network["depth"] + 0.5, color="0.5", linestyle=":")
        axes.axhline(data.chance, color="0.5", linestyle="--")
        axes.set(title=name, xlabel="rows from the legend (dotted: reach of 7×7)", ylabel="accuracy", ylim=(0, 1.02))
        axes.legend(fontsize=7)
    return figure
