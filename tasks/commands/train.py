"""``mixerzoo train``: trains a model as a config says."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import require
from .options import BACKBONE, DATA, LAUNCHER, OPTIONS

SHOWN = {".json", ".png", ".csv", ".pth"}  # of what a run leaves, the files that its end announces


@click.command("train", short_help="Train a model as a config says.")
@click.argument("config")
@click.option(
    "--work-dir", type=click.Path(path_type=Path), help="For all output; default: runs/NAME OF CONFIG AND BACKBONE."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the work dir.")
@click.option("--amp", type=click.Choice(["bfloat16", "float16"]), help="Mixed precision.")
@click.option("--check-data", is_flag=True, help="Read all of the data first, each picture too.")
@BACKBONE
@DATA
@LAUNCHER
@OPTIONS
def command(
    config: str,
    work_dir: Path | None,
    resume: bool,
    amp: str | None,
    check_data: bool,
    backbone: str | None,
    data: Path | None,
    launcher: str | None,
    options: tuple[str, ...],
) -> None:
    """Trains what CONFIG describes: a file, or the name of a packaged recipe such as detection/mask_rcnn_1x_coco, with
    the backbone in it (detection/mask_rcnn_vmamba_tiny_s1l8_1x_coco) or beside it (--backbone vmamba_tiny_s1l8).

    On several GPUs: torchrun --standalone --nproc_per_node=N -m mixerzoo.tasks.cli train CONFIG.
    """
    require("train")
    from .. import engine

    chosen = {"options": engine.parse_options(options), "data": data, "backbone": backbone}
    folder = engine.train(config, work_dir, resume, amp, check_data, launcher, **chosen)
    engine.say(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.suffix in SHOWN))}")
