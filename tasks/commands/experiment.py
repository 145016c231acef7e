"""``mixerzoo experiment``: trains the cells of a grid over several seeds."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import require
from .options import DATA, OPTIONS


def _shard(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise click.BadParameter(f"expected I/N with 1 ≤ I ≤ N, e.g. 2/4; got {text!r}")
    return int(part), int(parts)


@click.command("experiment", short_help="Train a grid of networks over several seeds, and compare them.")
@click.argument("name")
@click.option("--runs", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for all runs.")
@click.option("--seeds", type=click.IntRange(min=1), help="Runs per cell; default: the experiment's own number.")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at the same time; default: 1.")
@click.option(
    "--shard",
    default="1/1",
    callback=_shard,
    metavar="I/N",
    help="The I-th of N parts of the runs, for as many machines.",
)
@click.option("--submit", type=click.Choice(["slurm", "local", "debug"]), help="Train as jobs of submitit.")
@click.option(
    "--submit-option",
    "submit_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Parameter of submitit, e.g. slurm_partition=gpu, gpus_per_node=1 or timeout_min=600; may be repeated.",
)
@click.option("--report-only", is_flag=True, help="Train nothing: table and plot of what is there.")
@DATA
@OPTIONS
def command(
    name: str,
    runs: Path,
    seeds: int | None,
    jobs: int | None,
    shard: tuple[int, int],
    submit: str | None,
    submit_options: tuple[str, ...],
    report_only: bool,
    data: Path | None,
    options: tuple[str, ...],
) -> None:
    """Runs every cell of the experiment NAME that is not done yet, and writes table and plot into DIR. NAME is that of
    a packaged one (classification_h1), a recipe (depth/synthetic: all its backbones), or a file with a grid. A
    broken-off experiment goes on where it was.

    With --shard every machine trains its part into the same DIR, or into its own; the last one, or --report-only, makes
    the table. With --submit slurm the runs are an array of jobs, and this command waits for them.
    """
    require("train")
    from .. import engine
    from ..experiments.report import report
    from ..experiments.run import run

    if not report_only:
        parameters = engine.parse_options(submit_options)
        if not run(name, runs, seeds, jobs, data, options, shard, submit, parameters):
            click.echo(f"{runs}: part {shard[0]} of {shard[1]} is done; --report-only makes the table when all are")
            return
    report(name, runs)
