"""Many short runs as one experiment: every config of a folder, over several seeds, then a table and a plot.

The runs take turns (all configs with the first seed, then all with the second, …), so that a machine whose speed
drifts favours none of them. Each run is a directory that `mixerzoo train` could have made; one that was broken off is
resumed, one that is done is kept.
"""

from __future__ import annotations

import fnmatch
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from . import engine
from .checkpoints import write_atomically
from .config_source import image_shape, networks
from .plots import save_figure
from .steps import step_times

__all__ = ["Entry", "Headline", "experiment_configs", "macs", "report", "run"]

MARKERS = "os^DvXP*<>ph"
COLORS = [*colormaps["tab10"].colors, "black", "gold"]


@dataclass(frozen=True)
class Headline:
    """The metric that an experiment is about: ``headline`` of its configs.

    Attributes:
        metric: its key, e.g. ``acc/top1``.
        label: its name and unit.
        best: ``highest`` or ``lowest``.
        others: keys of further metrics for the table → their labels.
        groups: ends of the configs' names, e.g. ``_short``; figures compare within a group only, so each has its plots.
    """

    metric: str
    label: str
    best: str
    others: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[str] = ()

    def sign(self) -> int:
        """Of values in ascending order, so that the best comes first."""
        return -1 if self.best == "highest" else 1


@dataclass(frozen=True)
class Entry:
    """One row of the table: a config over its seeds."""

    name: str
    parameters: int
    macs: int  # of one image
    values: list[float]  # of the headline's metric
    others: list[float]  # means of its other metrics
    step_ms_per_image: float  # of a training step without data loading, all configs taking turns
    train_s: float  # median over the runs
    device: str

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def experiment_configs(name: str) -> dict[str, str]:
    """What a folder of configs holds: the name of each → what `engine.load_config` takes.

    Args:
        name: a folder, or the name of a packaged one, or a pattern of packaged names such as ``depth/*_synthetic``.

    Raises:
        FileNotFoundError: no such folder, or no config in it or like it.
    """
    folder = Path(name)
    if folder.is_dir():
        found = {path.stem: str(path) for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    else:
        names = engine.config_names(name) or fnmatch.filter(engine.config_names(), name)
        found = {config.rpartition("/")[2]: config for config in names}
    if not found:
        raise FileNotFoundError(f"{name}: no folder of configs, nor a packaged one; there is classification/h1")
    return found


def run(name: str, runs: Path, seeds: int, jobs: int, data: Path | None, options: Sequence[str]) -> None:
    """Trains every config of a folder that is not done yet.

    Args:
        name: of the folder, as `experiment_configs` takes it.
        runs: for all output; a run is in ``runs/CONFIG/seed_K``.
        seeds: runs per config.
        jobs: runs at the same time; the CPU's cores are shared among them.
        data: as `engine.load_config` takes it.
        options: as `engine.parse_options` takes them.

    Raises:
        ValueError: ``runs`` holds runs of another experiment or with other options.
        RuntimeError: runs failed; the others were finished.
    """
    configs = experiment_configs(name)
    engine.parse_options(options)  # a slip in them is reported before anything is written
    _claim(runs, {"experiment": name, "options": sorted(options), "data": str(data) if data else None}, jobs)
    todo = [
        (label, seed)
        for seed in range(seeds)
        for label in configs
        if not (runs / label / f"seed_{seed}" / "result.json").exists()
    ]
    context = multiprocessing.get_context("forkserver")  # forked from a process that has imported torch, and no more
    context.set_forkserver_preload(["mixerzoo.tasks.engine", "mixerzoo.tasks.classification"])
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    failed, start = [], time.monotonic()
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        futures: dict[Future[None], tuple[str, int]] = {
            pool.submit(_train, configs[label], runs / label / f"seed_{seed}", seed, data, tuple(options), threads): (
                label,
                seed,
            )
            for label, seed in todo
        }
        for done, future in enumerate(as_completed(futures), start=1):
            label, seed = futures[future]
            error = future.exception()
            if error is not None:
                failed.append(f"{label} seed {seed}: {' '.join(str(error).split())}")
            left = (time.monotonic() - start) / done * (len(todo) - done)
            said = failed[-1] if error is not None else f"{label} seed {seed}: {_result(runs, label, seed)}"
            print(f"[{done}/{len(todo)}, about {left:.0f} s left] {said}", file=sys.stderr, flush=True)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}")


