"""``mixerzoo test``: measures a checkpoint on the test set."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import require
from .options import DATA, OPTIONS


@click.command("test", short_help="Measure a checkpoint on the test set.")
@click.argument("config")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--work-dir", type=click.Path(path_type=Path), help="For logs and pictures; default: test/ beside it.")
@DATA
@OPTIONS
def command(config: str, checkpoint: Path, work_dir: Path | None, data: Path | None, options: tuple[str, ...]) -> None:
    """Measures CHECKPOINT on the test set of CONFIG."""
    require("train")
    from .. import engine

    metrics = engine.test(config, checkpoint, work_dir, options=engine.parse_options(options), data=data)
    for key, value in metrics.items():
        engine.say(f"{key} {value:.4f}")
