"""``mixerzoo compare``: the criterion and the measured cost of some models, as one page."""

from __future__ import annotations

from pathlib import Path

import click

from .options import values


@click.command("compare", short_help="The main job: criterion and measured cost of some models, as one page.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--input", "inputs", multiple=True, callback=values, metavar="H[xW]", help="Image size to time; default: 224, 384."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("mixerzoo_compare"),
    show_default=True,
    metavar="DIR",
    help="Folder for the page, the records it is drawn from, and its first picture.",
)
@click.option("--budget", type=float, default=50.0, show_default=True, help="Seconds of timing, all models together.")
@click.option(
    "--photos", default="scikit-image", show_default="scikit-image's", metavar="DIR", help="Photographs to feed them."
)
@click.option("--device", help="cpu or cuda; default: cuda if there is one.")
@click.option("--count-only", is_flag=True, help="Time nothing: the criterion alone, in seconds.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Measure nothing: draw the page again from the records in this folder.",
)
def command(
    models: tuple[str, ...],
    inputs: tuple[str, ...],
    out: Path,
    budget: float,
    photos: str,
    device: str | None,
    count_only: bool,
    source: Path | None,
) -> None:
    """Does a task need attention, a state-space model, or just a gated convolution? Counts, times and draws MODELs.

    MODEL is any timm model, optionally NAME@key=value, or config:CONFIG for its whole network. Without arguments: a
    few small models of different mixers, on photographs, in about two minutes on two cores.
    """
    if source and (models or inputs):
        raise ValueError("--from draws what was measured before: it takes neither MODEL nor --input")
    from . import phases

    if source:
        phases.redraw(source)
    else:
        phases.compare(models, inputs, out, budget, photos, device, count_only)
