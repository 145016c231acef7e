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