def _claim(runs: Path, what: dict[str, Any], jobs: int) -> None:
    """Notes in ``runs`` what it is for; whatever else it was for cannot be compared with that."""
    note = runs / "experiment.json"
    if note.exists():
        earlier = json.loads(note.read_text())
        different = [key for key in what if earlier.get(key) != what[key]]
        if different:
            key = different[0]
            raise ValueError(f"{runs}: has runs with {key} {earlier.get(key)}, not {what[key]}; choose another --runs")
    runs.mkdir(parents=True, exist_ok=True)
    write_atomically(json.dumps({**what, "jobs": jobs}, indent=1).encode(), note)


def _train(config: str, folder: Path, seed: int, data: Path | None, options: tuple[str, ...], threads: int) -> None:
    """One run, in a process of its own; what it says goes into ``console.txt`` of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    console = os.open(folder / "console.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(console, 1)
    os.dup2(console, 2)
    torch.set_num_threads(threads)
    chosen = {**engine.parse_options(options), "randomness.seed": seed}
    engine.train(config, folder, resume=True, options=chosen, data=data)


def _result(runs: Path, label: str, seed: int) -> str:
    result = json.loads((runs / label / f"seed_{seed}" / "result.json").read_text())
    headline = _headline(result["config"])
    return f"{headline.label} {result['metrics'][headline.metric]:.4g}"


def _headline(config: str) -> Headline:
    """What a config says that its experiments are about.

    Raises:
        ValueError: it says nothing, or something else.
    """
    cfg = engine.load_config(config)
    try:
        return Headline(**cfg.headline)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{cfg.filename}: headline: expected a dictionary of metric, label, best and perhaps others: {error}"
        ) from error


def report(name: str, runs: Path) -> list[Entry]:
    """Prints the table of the finished runs, and writes ``table.md``, ``table.json`` and ``plot.png`` into ``runs``.

    The time of a training step is not taken from the runs, beside which others may have run, but measured now.

    Args:
        name: of the folder of configs.
        runs: of `run`.

    Returns:
        Entries, the best first.

    Raises:
        ValueError: no run is finished.
    """
    configs = experiment_configs(name)
    headline = _headline(next(iter(configs.values())))
    results = {
        label: [json.loads(path.read_text()) for path in sorted((runs / label).glob("seed_*/result.json"))]
        for label in configs
    }
    done = {label: config for label, config in configs.items() if results[label]}
    if not done:
        raise ValueError(f"{runs}: no finished run of {name}; run `mixerzoo experiment {name} --runs {runs}` first")
    claim = runs / "experiment.json"
    unclaimed = {"experiment": name, "options": [], "data": None, "jobs": 1}
    note = json.loads(claim.read_text()) if claim.exists() else unclaimed
    times = _step_times(done, runs / "steps.json", note)
    entries = [_entry(label, config, results[label], headline, times[label]) for label, config in done.items()]
    entries.sort(key=lambda entry: headline.sign() * entry.mean)
    _print(entries, headline, name)
    write_atomically(_markdown(entries, headline, note).encode(), runs / "table.md")
    content = {
        **note,
        "headline": asdict(headline),
        "torch": torch.__version__,
        "entries": [asdict(entry) for entry in entries],
    }
    write_atomically(json.dumps(content, indent=1).encode(), runs / "table.json")
    _draw(entries, headline, runs / "plot.png")
    print(f"{runs}: table.md, table.json, plot.png, and a folder per config and seed")
    return entries


def _step_times(configs: Mapping[str, str], path: Path, note: Mapping[str, Any]) -> dict[str, float]:
    """Of `steps.step_times`; ``path`` keeps them for the next report."""
    times = json.loads(path.read_text()) if path.exists() else {}
    if configs.keys() - times.keys():  # all again: figures of different occasions do not compare
        options, data = engine.parse_options(note["options"]), note["data"]
        times = step_times({label: engine.load_config(config, options, data) for label, config in configs.items()})
        write_atomically(json.dumps(times, indent=1), path)
    return times


def _entry(label: str, config: str, results: Sequence[dict[str, Any]], headline: Headline, step_ms: float) -> Entry:
    metrics = [result["metrics"] for result in results]
    return Entry(
        label,
        results[0]["parameters"],
        macs(config),
        [values[headline.metric] for values in metrics],
        [statistics.mean(values[key] for values in metrics) for key in headline.others],
        step_ms,
        statistics.median(result["train_seconds"] for result in results),
        results[0]["device"],
    )


def macs(config: str) -> int:
    """Multiply-adds of one image through the config's network, by PyTorch's own counter (attention counted in full)."""
    cfg = engine.load_config(config)
    net = next(iter(networks(cfg).values()))
    image = torch.zeros(1, *image_shape(cfg), device="meta")  # (1, channels, H, W)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return counter.get_total_flops() // 2


def _columns(headline: Headline) -> tuple[str, ...]:
    figures = (headline.label, "± sd", "lowest", "highest", *headline.others.values())
    return ("model", "seeds", *figures, "Mparams", "MMACs", "µs/image", "train s")


def _cells(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        str(len(entry.values)),
        f"{entry.mean:.4g}",
        "" if entry.spread is None else f"{entry.spread:.2g}",
        f"{min(entry.values):.4g}",
        f"{max(entry.values):.4g}",
        *(f"{value:.4g}" for value in entry.others),
        f"{entry.parameters / 1e6:.2f}",
        f"{entry.macs / 1e6:.1f}",
        f"{1e3 * entry.step_ms_per_image:.0f}",
        f"{entry.train_s:.0f}",
    )


def _print(entries: Sequence[Entry], headline: Headline, name: str) -> None:
    title = f"{name}: {headline.label} on the test set; µs/image of a training step ({entries[0].device})"
    table = Table(*_columns(headline), title=title)
    for entry in entries:
        table.add_row(*_cells(entry))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _markdown(entries: Sequence[Entry], headline: Headline, note: dict[str, Any]) -> str:
    columns = _columns(headline)
    lines = [
        f"`mixerzoo experiment {note['experiment']}`, options {' '.join(note['options']) or 'none'}, "
        f"{note['jobs']} run(s) at a time, on {entries[0].device}, torch {torch.__version__}.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
        *("| " + " | ".join(_cells(entry)) + " |" for entry in entries),
    ]
    return "\n".join(lines) + "\n"


def _draw(entries: Sequence[Entry], headline: Headline, path: Path) -> None:
    """The metric against multiply-adds and against the time of a training step; a bar reaches over all seeds."""
    rows = _rows(entries, headline)
    figure = Figure(figsize=(11, 0.6 + 4 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
    networks = {entry.name: _network(entry, headline) for entry in entries}
    looks = {name: number for number, name in enumerate(sorted(set(networks.values())))}
    for (costs, times), (group, shown) in zip(grid, rows, strict=True):
        labels = [networks[entry.name] for entry in shown]
        _scatter(costs, shown, labels, [entry.macs / 1e6 for entry in shown], looks)
        _scatter(times, shown, labels, [1e3 * entry.step_ms_per_image for entry in shown], looks)
        costs.set(ylabel=f"{headline.label}, all seeds{group.replace('_', ', ')}")
    grid[-1, 0].set(xlabel="million multiply-adds per image")
    grid[-1, 1].set(xlabel=f"µs per image of a training step on {entries[0].device}")
    legend = {}
    for axes in grid[:, 0]:
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside right upper")
    save_figure(figure, path)


def _rows(entries: Sequence[Entry], headline: Headline) -> list[tuple[str, Sequence[Entry]]]:
    """Entries that share a pair of plots, each with its group.

    Without groups, all do; where a few networks are far off, a second row shows the others by themselves.
    """
    if headline.groups:
        rows = [(group, [entry for entry in entries if entry.name.endswith(group)]) for group in headline.groups]
        return [(group, shown) for group, shown in rows if shown]
    far = max(abs(entry.mean - entries[0].mean) for entry in entries) / 4
    close = [entry for entry in entries if abs(entry.mean - entries[0].mean) <= far]
    return [("", entries), ("", close)] if 2 <= len(close) < len(entries) else [("", entries)]


def _network(entry: Entry, headline: Headline) -> str:
    """Its name without the group."""
    group = next((group for group in headline.groups if entry.name.endswith(group)), "")
    return entry.name.removesuffix(group)


def _scatter(
    axes: Axes, entries: Sequence[Entry], labels: Sequence[str], xs: Sequence[float], looks: Mapping[str, int]
) -> None:
    """One marker per entry; on a logarithmic axis if the dearest costs several times what the cheapest does."""
    for entry, label, x in zip(entries, labels, xs, strict=True):
        error = [[entry.mean - min(entry.values)], [max(entry.values) - entry.mean]]
        look = looks[label]
        color, marker = COLORS[look % len(COLORS)], MARKERS[look % len(MARKERS)]
        axes.errorbar(x, entry.mean, error, linestyle="", marker=marker, color=color, label=label, capsize=3)
    if max(xs) > 4 * min(xs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.grid(alpha=0.3)
