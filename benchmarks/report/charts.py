"""The pictures of report and benchmark: one width, which a phone can read, with a legend below."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from ..counting.record import FLOP_CLASSES
from .tables import three_digits
from .theme import LIGHT, STYLE, new_figure

MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*", "<", ">", "p", "h")


@dataclass(frozen=True)
class Curve:
    """ρ of one model over the image side; ``points`` are the task presets, ``formula`` the 6D rule at ``sides``."""

    model: str
    kind: str
    marker: str
    sides: np.ndarray  # (S,) pixels
    rho: np.ndarray  # (S,)
    points: Sequence[tuple[float, float]] = ()
    formula: np.ndarray | None = None  # (S,)


@dataclass(frozen=True)
class Bar:
    """GMACs of one model at one input size, by class of operation."""

    model: str
    gmacs: Mapping[str, float]


@dataclass(frozen=True)
class Bubble:
    """One timed configuration."""

    model: str
    kind: str
    marker: str
    gmacs: float
    images_per_s: float
    memory_mib: float | None
    first_size: bool = True


@dataclass(frozen=True)
class TimeCurve:
    """Median time per image of one model over the image side, with the 95 % interval, under one set of conditions."""

    model: str
    sides: np.ndarray  # (S,) pixels, ascending
    ms: np.ndarray  # (S,)
    low_ms: np.ndarray  # (S,)
    high_ms: np.ndarray  # (S,)


def _legend(figure: Figure, axes: Axes) -> None:
    """Names the labelled artists below the picture, in two columns."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=10)


def _log_axis(axis: matplotlib.axis.Axis, ticks: Sequence[float] | None = None) -> None:
    """Few ticks, as plain numbers."""
    axis.set_minor_locator(NullLocator())
    if ticks is None:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axis.set_ticks(ticks)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def rho_plot(curves: Sequence[Curve], marks: Sequence[tuple[str, tuple[int, int]]]) -> Figure:
    """ρ against the image side, log-log, with ρ = 1 and one mark per task; dashed: the 6D formula.

    Args:
        curves: one per model; those whose ρ is zero everywhere are listed below the axis.
        marks: tasks, each with its (H, W) in pixels; drawn at √(H·W).
    """
    figure = new_figure(5.8)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        growing = [curve for curve in curves if curve.rho.max() > 0]
        _rho_axes(axes, curves, growing)
        for curve in growing:
            look = {"color": LIGHT[curve.kind], "marker": curve.marker, "markeredgecolor": LIGHT["paper"]}
            seen = curve.rho > 0
            axes.plot(curve.sides[seen], curve.rho[seen], color=look["color"], gid=f"line-{curve.model}", zorder=3)
            if curve.formula is not None:
                axes.plot(curve.sides, curve.formula, color=look["color"], linewidth=1.2, dashes=(4, 3), zorder=2.5)
            axes.plot(*np.reshape(curve.points, (-1, 2)).T, markersize=7, label=curve.model, zorder=4, **look)
            axes.lines[-1].set_linestyle("")
        _task_marks(axes, marks)
        zero = [curve.model for curve in curves if curve.rho.max() == 0]
        text = textwrap.fill(f"ρ = 0 at every size: {', '.join(zero)}", 58) if zero else ""
        axes.set_xlabel(f"image side √(H·W), pixels\n{text}".strip())
        if growing:
            _legend(figure, axes)
    return figure


def _rho_axes(axes: Axes, curves: Sequence[Curve], growing: Sequence[Curve]) -> None:
    low = min((curve.rho[curve.rho > 0].min() for curve in growing), default=0.01)
    high = max((curve.rho.max() for curve in growing), default=10.0)
    sides = np.concatenate([curve.sides for curve in curves])
    axes.set(xscale="log", yscale="log", xlim=(sides.min(), sides.max()))
    axes.set_ylim(max(low / 1.5, 1e-3), max(high * 1.5, 3))
    _log_axis(axes.xaxis, [2**n for n in range(6, 13) if sides.min() <= 2**n <= sides.max()])
    _log_axis(axes.yaxis, [10.0**n for n in range(-3, 4) if axes.get_ylim()[0] <= 10.0**n <= axes.get_ylim()[1]])
    axes.set_ylabel("ρ = quadratic FLOPs / all others")
    axes.grid(True, axis="y")
    axes.axhline(1, color=LIGHT["ink"], linewidth=1.2, zorder=2)
    bottom, top = axes.get_ylim()
    for text, y, valign in (("long: ρ ≥ 1", 1.12, "bottom"), ("mixed", 0.89, "top"), ("short: ρ < 0.1", 0.089, "top")):
        if bottom < y < top:
            axes.text(axes.get_xlim()[0] * 1.04, y, text, color=LIGHT["muted"], va=valign, fontsize=10, zorder=5)


