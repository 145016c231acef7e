"""What the records of a comparison say: sentences, and the tables of the criterion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..counting.record import AnalysisRecord, StageRecord
from ..timing.case import Row, question
from ..timing.ratios import ratio
from .comparison import Records
from .tables import Cell, Column, Table, size_text, three_digits

Preset = tuple[str, tuple[int, int]]


def presets_of(records: Records) -> list[Preset]:
    """The task presets analyzed, each with its (H, W) in pixels, in order of appearance."""
    return list(dict.fromkeys((record.task, record.image_size) for record in records.analyses if record.task))


def findings(records: Records) -> list[str]:
    """What the figures say, one sentence or two each."""
    blocks = [block_finding(records.blocks)] if records.blocks else []
    return [*_length_findings(records), *blocks, *_speed_findings(records.rows)]


def _length_findings(records: Records) -> list[str]:
    first = {record.model: record for record in reversed(records.analyses)}
    growing = {model: first[model].crossover_side for model in records.models if first[model].crossover_side}
    unknown = [model for model in records.models if first[model].length_class == "unknown"]
    never = [model for model in records.models if model not in growing and model not in unknown]
    said = []
    if growing:
        ordered = sorted(growing.items(), key=lambda item: item[1])
        sides = _listed(f"{side:.0f} pixels in {model}" for model, side in ordered)
        said.append(f"The quadratic FLOPs of attention outweigh all others (ρ ≥ 1) beyond an image side of {sides}.")
    if never:
        said.append(f"Nothing grows with the square of the pixels in {_listed(never)}.")
    autoregressive = {record.task for record in records.analyses if record.task and record.autoregressive}
    presets = presets_of(records)
    if presets and not autoregressive:
        said.append(
            f"None of the {len(presets)} task presets is autoregressive, so the paper's second reason for a recurrent "
            "mixer is absent in all of them."
        )
    elif autoregressive:
        said.append(f"Autoregressive: {_listed(sorted(autoregressive))}.")
    return said


def _speed_findings(rows: Sequence[Row]) -> list[str]:
    """For each input size the fastest and the slowest, and how far FLOPs are from telling time."""
    said = []
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if row.p50_ms:
            groups.setdefault(question(row.case), []).append(row)
    for group in groups.values():
        if len(group) < 2:
            continue
        fastest, slowest = (end(group, key=lambda row: row.images_per_s) for end in (max, min))
        found = ratio(slowest, fastest)
        sure = f"95\u00a0% interval {found.interval.low:.1f} to {found.interval.high:.1f}"
        said.append(
            f"At {size_text(fastest.case.image_size)} pixels, {fastest.case.model} is the fastest with "
            f"{three_digits(fastest.images_per_s)} images per second; {slowest.case.model} takes "
            f"{found.interval.value:.1f} times as long ({sure if found.verdict == 'slower' else found.verdict})."
        )
    rated = [row for row in rows if row.gflop_per_s]
    if len(rated) > 1:
        low, high = (end(rated, key=lambda row: row.gflop_per_s) for end in (min, max))
        said.append(
            f"FLOPs alone do not tell the time: the device reaches {three_digits(high.gflop_per_s)} GFLOP/s in "
            f"{_which(high)} and {three_digits(low.gflop_per_s)} GFLOP/s in {_which(low)}."
        )
    short = [row for row in rows if row.noise == "unknown"]
    if short:
        said.append(
            f"In {len(short)} of {len(rows)} measurements fewer than six rounds fitted into the time given, too "
            "few for an interval: a larger --budget gives one."
        )
    disturbed = [row for row in rows if row.noise in ("noisy", "drifting")]
    if disturbed:
        said.append(
            f"The machine was not quiet in {len(disturbed)} of {len(rows)} measurements; "
            "the models took turns, so it met all of them alike."
        )
    return said


def block_finding(blocks: Mapping[str, Any]) -> str:
    """Both crossovers of the block sweep."""
    crossover, lengths = blocks["crossover_tokens"], [row["tokens"] for row in blocks["rows"]]
    times = []
    for name, found in crossover["time"].items():
        if found["tokens"] is None:
            times.append(f"not between {min(lengths):,} and {max(lengths):,} with {name} attention")
            continue
        interval = found["ci95"] and " (95\u00a0% interval {:,.0f} to {:,.0f})".format(*found["ci95"])
        times.append(f"at {found['tokens']:,.0f}{interval or ''} with {name} attention")
    return (
        f"In one transformer block of {blocks['dim']} channels, attention overtakes the rest in FLOPs at "
        f"{crossover['flops']:,} tokens (6D); in time on this device {_listed(times)}."
    )


def _which(row: Row) -> str:
    return f"{row.case.model} at {size_text(row.case.image_size)}"


def _listed(items: Iterable[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def verdict_table(records: Records) -> Table:
    """ρ and its class for every model and task."""
    presets = presets_of(records)
    columns = [Column("model", text=True), *(Column(task, size_text(size)) for task, size in presets)]
    columns += [Column("ρ = 1 at", "pixels a side"), Column("6D", "tokens")]
    columns += [Column("parameters", "millions"), Column("mixers", text=True)]
    table = Table("ρ per task", columns)
    for model in records.models:
        found = [records.of(model, task, size) for task, size in presets]
        side, stage = found[0].crossover_side, formula_stage(found[0])
        table.add(
            model,
            *(Cell(_rho(record.rho), record.length_class, record.length_class) for record in found),
            f"{side:,.0f}" if side else found[0].length_class,
            f"{stage.six_d:,}" if stage and stage.six_d else "–",
            f"{found[0].params / 1e6:.1f}",
            mixers_of(found[0]),
        )
    table.note = (
        "ρ is the FLOPs that grow with the square of the number of pixels over all other FLOPs, counted operator by "
        "operator. short: ρ < 0.1, mixed: below 1, long: 1 and more, never: nothing grows so. 6D is the paper's "
        "threshold, with D from the stage of stride 16 (or the costliest)."
    )
    return table


def formula_stage(record: AnalysisRecord) -> StageRecord | None:
    """The stage that the 6D formula is applied to."""
    return next((stage for stage in record.stages if stage.name == record.formula_stage), None)


def mixers_of(record: AnalysisRecord) -> str:
    """The mixers of the stages, in order, each once; ``none`` only where there is no other."""
    mixers = dict.fromkeys(stage.mixer for stage in record.stages)
    return ", ".join(mixer for mixer in mixers if mixer != "none") or "none"


def _rho(value: float | None) -> str:
    return "–" if value is None else three_digits(value)


def uncounted_table(records: Records) -> Table:
    """Operators without a FLOP formula, with the elements they touch, per model at the first input size."""
    found = {model: records.of(model, None, records.inputs[0]) for model in records.models}
    elements: dict[str, dict[str, int]] = {}
    for model, record in found.items():
        for item in record.uncounted:
            elements.setdefault(item.op, {})[model] = item.elements
    table = Table("Operators not counted", [Column("operator", text=True), *(Column(m, "10⁶ elements") for m in found)])
    for op, by_model in sorted(elements.items(), key=lambda entry: -max(entry[1].values())):
        table.add(op, *(three_digits(by_model[model] / 1e6) if model in by_model else "–" for model in found))
    return table
