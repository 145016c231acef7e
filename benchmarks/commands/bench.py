"""``mixerzoo bench``: times models, each in a process of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import values

if TYPE_CHECKING:
    from ..timing.case import Case, Row


@click.command("bench", short_help="Time models: latency, throughput, memory, and which is faster.")
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option(
    "--input", "sizes", multiple=True, callback=values, metavar="H[xW]", help="Image size; default: each model's own."
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    callback=values,
    default=("1",),
    metavar="N",
    help="Images per step; default: 1.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    callback=values,
    default=("float32",),
    metavar="DTYPE",
    help="float32 (default), bfloat16 or float16: weights and input for infer, autocast for train.",
)
@click.option("--mode", type=click.Choice(["infer", "train"]), default="infer", show_default=True)
@click.option("--compile", is_flag=True, help="Run through torch.compile.")
@click.option("--channels-last", is_flag=True, help="Weights and input in NHWC memory order.")
@click.option("--device", help="cpu, cuda or cuda:N; default: cuda if there is one.")
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "offline"]),
    default="single-stream",
    show_default=True,
    help="Every step timed by itself, or blocks of steps without waiting in between.",
)
@click.option("--threads", type=int, help="CPU threads; default: all cores this process may use.")
@click.option(
    "--budget",
    "budget_s",
    type=float,
    default=20.0,
    show_default=True,
    help="Seconds of timed steps per case, at most.",
)
@click.option(
    "--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Seconds a case may take to get ready."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, inputs and the order of turns.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Append a row per case; what the file already holds for this machine and source is not measured again.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.svg",
    help="Draw time against image size there; needs two sizes or more.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Measure nothing: show (and draw) what a result file holds.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="With --from: tables for GitHub.")
@click.option("--retry-failed", is_flag=True, help="Measure anew what the file holds as failed.")
@click.option(
    "--compare",
    "files",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="A.jsonl B.jsonl",
    help="Measure nothing: say what changed significantly between two result files.",
)
@click.option("--allow-different-machines", is_flag=True, help="With --compare: whatever the environments.")
def command(
    models: tuple[str, ...],
    files: tuple[Path, Path] | None,
    source: Path | None,
    as_markdown: bool,
    allow_different_machines: bool,
    output: Path | None,
    plot: Path | None,
    budget_s: float,
    timeout_s: float,
    seed: int,
    retry_failed: bool,
    **conditions: Any,
) -> None:
    """Times MODELs, each in a process of its own, all taking turns, and ends with ratios against the first.

    MODEL is any timm model, optionally NAME@key=value, or config:CONFIG, whose whole network is timed.

    --input, --batch and --dtype may be repeated, or given with commas: all combinations are measured.
    """
    if sum(map(bool, (files, models, source))) != 1:
        raise ValueError("expected either MODEL..., or --from FILE.jsonl, or --compare A.jsonl B.jsonl")
    if source:
        _show(source, as_markdown, plot)
    elif files:
        _compare(*files, allow_different_machines)
    else:
        options = {"budget_s": budget_s, "timeout_s": timeout_s, "seed": seed, "retry_failed": retry_failed}
        _measure(_cases(models, **conditions), output, plot, **options)


def _cases(
    models: Sequence[str],
    sizes: Sequence[str],
    batches: Sequence[str],
    dtypes: Sequence[str],
    device: str | None,
    **others: Any,
) -> list[Case]:
    """All combinations, the models varying fastest."""
    import torch

    from ..sources import parse_image_size
    from ..timing.case import Case

    for batch in batches:
        if not batch.isdigit():
            raise ValueError(f"batch: expected a number of images, got {batch!r}")
    images = [parse_image_size(size) for size in sizes] or [None]
    others["device"] = device or ("cuda" if torch.cuda.is_available() else "cpu")
    combinations = itertools.product(images, map(int, batches), dtypes, models)
    return [Case(model, image, batch, dtype, **others) for image, batch, dtype, model in combinations]


def _measure(cases: Sequence[Case], output: Path | None, plot: Path | None, **options: Any) -> None:
    """Measures, prints tables, and draws time against image size into ``plot``.

    Raises:
        KeyboardInterrupt: with one line that says what was kept.
        RuntimeError: cases failed; one line says how many and why the first did.
    """
    from ..report import scaling
    from ..timing.sweep import run_sweep
    from .progress import Watcher, shown_on_terminals

    if plot is not None:
        scaling.check_plot(plot)
    interrupted = False
    with shown_on_terminals() as progress:
        watcher = Watcher(progress, lines=True)
        try:
            rows = run_sweep(cases, output, on_event=watcher, **options)
        except KeyboardInterrupt:
            interrupted, rows = True, watcher.rows
    if interrupted and output is not None:
        raise KeyboardInterrupt(
            f"{len(rows)} of {len(cases)} rows are in {output}; the same command goes on from there"
        )
    if any(row.round_medians_ms for row in rows):
        _print(rows)
    if interrupted:
        raise KeyboardInterrupt(f"{len(rows)} of {len(cases)} rows were measured")
    failed = [row for row in rows if row.status != "ok"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(rows)} cases failed: {failed[0].case}: {failed[0].message}")
    if plot is not None:
        scaling.draw(rows, plot)


def _print(rows: Sequence[Row], as_markdown: bool = False) -> None:
    from ..report.tables import markdown, print_tables
    from ..report.timings import tables_of

    if as_markdown:
        print("\n".join(markdown(table) for table in tables_of(rows)))
    else:
        print_tables(tables_of(rows))


def _show(path: Path, as_markdown: bool, plot: Path | None) -> None:
    """What a result file holds: the latest row of every case."""
    from ..report import scaling
    from ..timing.case import read_rows

    rows = list({row.key: row for row in read_rows(path)[0]}.values())
    if not any(row.round_medians_ms for row in rows):
        raise ValueError(f"{path}: expected measured rows, found none")
    _print(rows, as_markdown)
    if plot is not None:
        scaling.draw(rows, plot)


def _compare(before: Path, after: Path, allow_different_machines: bool) -> None:
    """What changed between two result files."""
    from ..report.tables import print_tables
    from ..report.timings import comparison_table
    from ..timing.ratios import compare_files

    comparison = compare_files(before, after, allow_different_machines)
    print_tables([comparison_table(comparison, before, after)])
