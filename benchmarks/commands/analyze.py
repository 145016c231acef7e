"""``mixerzoo analyze``: counts models and measures how their cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import values


@click.command(
    "analyze", short_help="Count FLOPs and measure how they grow: is the sequence long for this model and task?"
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--input", "sizes", multiple=True, callback=values, metavar="H[xW]", help="Image size; default: each model's own."
)
@click.option(
    "--task",
    type=click.Choice(["imagenet", "coco", "ade20k", "nyu", "kitti", "all"]),
    help="Image sizes that the papers of a task count at.",
)
@click.option(
    "--convention",
    type=click.Choice(["exact", "paper"]),
    default="exact",
    show_default=True,
    help="paper: as published figures are counted, norms and all.",
)
@click.option("--json", "form", flag_value="json", help="Records as a JSON array.")
@click.option("--csv", "form", flag_value="csv", help="One line per model and size, then one per stage.")
@click.option("--markdown", "form", flag_value="markdown", help="Tables for GitHub.")
@click.option("--tree", is_flag=True, help="With the cost and growth of every module.")
@click.option("--trust", is_flag=True, help="With the figures of other counters; slow at large images.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there instead.")
def command(models: tuple[str, ...], sizes: tuple[str, ...], task: str | None, **options: Any) -> None:
    """Counts one forward pass of each MODEL and measures ρ, what grows quadratically over the rest.

    MODEL is any timm model, optionally NAME@key=value, or config:CONFIG, of which every network is counted.
    """
    if sizes and task:
        raise click.UsageError("--input and --task both name image sizes: give one of them")
    from .. import analyze as terminal

    terminal.analyze(models, sizes, task, **options)
