"""The ``mixerzoo`` command: one click group whose bodies import torch only when they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


class OneLineErrors(click.Group):
    """Turns bad input into one line on stderr and a non-zero exit code; ``--traceback`` shows the whole story."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:  # a RuntimeError by birth: how click ends after --help
            raise
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            if ctx.params.get("traceback"):
                raise
            named = isinstance(error, OSError) and error.strerror and error.filename  # without "[Errno 2]"
            text = f"{error.strerror}: {str(error.filename)!r}" if named else str(error)
            message = " ".join(text.split()) or type(error).__name__
            click.echo(f"mixerzoo: {message}", err=True)
            sys.exit(1)
        except KeyboardInterrupt as interrupt:
            click.echo(f"mixerzoo: interrupted{f'; {interrupt}' if interrupt.args else ''}", err=True)
            sys.exit(130)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--traceback", is_flag=True, help="Show Python's traceback instead of one line when something is wrong.")
@click.version_option(package_name="mixerzoo")
def main(traceback: bool) -> None:
    """Does this vision task need a state-space model, attention, or just a gated convolution? Measure it."""


def _parts(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Values of an option that may be repeated, or given once with commas."""
    return tuple(part.strip() for text in given for part in text.split(",") if part.strip())


@main.command(short_help="Time models: latency, throughput, memory, and which is faster.")
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option(
    "--input", "sizes", multiple=True, callback=_parts, metavar="H[xW]", help="Image size; default: each model's own."
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    callback=_parts,
    default=("1",),
    metavar="N",
    help="Images per step; default: 1.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    callback=_parts,
    default=("float32",),
    metavar="DTYPE",
    help="float32 (default), bfloat16 or float16: weights and input for infer, autocast for train.",
)
@click.option("--mode", type=click.Choice(["infer", "train"]), default="infer", show_default=True)
@click.option("--compile", is_flag=True, help="Run through torch.compile.")
@click.option("--channels-last", is_flag=True, help="Weights and input in NHWC memory order.")
@click.option("--device", help="cpu, cuda or cuda:N; default: cuda if there is one.")
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "offline"]),
    default="single-stream",
    show_default=True,
    help="Every step timed by itself, or blocks of steps without waiting in between.",
)
@click.option("--threads", type=int, help="CPU threads; default: all cores this process may use.")
@click.option("--budget", type=float, default=20.0, show_default=True, help="Seconds of timed steps per case, at most.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds a case may take to get ready.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, inputs and the order of turns.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Append a row per case; what the file already holds for this machine and source is not measured again.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.svg",
    help="Draw time against image size there; needs two sizes or more.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Measure nothing: show (and draw) what a result file holds.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="With --from: tables for GitHub.")
@click.option("--retry-failed", is_flag=True, help="Measure anew what the file holds as failed.")
@click.option(
    "--compare",
    "files",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="A.jsonl B.jsonl",
    help="Measure nothing: say what changed significantly between two result files.",
)
@click.option("--allow-different-machines", is_flag=True, help="With --compare: whatever the environments.")
def bench(
    models: tuple[str, ...],
    files: tuple[Path, Path] | None,
    output: Path | None,
    plot: Path | None,
    source: Path | None,
    as_markdown: bool,
    budget: float,
    timeout: float,
    seed: int,
    retry_failed: bool,
    allow_different_machines: bool,
    batches: tuple[str, ...],
    **conditions: Any,
) -> None:
    """Times MODELs, each in a process of its own, all taking turns, and ends with ratios against the first.

    --input, --batch and --dtype may be repeated, or given with commas: all combinations are measured.
    """
    if sum(map(bool, (files, models, source))) != 1:
        raise ValueError("expected either MODEL..., or --from FILE.jsonl, or --compare A.jsonl B.jsonl")
    from . import bench as terminal

    if source:
        terminal.show(source, as_markdown, plot)
        return
    if files:
        terminal.compare(*files, allow_different_machines)
        return
    for batch in batches:
        if not batch.isdigit():
            raise ValueError(f"batch: expected a number of images, got {batch!r}")
    sweep = terminal.Sweep(models, batches=[int(batch) for batch in batches], **conditions)
    terminal.run(sweep, output, budget, timeout, seed, retry_failed, plot)


@main.command(short_help="Count FLOPs and measure how they grow: is the sequence long for this model and task?")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--input", "sizes", multiple=True, callback=_parts, metavar="H[xW]", help="Image size; default: each model's own."
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
def analyze(
    models: tuple[str, ...], sizes: tuple[str, ...], task: str | None, networks: tuple[Any, ...] = (), **options: Any
) -> None:
    """Counts one forward pass of each MODEL (any timm model) and measures ρ, what grows quadratically over the rest."""
    if sizes and task:
        raise click.UsageError("--input and --task both name image sizes: give one of them")
    from . import analyze as terminal
    from .models import GivenModel

    # No option gives networks: the tasks' command, which wraps this one, builds them from configs.
    terminal.analyze([*models, *(GivenModel(*network) for network in networks)], sizes, task, **options)


@main.command("list", short_help="Show registered models with parameters, GMACs and mixer.")
@click.argument("pattern", required=False)
@click.option("--limit", type=click.IntRange(min=0), default=60, show_default=True, help="At most so many; 0: all.")
def list_models(pattern: str | None, limit: int) -> None:
    """Lists this package's models, or all models, timm's included, whose name contains PATTERN (* and ? as usual)."""
    from . import listing

    listing.list_models(pattern, limit)


@main.command("compare", short_help="The main job: criterion and measured cost of some models, as one page.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--input", "inputs", multiple=True, callback=_parts, metavar="H[xW]", help="Image size to time; default: 224, 384."
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
def compare_models(
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

    Without arguments: a few small models of different mixers, on photographs, in about two minutes on two cores.
    """
    if source and (models or inputs):
        raise ValueError("--from draws what was measured before: it takes neither MODEL nor --input")
    from . import compare

    if source:
        compare.redraw(source)
    else:
        compare.compare(models, inputs, out, budget, photos, device, count_only)


@main.command(short_help="Turn a pickled checkpoint into safetensors, executing nothing in it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.safetensors")
def convert(file: Path, out: Path) -> None:
    """Reads the tensors of FILE, whatever else it pickles, and writes the model's weights to OUT.safetensors."""
    from ..backbones import checkpoints

    click.echo(f"{out}: {checkpoints.convert(file, out)} tensors")


if __name__ == "__main__":
    main()
