"""The pictures of a comparison with the words around them, drawn from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ..counting.record import FLOP_CLASSES, kind_of
from ..timing.ratios import ratios
from . import charts
from .charts import MARKERS, Bar, Bubble, Curve
from .comparison import Records
from .findings import presets_of
from .tables import Table, percent, size_text, three_digits
from .theme import to_svg
from .timings import block_table, ratio_table, timing_table

SIDES = np.geomspace(64, 2048, 81)  # pixels
DENSE_TASK = "coco"  # the preset whose FLOP classes are shown beside those of the timed sizes


@dataclass(frozen=True)
class Member:
    """A model as the pictures show it: one colour per kind of mixer, one marker per model."""

    model: str
    kind: str
    marker: str


@dataclass(frozen=True)
class Picture:
    """A section of the page around one picture.

    Attributes:
        name: id of the figure.
        heading, lead, caption: the words around it.
        svg: the picture.
        keys: colours by role, and what they stand for.
        tables, details: figures to show below, and to show when asked.
    """

    name: str
    heading: str
    lead: str
    caption: str
    svg: Markup
    keys: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    details: Sequence[Table] = ()


def cast_of(records: Records) -> dict[str, Member]:
    """Kind and marker of every model."""
    return {
        model: Member(model, kind_of(records.of(model, None, records.inputs[0])), MARKERS[i % len(MARKERS)])
        for i, model in enumerate(records.models)
    }


def rho_curves(records: Records) -> list[Curve]:
    """ρ of every model whose growth is known, with its value at every task preset."""
    presets = presets_of(records)
    curves = []
    for member in cast_of(records).values():
        found = [records.of(member.model, *preset) for preset in presets]
        reference = found[0]
        if reference.growth is None:
            continue
        height, width = reference.image_size
        formula = None if reference.formula is None else reference.formula * SIDES**2 / (height * width)  # L ~ pixels
        curves.append(
            Curve(
                member.model,
                member.kind,
                member.marker,
                SIDES,
                np.array([reference.growth.rho_at(side) for side in SIDES]),
                [((r.image_size[0] * r.image_size[1]) ** 0.5, r.rho) for r in found if r.rho > 0],
                formula,
            )
        )
    return curves


def rho_picture(records: Records) -> Picture:
    """ρ against the image side."""
    curves, presets = rho_curves(records), presets_of(records)
    described = "; ".join(
        f"{curve.model} from {three_digits(curve.rho[0])} to {three_digits(curve.rho[-1])}" for curve in curves
    )
    title = "ρ against image side"
    description = f"Log-log plot for square images of {SIDES[0]:.0f} to {SIDES[-1]:.0f} pixels a side: {described}."
    hints = {f"line-{curve.model}": curve.model for curve in curves}
    svg = Markup(to_svg(charts.rho_plot(curves, presets), "rho", title, description, hints))
    return Picture(
        "rho",
        "Where attention takes over",
        "ρ is the FLOPs that grow with the square of the number of pixels, over all others. Below the line the "
        "projections, MLPs and convolutions cost more; above it the attention matrix does.",
        "Solid: counted operator by operator and extended exactly over square images; markers: counted at each task's "
        "own height and width. Dashed: the formula L/6D of one transformer block, with D from the stage of stride 16 "
        "and an MLP ratio of 4. Where the two part, the network is no plain ViT.",
        svg=svg,
    )


def flop_picture(records: Records) -> Picture:
    """FLOP classes at every timed size, and at a dense task's."""
    columns = {size_text(size): (None, size) for size in records.inputs}
    columns |= {f"{size_text(size)} ({task})": (task, size) for task, size in presets_of(records) if task == DENSE_TASK}
    panels, hints = {}, {}
    for size, which in columns.items():
        panels[size] = []
        for i, model in enumerate(records.models):
            gmacs = {name: macs / 1e9 for name, macs in records.of(model, *which).macs_by_class.items()}
            panels[size].append(Bar(model, gmacs))
            hints |= {
                f"bar-{size}-{i}-{name}": f"{model} at {size}, {name}: {three_digits(gmacs.get(name, 0))} GMACs"
                for name in FLOP_CLASSES
            }
    described = "; ".join(
        f"at {size}: " + ", ".join(f"{bar.model} {three_digits(sum(bar.gmacs.values()))} GMACs" for bar in bars)
        for size, bars in panels.items()
    )
    svg = Markup(to_svg(charts.flop_plot(panels), "flops", "GMACs by class of operation", described, hints))
    seen = {name for bars in panels.values() for bar in bars for name, gmacs in bar.gmacs.items() if gmacs}
    return Picture(
        "flops",
        "What the arithmetic is spent on",
        "Multiply-accumulates of one image. One GMAC is two GFLOP.",
        "An operation belongs to attention if both of its operands come from the image, whatever its layer is "
        "called; to linear or convolution if one is a weight. Each panel has its own scale.",
        keys=[(name, name) for name in FLOP_CLASSES if name in seen],
        svg=svg,
    )