def _task_marks(axes: Axes, marks: Sequence[tuple[str, tuple[int, int]]]) -> None:
    low, high = np.log(axes.get_xlim())
    at = {f"{name} {h}×{w}": (math.log(math.sqrt(h * w)) - low) / (high - low) for name, (h, w) in marks}
    at = {name: x for name, x in sorted(at.items(), key=lambda item: item[1]) if 0 < x < 1}
    line = {"arrowstyle": "-", "color": LIGHT["muted"], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
    text = {"rotation": 65, "rotation_mode": "anchor", "fontsize": 10, "color": LIGHT["muted"]}
    for (name, x), label_x in zip(at.items(), spread(np.array(list(at.values())), 0.062, 0, 1), strict=True):
        axes.axvline(math.exp(low + x * (high - low)), color=LIGHT["muted"], linewidth=0.8, alpha=0.7, zorder=1)
        axes.annotate(name, (x, 1), (label_x, 1.035), xycoords="axes fraction", arrowprops=line, **text)


def spread(positions: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """The closest positions (least squares) in the same order that lie ``gap`` apart and within [low, high]."""
    if not len(positions):
        return positions
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(positions))
    means = isotonic_regression(positions[order] - steps).x
    placed = np.empty(len(positions))
    placed[order] = np.clip(means, low, high - steps[-1]) + steps
    return placed


def flop_plot(panels: Mapping[str, Sequence[Bar]]) -> Figure:
    """GMACs by class of operation, one panel per input size, one stacked bar per model.

    Args:
        panels: input size as text, and one bar per model in the same order.
    """
    models = len(next(iter(panels.values())))
    figure = new_figure((0.5 * models + 0.9) * len(panels))
    with matplotlib.rc_context(STYLE):
        grid = figure.subplots(len(panels), squeeze=False)
        for axes, (size, bars) in zip(grid.flat, panels.items(), strict=True):
            _flop_panel(axes, size, bars)
    return figure


def _flop_panel(axes: Axes, size: str, bars: Sequence[Bar]) -> None:
    totals = [sum(bar.gmacs.values()) for bar in bars]
    left = np.zeros(len(bars))
    for name in FLOP_CLASSES:
        values = np.array([bar.gmacs.get(name, 0.0) for bar in bars])
        for i, patch in enumerate(axes.barh(range(len(bars)), values, left=left, height=0.46, color=LIGHT[name])):
            patch.set_gid(f"bar-{size}-{i}-{name}")
        left += values
    for i, (bar, total) in enumerate(zip(bars, totals, strict=True)):
        axes.text(total + max(totals) * 0.015, i, three_digits(total), va="center", fontsize=10)
        axes.text(0, i - 0.33, bar.model, va="bottom", fontsize=10)  # a column of names would take half of the width
    axes.set(title=size, xlim=(0, max(totals) * 1.16), ylim=(len(bars) - 0.6, -0.85), xlabel="GMACs per image")
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)


def block_plot(record: Mapping[str, object]) -> Figure:
    """The attention's share of a transformer block over the number of tokens: of the FLOPs, and of the time.

    Args:
        record: from `block_sweep.sweep_blocks`.
    """
    figure = new_figure(4.4)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        lengths = np.array(sorted({row["tokens"] for row in record["rows"]}), dtype=float)
        axes.set(xscale="log", xlim=(lengths.min(), lengths.max()), ylim=(0, 100))
        grid = np.geomspace(lengths.min(), lengths.max(), 100)
        axes.axhline(50, color=LIGHT["ink"], linewidth=1)
        axes.plot(grid, 100 * grid / (grid + 6 * record["dim"]), color=LIGHT["muted"], dashes=(4, 3), gid="flops")
        crossings = [(record["crossover_tokens"]["flops"], LIGHT["muted"])]
        for name, colour, marker in (("fused", LIGHT["attention"], "o"), ("eager", LIGHT["ink"], "s")):
            rows = [row for row in record["rows"] if row["attention"] == name]
            x = [row["tokens"] for row in rows]
            keys = ("time_share_p10", "time_share", "time_share_p90")
            low, mid, high = (100 * np.array([row[key] for row in rows]) for key in keys)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, mid, color=colour, marker=marker, markersize=5, gid=f"time-{name}")
            crossings.append((record["crossover_tokens"]["time"][name]["tokens"], colour))
        for tokens, colour in crossings:
            if tokens and lengths.min() <= tokens <= lengths.max():
                axes.plot([tokens, tokens], [0, 50], color=colour, linewidth=1, zorder=1)
                axes.plot([tokens], [50], "D", color=colour, markersize=7, markeredgecolor=LIGHT["paper"], zorder=5)
        _log_axis(axes.xaxis, [4**n for n in range(3, 8) if lengths.min() <= 4**n <= lengths.max()])
        axes.set_yticks(range(0, 101, 25), [f"{n} %" for n in range(0, 101, 25)])
        axes.grid(True, axis="y")
        axes.set(xlabel="tokens L", ylabel="share of the attention")
    return figure


