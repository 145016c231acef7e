"""``mixerzoo bench``: times models, each in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import values


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
@click.option("--budget", type=float, default=20.0, show_default=True, help="Seconds of timed steps per case, at most.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds a case may take to get ready.")
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
    output: Path | None,
    plot: Path | None,
    source: Path | None,
    as_markdown: bool,
    budget: float,
    timeout: float,
    seed: int,
    retry_failed: bool,
    allow_different_machines: bool,
    batches: tuple[str, ...],
    **conditions: Any,
) -> None:
    """Times MODELs, each in a process of its own, all taking turns, and ends with ratios against the first.

    --input, --batch and --dtype may be repeated, or given with commas: all combinations are measured.
    """
    if sum(map(bool, (files, models, source))) != 1:
        raise ValueError("expected either MODEL..., or --from FILE.jsonl, or --compare A.jsonl B.jsonl")
    from .. import bench as terminal

    if source:
        terminal.show(source, as_markdown, plot)
        return
    if files:
        terminal.compare(*files, allow_different_machines)
        return
    for batch in batches:
        if not batch.isdigit():
            raise ValueError(f"batch: expected a number of images, got {batch!r}")
    sweep = terminal.Sweep(models, batches=[int(batch) for batch in batches], **conditions)
    terminal.run(sweep, output, budget, timeout, seed, retry_failed, plot)
