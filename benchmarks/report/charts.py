"""The pictures of report and benchmark, each in a wide and a narrow version (a phone shows the narrow one)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from scipy.optimize import isotonic_regression

from .tables import three_digits
from .theme import LIGHT, STYLE, new_figure

WIDTHS = {"wide": 10.4, "narrow": 4.95}  # inches of 72 SVG units
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*", "<", ">", "p", "h")
FLOP_CLASSES = ("linear", "convolution", "attention", "scan", "other")


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
    image_size: str
    gmacs: float
    images_per_s: float
    memory_mib: float | None
    first_size: bool = True
    hint: str = field(default="", compare=False)


@dataclass(frozen=True)
class TimeCurve:
    """Median time per image of one model over the image side, with the 95 % interval, under one set of conditions."""

    model: str
    sides: np.ndarray  # (S,) pixels, ascending
    ms: np.ndarray  # (S,)
    low_ms: np.ndarray  # (S,)
    high_ms: np.ndarray  # (S,)


def rho_plot(curves: Sequence[Curve], marks: Sequence[tuple[str, tuple[int, int]]], width: str) -> Figure:
    """ρ against the image side, log-log, with ρ = 1 and one mark per task; dashed: the 6D formula.

    Args:
        curves: one per model; those whose ρ is zero everywhere are listed below the axis.
        marks: tasks, each with its (H, W) in pixels; drawn at √(H·W).
        width: ``wide`` or ``narrow``.
    """
    figure = new_figure(WIDTHS[width], 6.3 if width == "wide" else 5.6)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        growing = [curve for curve in curves if curve.rho.max() > 0]
        _rho_axes(axes, curves, growing, width)
        for curve in growing:
            colour = LIGHT[curve.kind]
            seen = curve.rho > 0
            axes.plot(curve.sides[seen], curve.rho[seen], color=colour, gid=f"line-{curve.model}", zorder=3)
            if curve.formula is not None:
                axes.plot(curve.sides, curve.formula, color=colour, linewidth=1.2, dashes=(4, 3), alpha=0.9, zorder=2.5)
            if curve.points:
                x, y = np.array(curve.points).T
                axes.plot(x, y, curve.marker, color=colour, markersize=7, markeredgecolor=LIGHT["paper"], zorder=4)
        _task_marks(axes, marks, width)
        axes.set_xlabel("image side √(H·W), pixels")
        _note_zero(axes, [curve.model for curve in curves if curve.rho.max() == 0], width)
        if width == "wide":
            low, high = np.log(axes.get_ylim())
            ends = np.array([(math.log(curve.rho[-1]) - low) / (high - low) for curve in growing])
            _label_ends(axes, [curve.model for curve in growing], ends, [LIGHT[curve.kind] for curve in growing], 0.05)
    return figure


def _rho_axes(axes: Axes, curves: Sequence[Curve], growing: Sequence[Curve], width: str) -> None:
    low = min((curve.rho[curve.rho > 0].min() for curve in growing), default=0.01)
    high = max((curve.rho.max() for curve in growing), default=10.0)
    sides = np.concatenate([curve.sides for curve in curves])
    axes.set(xscale="log", yscale="log", xlim=(sides.min(), sides.max()))
    axes.set_ylim(max(low / 1.5, 1e-3), max(high * 1.5, 3))
    ticks = [side for side in (64, 128, 256, 512, 1024, 2048, 4096) if sides.min() <= side <= sides.max()]
    axes.set_xticks(ticks, [str(side) for side in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel("ρ = quadratic FLOPs / all others")
    axes.grid(True, axis="y")
    axes.axhline(1, color=LIGHT["ink"], linewidth=1.2, zorder=2)
    left = axes.get_xlim()[0] * 1.04
    bottom, top = axes.get_ylim()
    for text, y, valign in (("long: ρ ≥ 1", 1.12, "bottom"), ("mixed", 0.89, "top"), ("short: ρ < 0.1", 0.089, "top")):
        if bottom < y < top:
            box = {"facecolor": LIGHT["paper"], "edgecolor": "none", "alpha": 0.8, "pad": 1}
            axes.text(left, y, text, color=LIGHT["muted"], va=valign, fontsize=10, bbox=box, zorder=5)


def _task_marks(axes: Axes, marks: Sequence[tuple[str, tuple[int, int]]], width: str) -> None:
    low, high = np.log(axes.get_xlim())
    sides = {f"{name} {h}×{w}": math.sqrt(h * w) for name, (h, w) in marks}
    names = sorted((name for name in sides if low < math.log(sides[name]) < high), key=sides.__getitem__)
    at = np.array([(math.log(sides[name]) - low) / (high - low) for name in names])
    place = spread(at, 0.034 if width == "wide" else 0.062, 0, 1)
    for name, x, label_x in zip(names, at, place, strict=True):
        axes.axvline(sides[name], color=LIGHT["muted"], linewidth=0.8, alpha=0.7, zorder=1)
        axes.annotate(
            name,
            xy=(x, 1),
            xytext=(label_x, 1.035),
            xycoords="axes fraction",
            rotation=52 if width == "wide" else 65,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            fontsize=10,
            color=LIGHT["muted"],
            arrowprops={"arrowstyle": "-", "color": LIGHT["muted"], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0},
        )


def _note_zero(axes: Axes, models: Sequence[str], width: str) -> None:
    """A logarithmic axis has no place for zero: those models are named below it."""
    if models:
        text = textwrap.fill(f"ρ = 0 at every size: {', '.join(models)}", 95 if width == "wide" else 48)
        axes.set_xlabel(f"{axes.get_xlabel()}\n\n{text}")


def _label_ends(axes: Axes, names: Sequence[str], ends: np.ndarray, colours: Sequence[str], gap: float) -> None:
    """Names to the right of the curves, moved apart where the ends (fractions of the axis) meet.

    The colour is in the line that leads there: as text it would be too pale to read.
    """
    for name, y, label_y, colour in zip(names, ends, spread(ends, gap, 0, 1), colours, strict=True):
        axes.annotate(
            name,
            xy=(1, y),
            xytext=(1.035, label_y),
            xycoords="axes fraction",
            va="center",
            color=LIGHT["ink"],
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 2, "shrinkA": 2, "shrinkB": 0},
        )


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


def flop_plot(panels: Mapping[str, Sequence[Bar]], width: str) -> Figure:
    """GMACs by class of operation, one panel per input size, one stacked bar per model.

    Args:
        panels: input size as text, and one bar per model in the same order.
        width: ``wide`` or ``narrow``.
    """
    models = [bar.model for bar in next(iter(panels.values()))]
    wide = width == "wide"
    height = (0.36 if wide else 0.5) * len(models) + 0.9
    figure = new_figure(WIDTHS[width], height if wide else height * len(panels))
    with matplotlib.rc_context(STYLE):
        grid = figure.subplots(1 if wide else len(panels), len(panels) if wide else 1, squeeze=False, sharey=wide)
        for axes, (size, bars) in zip(grid.flat, panels.items(), strict=True):
            _flop_panel(axes, size, bars, width)
        if wide:
            for axes in grid.flat[1:]:
                axes.tick_params(labelleft=False)
        for axes in grid.flat[: 1 if wide else None]:  # shared axes are turned once for all
            axes.invert_yaxis()
    return figure


def _flop_panel(axes: Axes, size: str, bars: Sequence[Bar], width: str) -> None:
    totals = [sum(bar.gmacs.values()) for bar in bars]
    left = np.zeros(len(bars))
    height = 0.62 if width == "wide" else 0.46
    for name in FLOP_CLASSES:
        values = np.array([bar.gmacs.get(name, 0.0) for bar in bars])
        drawn = axes.barh(range(len(bars)), values, left=left, height=height, color=LIGHT[name])
        for i, patch in enumerate(drawn):
            patch.set_gid(f"bar-{size}-{i}-{name}")
        left += values
    for i, total in enumerate(totals):
        axes.text(total + max(totals) * 0.015, i, three_digits(total), va="center", fontsize=10)
    if width == "wide":
        axes.set_yticks(range(len(bars)), [bar.model for bar in bars])
    else:  # a column of names would take half of the width
        axes.set_yticks([])
        for i, bar in enumerate(bars):
            axes.text(0, i - 0.33, bar.model, va="bottom", fontsize=10)
        axes.set_ylim(-0.85, len(bars) - 0.6)
    axes.set_title(size)
    axes.set_xlim(0, max(totals) * 1.16)
    axes.set_xlabel("GMACs per image")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])


def block_plot(record: Mapping[str, Any], width: str) -> Figure:
    """The attention's share of a transformer block over the number of tokens: of the FLOPs, and of the time.

    Args:
        record: from `blocks.sweep_blocks`.
        width: ``wide`` or ``narrow``.
    """
    figure = new_figure(WIDTHS[width], 4.6 if width == "wide" else 4.4)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        lengths = np.array(sorted({row["tokens"] for row in record["rows"]}), dtype=float)
        axes.set(xscale="log", xlim=(lengths.min(), lengths.max()), ylim=(0, 100))
        grid = np.geomspace(lengths.min(), lengths.max(), 100)
        axes.axhline(50, color=LIGHT["ink"], linewidth=1)
        axes.plot(grid, 100 * grid / (grid + 6 * record["dim"]), color=LIGHT["muted"], dashes=(4, 3), gid="flops")
        ends = {"FLOPs (exact)": (lengths[-1] / (lengths[-1] + 6 * record["dim"]), LIGHT["muted"])}
        for name, colour, marker in (("fused", LIGHT["attention"], "o"), ("eager", LIGHT["ink"], "s")):
            rows = [row for row in record["rows"] if row["attention"] == name]
            if not rows:
                continue
            x = [row["tokens"] for row in rows]
            low, mid, high = (
                100 * np.array([row[key] for row in rows]) for key in ("time_share_p10", "time_share", "time_share_p90")
            )
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, mid, color=colour, marker=marker, markersize=5, gid=f"time-{name}")
            ends[f"time, {name}"] = (mid[-1] / 100, colour)
        _crossovers(axes, record)
        _block_axes(axes, ends, width)
    return figure


def _crossovers(axes: Axes, record: Mapping[str, Any]) -> None:
    found = record["crossover_tokens"]
    named = [(found["time"][name]["tokens"], colour) for name, colour in (("fused", "attention"), ("eager", "ink"))]
    low, high = axes.get_xlim()
    for tokens, colour in [(found["flops"], "muted"), *named]:
        if tokens and low <= tokens <= high:
            axes.plot([tokens, tokens], [0, 50], color=LIGHT[colour], linewidth=1, zorder=1)
            axes.plot([tokens], [50], "D", color=LIGHT[colour], markersize=7, markeredgecolor=LIGHT["paper"], zorder=5)


def _block_axes(axes: Axes, ends: Mapping[str, tuple[float, str]], width: str) -> None:
    low, high = axes.get_xlim()
    wide = width == "wide"
    ticks = [n for n in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384) if low <= n <= high][:: 1 if wide else 2]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(0, 101, 25), [f"{n} %" for n in range(0, 101, 25)])
    axes.grid(True, axis="y")
    axes.set_xlabel("tokens L (below: image side in pixels at patch 16)" if wide else "tokens L")
    axes.set_ylabel("share of the attention")
    if wide:
        axes.set_xticks(ticks, [f"{n}\n{round(16 * n**0.5)}" for n in ticks])
        shares, colours = zip(*ends.values(), strict=True)
        _label_ends(axes, list(ends), np.array(shares), colours, 0.055)


def throughput_plot(bubbles: Sequence[Bubble], width: str) -> Figure:
    """Images per second against GMACs per image, log-log; the area is peak memory, the diagonals are equal rates.

    Args:
        bubbles: one per timed configuration.
        width: ``wide`` or ``narrow``.
    """
    figure = new_figure(WIDTHS[width], 5.4 if width == "wide" else 4.9)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        x = np.array([bubble.gmacs for bubble in bubbles])
        y = np.array([bubble.images_per_s for bubble in bubbles])
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(x.min() / (3 if width == "wide" else 1.8), x.max() * 2.4),
            ylim=(y.min() / 2.2, y.max() * 2.2),
        )
        _equal_rates(axes, 2 * x * y)
        for model in dict.fromkeys(bubble.model for bubble in bubbles):
            mine = [bubble for bubble in bubbles if bubble.model == model]
            colour = LIGHT[mine[0].kind]
            axes.plot([b.gmacs for b in mine], [b.images_per_s for b in mine], color=colour, linewidth=1, alpha=0.5)
        for i, bubble in enumerate(bubbles):
            _bubble(axes, bubble, f"bubble-{i}", width)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("GMACs per image")
        axes.set_ylabel("images per second")
        axes.grid(True)
        figure.draw_without_rendering()  # lays the axes out: labels are placed in their pixels
        _label_bubbles(axes, bubbles, width)
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
            style = {"ha": "right", "va": "bottom", "fontsize": 9, "color": LIGHT["muted"]}
            axes.annotate(f"{rate:g} GFLOP/s", end, (-2, 3), textcoords="offset points", **style)


def _bubble(axes: Axes, bubble: Bubble, gid: str, width: str) -> None:
    area = 40 if bubble.memory_mib is None else max(bubble.memory_mib, 4)
    collection = axes.scatter(
        [bubble.gmacs],
        [bubble.images_per_s],
        s=area * (1.0 if width == "wide" else 0.6),
        color=LIGHT[bubble.kind],
        alpha=0.75 if bubble.first_size else 0.35,
        edgecolor=LIGHT[bubble.kind],
        zorder=3,
    )
    collection.set_gid(gid)
    axes.plot(
        [bubble.gmacs],
        [bubble.images_per_s],
        bubble.marker,
        color=LIGHT["paper"],
        markeredgecolor=LIGHT["ink"],
        markersize=5,
        zorder=4,
    )


def _label_bubbles(axes: Axes, bubbles: Sequence[Bubble], width: str) -> None:
    """Names beside the first size's bubbles, each where it covers least of the others and stays inside; a name that
    had to move away from its bubble is tied to it by a line."""
    if width == "narrow":
        return
    frame = axes.get_window_extent()
    step = 20  # pixels, the height of a name
    taken = []
    for bubble in bubbles:
        (x, y), r = axes.transData.transform((bubble.gmacs, bubble.images_per_s)), _radius(bubble) - 2
        taken.append((x - r, y - r, x + r, y + r))
    first = [bubble for bubble in bubbles if bubble.first_size]
    for bubble in sorted(first, key=lambda bubble: -bubble.images_per_s):  # from top to bottom: lines cross less
        x, y = axes.transData.transform((bubble.gmacs, bubble.images_per_s))
        w, away = 9.5 * len(bubble.model), _radius(bubble)
        spots = [
            (dx, dy * away + math.copysign(farther * step, dy), farther)
            for farther in range(10)
            for dx in (1, -1, 0)
            for dy in ((0, 1, -1) if dx and not farther else (1, -1))
        ]

        def cost(spot: tuple[int, float, int], x=x, y=y, w=w, away=away) -> float:
            box = _spot(x, y, w, step, spot[0] * away, spot[1])
            return _cover(box, taken) + _outside(box, frame.extents) + 0.002 * w * step * spot[2]  # free before near

        dx, dy, farther = min(spots, key=cost)
        taken.append(_spot(x, y, w, step, dx * away, dy))
        place = {"ha": {1: "left", -1: "right", 0: "center"}[dx], "va": "center"}
        at = (dx * away * 72 / axes.figure.dpi, dy * 72 / axes.figure.dpi)
        point = (bubble.gmacs, bubble.images_per_s)
        line = {"arrowstyle": "-", "color": LIGHT["muted"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            bubble.model,
            point,
            at,
            textcoords="offset points",
            color=LIGHT["ink"],
            zorder=5,
            arrowprops=line if farther else None,
            **place,
        )


def _radius(bubble: Bubble) -> float:
    """Pixels from a bubble's centre to where its name may begin."""
    return 16 + (bubble.memory_mib or 0) ** 0.5 * 0.7


