"""``mixerzoo experiment``: trains a folder of configs over several seeds."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import require
from .options import DATA, OPTIONS


@click.command("experiment", short_help="Train a folder of configs over several seeds, and compare them.")
@click.argument("name")
@click.option("--runs", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for all runs.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs per config.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--report-only", is_flag=True, help="Train nothing: table and plot of what is there.")
@DATA
@OPTIONS
def command(
    name: str, runs: Path, seeds: int, jobs: int, report_only: bool, data: Path | None, options: tuple[str, ...]
) -> None:
    """Runs every config of the folder NAME (a path, or packaged: classification/h1) that is not done yet, and writes
    table and plot into DIR. A broken-off experiment goes on where it was."""
    require("train")
    from .. import experiment as study

    if not report_only:
        study.run(name, runs, seeds, jobs, data, options)
    study.report(name, runs)
