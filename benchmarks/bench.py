"""The terminal's side of ``mixerzoo bench``: progress, tables, and how a run ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import crossing
from .comparison import Change, Comparison, Ratio, compare_files, ratios
from .latency import Event, run_sweep
from .rows import Case, Row, read_rows
from .significance import Interval
from .sources import parse_image_size
from .tables import Cell, Column, Table, markdown, print_tables, size_text, timing_table

STYLES = {"faster": "long", "slower": "warn", "too few rounds": "warn", "machine drifted": "warn"}


@dataclass(frozen=True)
class Sweep:
    """What the user typed: the cases are all combinations."""

    models: Sequence[str]
    sizes: Sequence[str] = ()
    batches: Sequence[int] = (1,)
    dtypes: Sequence[str] = ("float32",)
    mode: str = "infer"
    compile: bool = False
    channels_last: bool = False
    device: str | None = None
    scenario: str = "single-stream"
    threads: int | None = None

    def cases(self) -> list[Case]:
        """All combinations, the models varying fastest."""
        sizes = [parse_image_size(size) for size in self.sizes] or [None]
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return [
            Case(
                model,
                size,
                batch,
                dtype,
                self.mode,
                self.compile,
                self.channels_last,
                device,
                self.scenario,
                self.threads,
            )
            for size in sizes
            for batch in self.batches
            for dtype in self.dtypes
            for model in self.models
        ]


class _Watcher:
    """Shows a sweep's events, as a bar on a terminal and as lines elsewhere, and remembers its rows."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=1.0)
        self._last = ""
        self.finished: list[Row] = []

    def __call__(self, event: Event) -> None:
        if event.row is not None:
            self.finished.append(event.row)
        doing = {"prepare": "building and checking ", "round": "timing "}.get(event.kind, "")
        self._progress.update(self._task, completed=event.fraction, description=doing + event.message)
        next_round = event.kind == self._last == "round"
        if event.kind in ("note", "resumed") or (self._progress.disable and not next_round):
            self._progress.console.print(doing + event.message, highlight=False, markup=False, soft_wrap=True)
        self._last = event.kind


@contextmanager
def _watched() -> Iterator[_Watcher]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Watcher(progress)


def run(
    sweep: Sweep,
    output: Path | None,
    budget_s: float,
    timeout_s: float,
    seed: int,
    retry_failed: bool = False,
    plot: Path | None = None,
) -> None:
    """Measures a sweep, prints its tables, and draws time against image size into ``plot``.

    Raises:
        ValueError: a model, size or condition that cannot be measured; rows that cannot be drawn.
        KeyboardInterrupt: with one line that says what was kept.
        RuntimeError: cases failed; one line says how many and why the first did.
    """
    if plot is not None:
        crossing.check_plot(plot)
    cases = sweep.cases()
    with _watched() as watcher:
        try:
            rows = run_sweep(
                cases,
                output,
                budget_s=budget_s,
                timeout_s=timeout_s,
                seed=seed,
                retry_failed=retry_failed,
                on_event=watcher,
            )
        except KeyboardInterrupt:
            interrupted = True
            rows = watcher.finished
        else:
            interrupted = False
    if interrupted and output is not None:
        raise KeyboardInterrupt(
            f"{len(rows)} of {len(cases)} rows are in {output}; the same command goes on from there"
        )
    _print_rows(rows)
    if interrupted:
        raise KeyboardInterrupt(f"{len(rows)} of {len(cases)} rows were measured")
    failed = [row for row in rows if row.status != "ok"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(rows)} cases failed: {failed[0].case}: {failed[0].message}")
    if plot is not None:
        crossing.draw(rows, plot)


def show(path: Path, as_markdown: bool, plot: Path | None) -> None:
    """Prints what a result file holds, the latest row of every case, and draws it into ``plot``.

    Raises:
        ValueError: no result file, or one that holds nothing measured; rows that cannot be drawn.
        OSError: a file cannot be read or written.
    """
    rows = list({row.key: row for row in read_rows(path)[0]}.values())
    if not any(row.round_medians_ms for row in rows):
        raise ValueError(f"{path}: expected measured rows, found none")
    if as_markdown:
        print("\n".join(markdown(table) for table in tables_of(rows)))
    else:
        print_tables(tables_of(rows))
    if plot is not None:
        crossing.draw(rows, plot)


def _print_rows(rows: Sequence[Row]) -> None:
    if any(row.round_medians_ms for row in rows):
        print_tables(tables_of(rows))


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """What there is to say of measured rows: times, parts of a training step, ratios, growth with the image."""
    tables = [timing_table(rows)]
    if any(row.forward_ms is not None for row in rows):
        tables.append(training_table(rows))
    found = ratios(rows)
    if found:
        tables.append(ratio_table(found))
    tables += crossing.time_tables(rows)
    return tables


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


def compare(before: Path, after: Path, allow_different_machines: bool) -> None:
    """Prints what changed between two result files."""
    comparison = compare_files(before, after, allow_different_machines)
    print_tables([comparison_table(comparison, before, after)])


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
