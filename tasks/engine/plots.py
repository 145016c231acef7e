"""Pictures of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .checkpoints import write_atomically

__all__ = ["draw_confusion", "draw_curves", "save_figure"]

SMOOTH = 50  # pieces a loss curve is averaged into


def save_figure(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG, whole or not at all."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(buffer.getvalue(), path)


def draw_curves(history: Mapping[str, Sequence[float]], path: Path) -> None:
    """Loss and learning rate over iterations, and what validation measured, side by side.

    Args:
        history: values in order; keys as mmengine logs them: ``train/loss``, ``train/lr``, ``val/...``.
        path: PNG to write.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    loss, rate, validation = figure.subplots(1, 3)
    values = np.asarray(history.get("train/loss", ()))
    smoothed = len(values) >= SMOOTH
    loss.plot(np.arange(1, len(values) + 1), values, color="C0", alpha=0.3 if smoothed else 1, linewidth=0.8)
    if smoothed:
        pieces = np.array_split(values, SMOOTH)
        loss.plot(np.cumsum([len(piece) for piece in pieces]), [piece.mean() for piece in pieces], color="C0")
    rates = history.get("train/base_lr", history.get("train/lr", ()))
    rate.plot(np.arange(1, len(rates) + 1), rates)
    for key, points in history.items():
        if key.startswith("val/") and not key.endswith("time"):
            validation.plot(np.arange(1, len(points) + 1), points, marker="o", label=key.removeprefix("val/"))
    for axes, title, unit in (
        (loss, "training loss", "iteration"),
        (rate, "learning rate", "iteration"),
        (validation, "validation", "validation run"),
    ):
        axes.set(title=title, xlabel=unit)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    if validation.get_legend_handles_labels()[1]:
        validation.legend()
    save_figure(figure, path)


def draw_confusion(counts: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """The confusion matrix, each row a share of its true class.

    Args:
        counts: (true, predicted) numbers of images.
        classes: names.
        path: PNG to write.
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(classes) <= 30  # beyond, figures and names would be unreadable
    side = 2.5 + 0.45 * len(classes) if few else 10
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"% of each true class\n({counts.sum():,} images)")
    if few:
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), value in np.ndenumerate(share):
            if counts[row, column]:
                shade = "white" if value > 0.5 else "black"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=shade, fontsize=8)
    save_figure(figure, path)
