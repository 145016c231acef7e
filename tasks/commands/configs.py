"""``mixerzoo configs``: what is packaged, and any of it as one plain file."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from ..extras import require
from .options import BACKBONE, OPTIONS

INDENT = {"initial_indent": "    ", "subsequent_indent": "    "}


@click.command("configs", short_help="List the packaged recipes, or write one as a plain file for other tools.")
@click.argument("name", required=False)
@BACKBONE
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.py", help="Write NAME there.")
@OPTIONS
def command(name: str | None, backbone: str | None, write: Path | None, options: tuple[str, ...]) -> None:
    """Lists recipes and experiments; with NAME, says what one is, and the backbones of its table.

    --write makes one complete file of it, which mmdet's, mmseg's and mmengine's own tools train.
    """
    require("train")
    from ..recipes import CONFIGS, config_names, find, read_recipe

    if name is None:
        if backbone or write or options:
            raise click.UsageError("expected NAME: what to write")
        for each in config_names():
            recipe = read_recipe((CONFIGS / f"{each}.py").resolve())
            click.echo(f"{recipe.name:38} {recipe.about.splitlines()[0]}")
            click.echo(textwrap.fill(", ".join(cell.name for cell in recipe.cells), 118, **INDENT))
        return
    if write is None:
        recipe = read_recipe(find(name).path)
        click.echo(f"{recipe.path}\n\n{recipe.about}\n")
        for cell in recipe.cells:
            click.echo(f"{cell.name:28} {'default' if cell.name == recipe.backbone else ''}".rstrip())
        return
    if write.suffix != ".py":
        raise click.BadParameter(f"expected a file that ends with .py, got {write}", param_hint="--write")
    from .. import engine
    from ..engine.plain import write_plain

    cfg = engine.load_config(name, engine.parse_options(options), backbone=backbone)
    write_plain(cfg, write, f"{cfg.run_name}, a recipe of mixerzoo as one plain file.")
    click.echo(f"{write}: {cfg.run_name}; python tools/train.py {write}")