def throughput_plot(bubbles: Sequence[Bubble]) -> Figure:
    """Images per second against GMACs per image, log-log; the area is peak memory, the diagonals are equal rates.

    Args:
        bubbles: one per timed configuration.
    """
    figure = new_figure(5.6)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        x, y = (np.array([getattr(bubble, name) for bubble in bubbles]) for name in ("gmacs", "images_per_s"))
        axes.set(xscale="log", yscale="log", xlim=(x.min() / 1.8, x.max() * 2.4), ylim=(y.min() / 2.2, y.max() * 2.2))
        _equal_rates(axes, 2 * x * y)
        for model in dict.fromkeys(bubble.model for bubble in bubbles):
            mine = [bubble for bubble in bubbles if bubble.model == model]
            xs, ys, colour = [b.gmacs for b in mine], [b.images_per_s for b in mine], LIGHT[mine[0].kind]
            axes.plot(xs, ys, color=colour, linewidth=1, alpha=0.5)
            dot = {"color": LIGHT["paper"], "markeredgecolor": colour, "markersize": 6, "zorder": 4}
            axes.plot(xs, ys, mine[0].marker, label=model, **dot)
        for i, bubble in enumerate(bubbles):
            area = 24 if bubble.memory_mib is None else 0.6 * max(bubble.memory_mib, 4)
            look = {"color": LIGHT[bubble.kind], "alpha": 0.75 if bubble.first_size else 0.35, "zorder": 3}
            axes.scatter([bubble.gmacs], [bubble.images_per_s], s=area, gid=f"bubble-{i}", **look)
        _log_axis(axes.xaxis)
        _log_axis(axes.yaxis)
        axes.set(xlabel="GMACs per image", ylabel="images per second")
        axes.grid(True)
        _legend(figure, axes)
    return figure


def _equal_rates(axes: Axes, reached: np.ndarray) -> None:
    """Lines of equal achieved GFLOP/s (2 FLOPs per MAC) around those reached: lower is a worse use of the device."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for rate in (a * 10.0**n for n in range(-2, 7) for a in (1, 2, 5)):
        if not reached.min() / 2.5 < rate < reached.max() * 2.5:
            continue
        axes.plot([left, right], [rate / 2 / left, rate / 2 / right], color=LIGHT["muted"], linewidth=0.8, alpha=0.45)
        end = (right, rate / 2 / right) if rate / 2 / right > bottom else (rate / 2 / bottom, bottom)
        if end[1] < top and end[0] > left * 2:
            style = {"ha": "right", "va": "bottom", "fontsize": 10, "color": LIGHT["muted"]}
            axes.annotate(f"{rate:g} GFLOP/s", end, (-2, 3), textcoords="offset points", **style)


def time_plot(curves: Sequence[TimeCurve], kinds: Mapping[str, str]) -> Figure:
    """Milliseconds per image against the image side, log-log, with 95 % intervals.

    Args:
        curves: one per model, of two sizes or more.
        kinds: kind of mixer by model, which decides the colour.
    """
    figure = new_figure(5.4)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log")
        for curve, marker in zip(curves, MARKERS, strict=False):
            look = {"color": LIGHT[kinds[curve.model]], "marker": marker, "markersize": 6, "label": curve.model}
            axes.fill_between(curve.sides, curve.low_ms, curve.high_ms, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(curve.sides, curve.ms, gid=f"time-{curve.model}", **look)
        sides = np.unique(np.concatenate([curve.sides for curve in curves]))
        axes.set_xlim(sides[0], sides[-1])
        _log_axis(axes.xaxis, sides)
        axes.set_xticks(sides, [f"{side:.0f}\n{(side / 16) ** 2:,.0f}" for side in sides])
        _log_axis(axes.yaxis)
        axes.grid(True, axis="y")
        axes.set_xlabel("image side √(H·W) in pixels (below: tokens of 16×16)")
        axes.set_ylabel("milliseconds per image")
        _legend(figure, axes)
    return figure
