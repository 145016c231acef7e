"""``mixerzoo convert``: a pickled checkpoint as safetensors."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert", short_help="Turn a pickled checkpoint into safetensors, executing nothing in it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.safetensors")
def command(file: Path, out: Path) -> None:
    """Reads the tensors of FILE, whatever else it pickles, and writes the model's weights to OUT.safetensors."""
    from ...backbones import checkpoints

    click.echo(f"{out}: {checkpoints.convert(file, out)} tensors")
