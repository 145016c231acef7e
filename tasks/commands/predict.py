"""``mixerzoo predict``: labels pictures with a trained model."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import require
from .options import BACKBONE, OPTIONS


@click.command("predict", short_help="Label pictures with a trained model.")
@click.argument("config")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--score-threshold", type=float, help="Least score of objects that are listed and drawn; detection only.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="For pictures and JSON.")
@BACKBONE
@OPTIONS
def command(
    config: str,
    checkpoint: Path,
    images: tuple[Path, ...],
    score_threshold: float | None,
    out: Path,
    backbone: str | None,
    options: tuple[str, ...],
) -> None:
    """Writes an annotated copy of every IMAGE and predictions.json into DIR. An IMAGE is a file, a video or a folder of
    them."""
    require("train")
    from .. import engine

    chosen = {"options": engine.parse_options(options), "backbone": backbone}
    for record in engine.predict(config, checkpoint, images, out, score_threshold, **chosen):
        click.echo(f"{record['image']}: {record['summary']}")
    click.echo(f"{out}: predictions.json and the annotated pictures")
