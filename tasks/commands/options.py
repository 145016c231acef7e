"""Options that several of the commands have."""

from __future__ import annotations

from pathlib import Path

import click

OPTIONS = click.option(
    "--cfg-options",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the config, e.g. train_cfg.max_epochs=3; may be repeated.",
)

DATA = click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Root of the data sets.")

BACKBONE = click.option(
    "--backbone",
    metavar="NAME",
    help="Another network in the recipe: one of its table (`mixerzoo configs CONFIG`), or any of timm's.",
)

LAUNCHER = click.option(
    "--launcher",
    type=click.Choice(["none", "pytorch", "slurm", "mpi"]),
    help="Who started the processes, as in mmengine; default: torchrun if it did.",
)
