"""``mixerzoo configs``: what is packaged, and any of it as one plain file."""

from __future__ import annotations

from pathlib import Path

import click

from .options import BACKBONE, OPTIONS


@click.command("configs", short_help="List the packaged recipes, or write one as a plain file for other tools.")
@click.argument("name", required=False)
@BACKBONE
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.py", help="Write NAME there.")
@OPTIONS
def command(name: str | None, backbone: str | None, write: Path | None, options: tuple[str, ...]) -> None:
    """Lists recipes and experiments; with NAME, says what one is, and the backbones of its table.

    --write makes one complete file of it, which mmdet's, mmseg's and mmengine's own tools train.
    """
    if name is None:
        if backbone or write or options:
            raise click.UsageError("expected NAME: what to write")
        from ..engine.recipes import CONFIGS, config_names, read_recipe

        for recipe in (read_recipe((CONFIGS / f"{each}.py").resolve()) for each in config_names()):
            click.echo(f"{recipe.name:40} {len(recipe.cells):2}  {recipe.about.splitlines()[0]}")
        click.echo("\nThe number is that of backbones, or of an experiment's cells: mixerzoo configs NAME lists them.")
        return
    from .. import engine

    if write is None:
        from ..engine.recipes import find, read_recipe

        recipe = read_recipe(find(name).path)
        click.echo(f"{recipe.path}\n\n{recipe.about}\n")
        for cell in recipe.cells:
            click.echo(f"{cell.name:28} {'default' if cell.name == recipe.backbone else ''}".rstrip())
        return
    from ..engine.plain import write_plain

    if write.suffix != ".py":
        raise click.BadParameter(f"expected a file that ends with .py, got {write}", param_hint="--write")
    cfg = engine.load_config(name, engine.parse_options(options), backbone=backbone)
    write_plain(cfg, write, f"{cfg.run_name}, written by `mixerzoo configs {name}`; its imports are of mixerzoo.")
    click.echo(f"{write}: {cfg.run_name}; python tools/train.py {write}")
