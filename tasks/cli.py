"""``mixerzoo train | test | predict | experiment``, added to the command group that measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..benchmarks.cli import main

SHOWN = {".json", ".png", ".csv", ".pth"}  # of what a run leaves, the files that its end announces

OPTIONS = click.option(
    "--cfg-options",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the config, e.g. train_cfg.max_epochs=3; may be repeated.",
)

DATA = click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Root of the data sets.")


@main.command(short_help="Train a model as a config says.")
@click.argument("config")
@click.option("--work-dir", type=click.Path(path_type=Path), help="For all output; default: runs/NAME OF THE CONFIG.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the work dir.")
@click.option("--amp", type=click.Choice(["bfloat16", "float16"]), help="Mixed precision.")
@click.option("--check-data", is_flag=True, help="Read all of the data first, each picture too.")
@DATA
@OPTIONS
def train(
    config: str,
    work_dir: Path | None,
    resume: bool,
    amp: str | None,
    check_data: bool,
    data: Path | None,
    options: tuple[str, ...],
) -> None:
    """Trains what CONFIG describes: a file, or the name of a packaged config such as
    classification/mambaout_femto_gatedcnn_fashion_mnist.

    On several GPUs: torchrun --standalone --nproc_per_node=N -m mixerzoo.tasks.cli train CONFIG.
    """
    from . import engine

    folder = engine.train(config, work_dir, resume, amp, check_data, options=engine.parse_options(options), data=data)
    engine.say(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.suffix in SHOWN))}")


@main.command(short_help="Measure a checkpoint on the test set.")
@click.argument("config")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--work-dir", type=click.Path(path_type=Path), help="For logs and pictures; default: test/ beside it.")
@DATA
@OPTIONS
def test(config: str, checkpoint: Path, work_dir: Path | None, data: Path | None, options: tuple[str, ...]) -> None:
    """Measures CHECKPOINT on the test set of CONFIG."""
    from . import engine

    metrics = engine.test(config, checkpoint, work_dir, options=engine.parse_options(options), data=data)
    for key, value in metrics.items():
        engine.say(f"{key} {value:.4f}")


@main.command(short_help="Label pictures with a trained model.")
@click.argument("config")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--score-threshold", type=float, help="Least score of objects that are listed and drawn; detection only.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="For pictures and JSON.")
@OPTIONS
def predict(
    config: str,
    checkpoint: Path,
    images: tuple[Path, ...],
    score_threshold: float | None,
    out: Path,
    options: tuple[str, ...],
) -> None:
    """Writes an annotated copy of every IMAGE and predictions.json into DIR. An IMAGE is a file, a video or a folder of
    them."""
    from . import engine

    chosen = engine.parse_options(options)
    for record in engine.predict(config, checkpoint, images, out, score_threshold, options=chosen):
        click.echo(f"{record['image']}: {record['summary']}")
    click.echo(f"{out}: predictions.json and the annotated pictures")


def _analyze_configs(command: click.Command) -> click.Command:
    """Adds ``--config`` to the benchmarks' command, which knows no configs."""
    analyze_models = command.callback

    def analyze(models: tuple[str, ...], configs: tuple[str, ...], **conditions: Any) -> None:
        if not models and not configs:
            raise click.UsageError("expected MODEL..., or --config CONFIG")
        if configs and conditions["trust"]:
            raise click.UsageError("--trust asks counters that build a MODEL by its name: leave --config out")
        found = []
        if configs:
            from .analysis import to_count

            found = [to_count(config) for config in configs]
        if configs and not models and not conditions["sizes"] and not conditions["task"]:
            sizes = dict.fromkeys(size for _, at in found for size in at)
            conditions["sizes"] = tuple(f"{height}x{width}" for height, width in sizes)
        networks = tuple(network for some, _ in found for network in some)
        analyze_models(models=models, networks=networks, **conditions)

    models = next(param for param in command.params if param.name == "models")
    models.required = False
    option = click.Option(["--config", "configs"], multiple=True, metavar="CONFIG", help="The networks of a config.")
    command.params.insert(1, option)
    command.callback = analyze
    return command


_analyze_configs(main.commands["analyze"])


@main.command(short_help="Train a folder of configs over several seeds, and compare them.")
@click.argument("name")
@click.option("--runs", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for all runs.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs per config.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--report-only", is_flag=True, help="Train nothing: table and plot of what is there.")
@DATA
@OPTIONS
def experiment(
    name: str, runs: Path, seeds: int, jobs: int, report_only: bool, data: Path | None, options: tuple[str, ...]
) -> None:
    """Runs every config of the folder NAME (a path, or packaged: classification/h1) that is not done yet, and writes
    table and plot into DIR. A broken-off experiment goes on where it was."""
    from .experiments.report import report
    from .experiments.run import run

    if not report_only:
        run(name, runs, seeds, jobs, data, options)
    report(name, runs)


if __name__ == "__main__":
    main()
