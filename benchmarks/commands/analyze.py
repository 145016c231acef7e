"""``mixerzoo analyze``: counts models and measures how their cost grows."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
def command(
    models: tuple[str, ...],
    sizes: tuple[str, ...],
    task: str | None,
    convention: str,
    form: str | None,
    tree: bool,
    trust: bool,
    output: Path | None,
) -> None:
    """Counts one forward pass of each MODEL and measures ρ, what grows quadratically over the rest.

    MODEL is any timm model, optionally NAME@key=value, or config:CONFIG, of which every network is counted.
    """
    if sizes and task:
        raise click.UsageError("--input and --task both name image sizes: give one of them")
    from ...backbones._files import write_atomically
    from ..counting.criterion import Analyzer
    from ..report.costs import for_console, render
    from ..report.tables import print_tables
    from ..sources import has_prefix, parts
    from .progress import shown_on_terminals

    if output is not None:
        _check_writable(output)
    if trust and any(map(has_prefix, models)):
        raise ValueError("--trust asks counters that build a model by its timm name")
    asked = _questions(sizes, task)
    records, failures = [], []
    with shown_on_terminals() as progress:
        for network in progress.track([part for model in models for part in parts(model)], description="counting"):
            analyzer = Analyzer(network)
            for preset, size in asked or [(None, size) for size in getattr(network, "image_sizes", [None])]:
                try:
                    record = analyzer.at(size, task=preset, convention=convention, trust=trust)
                except ValueError as error:
                    failures.append(str(error))
                else:
                    records.append(record if tree else replace(record, modules=()))
    if records and output is not None:
        write_atomically(render(records, form), output)
    elif records and form is None:
        print_tables(for_console(records))
    elif records:
        sys.stdout.write(render(records, form))
    if failures:
        raise ValueError("; ".join(failures))


def _questions(sizes: Sequence[str], task: str | None) -> list[tuple[str | None, tuple[int, int]]]:
    """Task and (H, W) in pixels of everything that was asked for; none for each network's own size."""
    from ..counting.criterion import TASKS
    from ..sources import parse_image_size

    if task is None:
        return [(None, parse_image_size(size)) for size in sizes]
    tasks = TASKS if task == "all" else {task: TASKS[task]}
    return [(preset, size) for preset, presets in tasks.items() for size in presets]


def _check_writable(path: Path) -> None:
    """Raises OSError if a file cannot be put at ``path``, before any work is done for it."""
    if path.is_dir():
        raise IsADirectoryError(f"output: expected a file, {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"output: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"output: cannot write in {path.parent}")
