"""``mixerzoo test``: measures a checkpoint on the test set."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import require
from .options import BACKBONE, DATA, LAUNCHER, OPTIONS


@click.command("test", short_help="Measure a checkpoint on the test set.")
@click.argument("config")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--work-dir", type=click.Path(path_type=Path), help="For logs and pictures; default: test/ beside it.")
@BACKBONE
@DATA
@LAUNCHER
@OPTIONS
def command(
    config: str,
    checkpoint: Path,
    work_dir: Path | None,
    backbone: str | None,
    data: Path | None,
    launcher: str | None,
    options: tuple[str, ...],
) -> None:
    """Measures CHECKPOINT on the test set of CONFIG."""
    require("train")
    from .. import engine

    chosen = {"options": engine.parse_options(options), "data": data, "backbone": backbone}
    metrics = engine.test(config, checkpoint, work_dir, launcher, **chosen)
    for key, value in metrics.items():
        engine.say(f"{key} {value:.4f}")
