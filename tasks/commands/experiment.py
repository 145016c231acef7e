"""``mixerzoo experiment``: many short runs as one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..extras import require
from .options import DATA, OPTIONS

PAIRED_OPTIONS = ("cell", "seed", "double", "steps")
FLAGS = {"options": "cfg-options", "submit_options": "submit-option"}
GRID_OPTIONS = ("seeds", "jobs", "submit", "submit_options", "options")


def _shard(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise click.BadParameter(f"expected I/N with 1 ≤ I ≤ N, e.g. 2/4; got {text!r}")
    return int(part), int(parts)


@click.command("experiment", short_help="Train many networks over several seeds, and judge them.")
@click.argument("name")
@click.option("--runs", type=click.Path(path_type=Path), metavar="DIR", help="Folder for all runs.")
@click.option("--pilot", "action", flag_value="pilot", help="Paired: measure what it will cost.")
@click.option("--tune", "action", flag_value="tune", help="Paired: choose learning rates.")
@click.option("--run", "action", flag_value="run", default=True, help="Make the runs that are missing (default).")
@click.option("--report", "action", flag_value="report", help="Train nothing: judge what is there.")
@click.option(
    "--shard",
    default="1/1",
    callback=_shard,
    metavar="I/N",
    help="The I-th of N parts of the runs, for as many machines.",
)
@click.option("--cell", help="Paired: only this cell, or this mixer in it: far-784, far-784-s6.")
@click.option("--seed", type=int, help="Paired: only this seed.")
@click.option("--double", is_flag=True, help="Paired: twice the steps, for a cell that was void.")
@click.option("--steps", type=click.IntRange(min=1), help="Paired: steps of a pilot's runs.")
@click.option("--seeds", type=click.IntRange(min=1), help="Grid: runs per cell; default: the experiment's own number.")
@click.option("--jobs", type=click.IntRange(min=1), help="Grid: runs at the same time; default: 1.")
@click.option("--submit", type=click.Choice(["slurm", "local", "debug"]), help="Grid: train as jobs of submitit.")
@click.option(
    "--submit-option",
    "submit_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Grid: parameter of submitit, e.g. slurm_partition=gpu or timeout_min=600; may be repeated.",
)
@DATA
@OPTIONS
def command(name: str, runs: Path | None, action: str, data: Path | None, **others: Any) -> None:
    """Makes the runs of the experiment NAME that are not made yet, and judges them. A broken-off experiment goes on
    where it was.

    Paired experiments (legend, ar, h1) follow docs/protocol.md: --tune, then --run, then --report.

    Others are grids of recipes: a packaged one (classification_h1), a recipe (depth/synthetic: all its backbones), or a
    file with a grid. With --shard every machine trains its part into the same DIR, or into its own; the last one, or
    --report, makes the table. With --submit slurm the runs are an array of jobs, and this command waits for them.
    """
    require("train")
    from ..experiments.paired.grid import paired_names

    if name in paired_names():
        _paired(name, runs, action, data, **_without(others, GRID_OPTIONS, "grids of recipes"))
    else:
        _grid(name, runs, action, data, **_without(others, PAIRED_OPTIONS, "paired experiments"))


def _without(given: dict[str, Any], foreign: tuple[str, ...], kind: str) -> dict[str, Any]:
    """The options but ``foreign`` ones, none of which may be set."""
    for key in foreign:
        if given[key]:
            raise click.UsageError(f"--{FLAGS.get(key, key)} is for {kind}")
    return {key: value for key, value in given.items() if key not in foreign}


def _paired(
    name: str,
    runs: Path | None,
    action: str,
    data: Path | None,
    shard: tuple[int, int],
    cell: str | None,
    seed: int | None,
    double: bool,
    steps: int | None,
) -> None:
    from ..experiments.paired import records
    from ..experiments.paired import runs as paired

    folder = runs or records.RESULTS
    if action == "pilot":
        paired.pilot(name, folder, shard, data, cell, steps or paired.PILOT_STEPS)
    elif action == "tune":
        paired.tune(name, folder, shard, data)
    elif action == "run":
        paired.run(name, folder, shard, data, cell, seed, double)
    else:
        paired.report(name, folder)


def _grid(
    name: str,
    runs: Path | None,
    action: str,
    data: Path | None,
    shard: tuple[int, int],
    seeds: int | None,
    jobs: int | None,
    submit: str | None,
    submit_options: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    from .. import engine
    from ..experiments.report import report
    from ..experiments.run import run

    if runs is None:
        raise click.UsageError("expected --runs DIR, the folder for all runs")
    if action not in ("run", "report"):
        raise click.UsageError(f"--{action} is for paired experiments")
    if action == "run":
        parameters = engine.parse_options(submit_options)
        if not run(name, runs, seeds, jobs, data, options, shard, submit, parameters):
            click.echo(f"{runs}: part {shard[0]} of {shard[1]} is done; --report makes the table when all are")
            return
    report(name, runs)
