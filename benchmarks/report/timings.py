"""What was timed, as tables: times, training steps, ratios, changes between two files, the block sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..timing.case import Case, Row
from ..timing.ratios import Change, Comparison, Ratio, ratios
from ..timing.statistics import Interval
from . import scaling
from .tables import Cell, Column, Table, percent, size_text, three_digits

STYLES = {"faster": "long", "slower": "warn", "too few rounds": "warn", "machine drifted": "warn"}


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """What there is to say of measured rows: times, parts of a training step, ratios, growth with the image."""
    tables = [timing_table(rows)]
    if any(row.forward_ms is not None for row in rows):
        tables.append(training_table(rows))
    found = ratios(rows)
    if found:
        tables.append(ratio_table(found))
    tables += scaling.time_tables(rows)
    return tables


def timing_table(rows: Sequence[Row]) -> Table:
    """What was timed, failed cases included."""
    columns = [
        Column("model", text=True),
        Column("conditions", text=True),
        Column("input", "pixels"),
        Column("batch", "images"),
        Column("median", "ms per batch"),
        Column("95 % interval", "ms"),
        Column("p90", "ms"),
        Column("p99", "ms"),
        Column("throughput", "images/s"),
        Column("achieved", "GFLOP/s"),
        Column("peak memory", "MiB"),
        Column("samples"),
        Column("machine was", text=True),
        Column("output error", "relative"),
    ]
    table = Table("Timing", columns)
    for row in rows:
        interval = "–" if row.ci_low_ms is None else f"{three_digits(row.ci_low_ms)}–{three_digits(row.ci_high_ms)}"
        batch = Cell(str(row.batch or row.case.batch), f"halved from {row.batch_halved_from}", "warn")
        noise = row.noise or "–"
        failed = "" if row.status == "ok" else row.status
        table.add(
            row.case.model,
            row.case.conditions,
            size_text(row.case.image_size or ()),
            batch if row.batch_halved_from else batch.text,
            Cell(_number(row.p50_ms), failed, "warn" if failed else ""),
            interval,
            _number(row.p90_ms),
            _number(row.p99_ms),
            _number(row.images_per_s),
            _number(row.gflop_per_s),
            _number(row.peak_memory_mib),
            str(row.samples),
            Cell("", noise, "warn") if noise in ("noisy", "drifting") else noise,
            "–" if row.output_error is None else f"{row.output_error:.0e}",
        )
    messages = [f"{row.case}: {row.status}, {row.message}" for row in rows if row.status != "ok" and row.message]
    table.note = "Achieved GFLOP/s counts 2 FLOPs per multiply-accumulate. " + " ".join(messages)
    return table


def block_table(record: Mapping[str, Any]) -> Table:
    """The block sweep in figures."""
    columns = [
        Column("tokens L"),
        Column("L/6D"),
        Column("attention", text=True),
        Column("attention", "ms"),
        Column("rest", "ms"),
        Column("share of time", "median"),
        Column("p10–p90"),
        Column("share of FLOPs", "exact"),
        Column("attention", "GFLOP/s"),
        Column("rest", "GFLOP/s"),
    ]
    table = Table(f"One transformer block of {record['dim']} channels", columns)
    for row in record["rows"]:
        table.add(
            f"{row['tokens']:,}",
            three_digits(row["tokens"] / (6 * record["dim"])),
            row["attention"],
            three_digits(row["attention_ms"]),
            three_digits(row["rest_ms"]),
            percent(row["time_share"]),
            f"{100 * row['time_share_p10']:.0f}–{percent(row['time_share_p90'])}",
            percent(row["flop_share"]),
            three_digits(row["attention_gflop_per_s"]),
            three_digits(row["rest_gflop_per_s"]),
        )
    left_out = [f"{item['attention']} attention at L = {item['tokens']}" for item in record["left_out"]]
    table.note = f"Left out for want of memory: {', '.join(left_out)}." if left_out else ""
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else three_digits(value)


def training_table(rows: Sequence[Row]) -> Table:
    """The parts of a training step."""
    columns = [Column("model", text=True), Column("batch", "images")]
    columns += [Column(name, "median ms") for name in ("forward and loss", "backward", "optimizer")]
    table = Table("Training step", columns, note="Loss: cross-entropy. Optimizer: AdamW.")
    for row in rows:
        if row.forward_ms is not None:
            parts = (row.forward_ms, row.backward_ms, row.optimizer_ms)
            table.add(row.case.model, str(row.batch), *(f"{part:.2f}" for part in parts))
    return table


def _conditions(row: Row, base: Row) -> str:
    """The row's model, and what else distinguishes its case from the base's."""
    differing = [
        f.name for f in fields(Case) if f.name != "model" and getattr(row.case, f.name) != getattr(base.case, f.name)
    ]
    return " ".join([row.case.model, *(f"{name}={getattr(row.case, name)}" for name in differing)])


def _interval(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:.3f}", f"{interval.low:.3f}–{interval.high:.3f}"


def ratio_table(found: Sequence[Ratio]) -> Table:
    """Ratios of time per image against the first model."""
    columns = [
        Column("model", text=True),
        Column("against", text=True),
        Column("time ratio"),
        Column("95 % interval"),
        Column("verdict", text=True),
        Column("rounds", text=True),
        Column("conditions", text=True),
        Column("input", "pixels"),
        Column("batch", "images"),
    ]
    table = Table("Time per image, as a ratio", columns, note="Below 1: faster than the model it is held against.")
    for item in found:
        batches = dict.fromkeys((item.row.batch, item.base.batch))
        rounds = min(len(item.row.round_medians_ms), len(item.base.round_medians_ms))
        value, interval = _interval(item.interval)
        table.add(
            _conditions(item.row, item.base),
            _conditions(item.base, item.row),
            value,
            "–" if item.verdict == "too few rounds" else interval,
            Cell("", item.verdict, STYLES.get(item.verdict, "")),
            f"{rounds}, {'taking turns' if item.interleaved else 'one after the other'}",
            item.row.case.conditions,
            size_text(item.row.case.image_size),
            " and ".join(map(str, batches)),
        )
    return table


def comparison_table(comparison: Comparison, before: Path, after: Path) -> Table:
    """Changes in time and memory, configuration by configuration."""
    columns = [
        Column("configuration", text=True),
        Column("before", "ms"),
        Column("after", "ms"),
        Column("time ratio"),
        Column("interval"),
        Column("peak memory", "ratio"),
        Column("verdict", text=True),
    ]
    table = Table(f"{before.name} → {after.name}", columns)
    for change in comparison.changes:
        table.add(*_change_cells(change))
    count = len(comparison.changes)
    table.note = (
        f"Ratios of time per image with {1 - 0.05 / count:.2%} intervals: one false alarm in 20 such tables. "
        "The files were not measured side by side, so the machine's state of the day is part of every ratio. "
    )
    for name, rows in ((before.name, comparison.only_before), (after.name, comparison.only_after)):
        if rows:
            table.note += f"Only in {name}: {', '.join(str(row.case) for row in rows)}. "
    return table


def _change_cells(change: Change) -> list[Cell | str]:
    before, after = change.before, change.after
    times = [f"{row.p50_ms:.2f}" if row.p50_ms is not None else row.status for row in (before, after)]
    if change.ratio is None:
        verdict = "no time in either" if before.status == after.status else f"{before.status} → {after.status}"
        return [str(before.case), *times, "–", "–", "–", Cell("", verdict, "warn")]
    memory = "–" if change.memory is None else f"{change.memory:.3f}"
    verdict = change.ratio.verdict
    return [
        str(before.case),
        *times,
        *_interval(change.ratio.interval),
        memory,
        Cell("", verdict, STYLES.get(verdict, "")),
    ]
