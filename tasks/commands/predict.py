"""``mixerzoo predict``: labels pictures with a trained model."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import require
from .options import OPTIONS


@click.command("predict", short_help="Label pictures with a trained model.")
@click.argument("config")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="For pictures and JSON.")
@OPTIONS
def command(config: str, checkpoint: Path, images: tuple[Path, ...], out: Path, options: tuple[str, ...]) -> None:
    """Writes an annotated copy of every IMAGE and predictions.json into DIR."""
    require("train")
    from .. import engine

    for record in engine.predict(config, checkpoint, images, out, options=engine.parse_options(options)):
        click.echo(f"{record['image']}: {record['summary']}")
    click.echo(f"{out}: predictions.json and the annotated pictures")
