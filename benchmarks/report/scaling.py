"""How measured time grows with the image, and at which size one model overtakes another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...backbones._files import write_atomically
from ..counting.criterion import Analyzer
from ..counting.record import kind_of
from ..timing.case import Case, Row
from .charts import MARKERS, TimeCurve, time_plot
from .tables import Column, Table, size_text, three_digits
from .theme import standalone, to_svg

PATCH = 16  # pixels a side of the tokens that sizes are told in


def by_conditions(rows: Sequence[Row]) -> dict[Case, list[Row]]:
    """Measured rows, those that differ in model and image size only under one key."""
    groups: dict[Case, list[Row]] = {}
    for row in rows:
        if row.status == "ok":
            groups.setdefault(replace(row.case, model="", image_size=(1, 1)), []).append(row)
    return groups


def time_curves(rows: Sequence[Row]) -> list[TimeCurve]:
    """The models that rows of equal conditions measured at two sizes or more, in order of appearance."""
    curves = []
    for model in dict.fromkeys(row.case.model for row in rows):
        mine = {math.sqrt(math.prod(row.case.image_size)): row for row in rows if row.case.model == model}
        if len(mine) > 1:
            ordered = [mine[side] for side in sorted(mine)]
            times = [
                np.array([row.p50_ms, row.ci_low_ms or row.p50_ms, row.ci_high_ms or row.p50_ms]) / row.batch
                for row in ordered
            ]
            curves.append(TimeCurve(model, np.array(sorted(mine)), *np.array(times).T))
    return curves


def crossing(a: TimeCurve, b: TimeCurve) -> float | None:
    """Image side in pixels from which on ``a`` is faster than ``b``; ``None`` if that does not begin in the range.

    Between two measured sizes, both times are taken for straight lines in logarithmic axes.
    """
    sides = np.intersect1d(a.sides, b.sides)
    behind = np.log(a.ms[np.isin(a.sides, sides)] / b.ms[np.isin(b.sides, sides)])  # (S,) above 0: a is slower
    for i in range(len(sides) - 1, 0, -1):
        if behind[i] >= 0:
            return None
        if behind[i - 1] >= 0:
            share = behind[i - 1] / (behind[i - 1] - behind[i])
            return float(sides[i - 1] * (sides[i] / sides[i - 1]) ** share)
    return None


def sentences(curves: Sequence[TimeCurve]) -> list[str]:
    """Who overtakes whom, and where."""
    found = []
    for a, b in itertools.permutations(curves, 2):
        side = crossing(a, b)
        if side is not None:
            found.append(
                f"{a.model} overtakes {b.model} at about {side:,.0f} pixels a side ({(side / PATCH) ** 2:,.0f} tokens "
                f"of {PATCH}×{PATCH} pixels)."
            )
    return found or ["No model overtakes another in this range."]


def time_tables(rows: Sequence[Row]) -> list[Table]:
    """Milliseconds per image, one line per model and one column per input size; one table per set of conditions."""
    tables = []
    for members in by_conditions(rows).values():
        curves = time_curves(members)
        if not curves:
            continue
        models = [curve.model for curve in curves]
        times = {(row.case.model, row.case.image_size): row.p50_ms / row.batch for row in members}
        sizes = sorted({size for model, size in times if model in models}, key=math.prod)
        columns = [Column("model", text=True), *(Column(size_text(size), "ms per image") for size in sizes)]
        table = Table("Time against image size", columns, note=" ".join(sentences(curves)))
        for model in models:
            found = [times.get((model, size)) for size in sizes]
            table.add(model, *("–" if ms is None else three_digits(ms) for ms in found))
        tables.append(table)
    return tables


def check_plot(path: Path) -> None:
    """Raises ValueError for a picture that is not SVG."""
    if path.suffix != ".svg":
        raise ValueError(f"--plot: expected a file that ends in .svg, got {str(path)!r}")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the picture of time against image side as one SVG file.

    Raises:
        ValueError: rows that differ in more than model and image size, or no model at two sizes; another suffix.
        OSError: the file cannot be written.
    """
    check_plot(path)
    groups = by_conditions(rows)
    if len(groups) > 1:
        raise ValueError(f"--plot: expected rows of one set of conditions, got {len(groups)}: one --batch, one --dtype")
    curves = [curve for members in groups.values() for curve in time_curves(members)]
    if not 0 < len(curves) <= len(MARKERS):
        raise ValueError(
            f"--plot: expected 1 to {len(MARKERS)} models measured at two input sizes or more, got {len(curves)}"
        )
    kinds = {curve.model: kind_of(Analyzer(curve.model).at(None)) for curve in curves}
    picture = to_svg(
        time_plot(curves, kinds), "growth", "Time per image against image side", " ".join(sentences(curves))
    )
    write_atomically(standalone(picture), path)