def _spot(x: float, y: float, w: float, h: float, dx: float, dy: float) -> tuple[float, float, float, float]:
    """The box of a text of w×h pixels beside (x, y), as (left, bottom, right, top)."""
    left = x + dx - (0 if dx > 0 else w if dx < 0 else w / 2)
    return left, y + dy - h / 2, left + w, y + dy + h / 2


def _cover(box: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> float:
    """Area of ``box`` that the others cover."""
    overlaps = ((min(box[2], o[2]) - max(box[0], o[0]), min(box[3], o[3]) - max(box[1], o[1])) for o in others)
    return sum(max(0.0, w) * max(0.0, h) for w, h in overlaps)


def _outside(box: tuple[float, ...], frame: Sequence[float]) -> float:
    """Area of ``box`` outside ``frame``."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _cover(box, [tuple(frame)])


def time_plot(curves: Sequence[TimeCurve], kinds: Mapping[str, str], width: str) -> Figure:
    """Milliseconds per image against the image side, log-log, with 95 % intervals.

    Args:
        curves: one per model, of two sizes or more.
        kinds: kind of mixer by model, which decides the colour.
        width: ``wide`` or ``narrow``.
    """
    figure = new_figure(WIDTHS[width], 5.4)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log")
        colours = [LIGHT[kinds[curve.model]] for curve in curves]
        for curve, colour, marker in zip(curves, colours, MARKERS, strict=False):
            axes.fill_between(curve.sides, curve.low_ms, curve.high_ms, color=colour, alpha=0.2, linewidth=0)
            axes.plot(curve.sides, curve.ms, color=colour, marker=marker, markersize=6, gid=f"time-{curve.model}")
        sides = np.unique(np.concatenate([curve.sides for curve in curves]))
        axes.set_xlim(sides[0], sides[-1])
        axes.set_xticks(sides, [f"{side:.0f}\n{(side / 16) ** 2:,.0f}" for side in sides])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.grid(True, axis="y")
        axes.set_xlabel("image side √(H·W) in pixels (below: tokens of 16×16 pixels)")
        axes.set_ylabel("milliseconds per image")
        if width == "wide":
            low, high = np.log(axes.get_ylim())
            ends = np.array([(math.log(curve.ms[-1]) - low) / (high - low) for curve in curves])
            _label_ends(axes, [curve.model for curve in curves], ends, colours, 0.06)
    return figure