def block_picture(blocks: Mapping[str, Any]) -> Picture:
    """The attention's share of the FLOPs against its share of the time."""
    longest = max(row["tokens"] for row in blocks["rows"])
    ends = [
        f"{percent(row['time_share'])} of the time with {row['attention']} attention"
        for row in blocks["rows"]
        if row["tokens"] == longest
    ]
    share = longest / (longest + 6 * blocks["dim"])
    described = f"Both shares grow with the number of tokens; at {longest} tokens: {percent(share)} of the FLOPs, "
    title = "Share of the attention in one transformer block"
    svg = Markup(to_svg(charts.block_plot(blocks), "blocks", title, described + ", ".join(ends)))
    where = {1: "one CPU thread"}.get(blocks["threads"], f"{blocks['threads']} CPU threads")
    where = where if blocks["device"] == "cpu" else blocks["device"]
    return Picture(
        "blocks",
        "FLOPs are not time",
        f"One transformer block of {blocks['dim']} channels and {blocks['num_heads']} heads, {blocks['dtype']}, "
        f"batch 1, on {where}. How much of it is attention, from the product of "
        "queries and keys to the weighted sum of the values?",
        f"Diamonds mark the crossovers at 50\u00a0%, bands the 10th to 90th percentile of {blocks['rounds']} rounds, "
        "in which all lengths and both attentions took turns.",
        keys=[
            ("muted", "share of the FLOPs, L/(L + 6D), dashed"),
            ("attention", "share of the time with PyTorch's fused attention, circles"),
            ("ink", "share of the time with an eager attention, which writes its scores to memory, squares"),
        ],
        details=[block_table(blocks)],
        svg=svg,
    )


def throughput_picture(records: Records) -> Picture | None:
    """Images per second against GMACs; ``None`` if nothing was timed."""
    cast, bubbles, hints = cast_of(records), [], {}
    for row in records.rows:
        if not row.images_per_s or not row.gmacs:
            continue
        member, size = cast[row.case.model], size_text(row.case.image_size)
        hint = f"{member.model} at {size}: {three_digits(row.gmacs)} GMACs, {three_digits(row.images_per_s)} images/s"
        if row.peak_memory_mib is not None:
            hint += f", {three_digits(row.peak_memory_mib)} MiB"
        hints[f"bubble-{len(bubbles)}"] = hint
        first = row.case.image_size == records.inputs[0]
        figures = (row.gmacs, row.images_per_s, row.peak_memory_mib)
        bubbles.append(Bubble(member.model, member.kind, member.marker, *figures, first))
    if not bubbles:
        return None
    title, described = "Throughput against GMACs", "; ".join(hints.values())
    svg = Markup(to_svg(charts.throughput_plot(bubbles), "throughput", title, described, hints))
    found, case = ratios(records.rows), records.rows[0].case
    device = records.environment.get("gpu" if case.device.startswith("cuda") else "cpu")
    return Picture(
        "throughput",
        "How fast they are here",
        f"Inference on {device}, {case.dtype}, batch {case.batch}. All models of one size took turns, round by round, "
        "so that a change in the machine's speed meets all of them alike.",
        f"Full colour: {size_text(records.inputs[0])} pixels; pale: the other inputs. The area is peak memory. "
        "Diagonals join equal achieved GFLOP/s: the further down and left, the worse a model uses the device.",
        tables=[timing_table(records.rows), *([ratio_table(found)] if found else [])],
        svg=svg,
    )
