"""Runs a grid: tuning first, then every cell with every mixer and seed, paired, sharded and resumable.

    mixerzoo experiment legend --tune
    mixerzoo experiment legend --run --shard 1/2
    mixerzoo experiment legend --report

A run of a seed has the initial weights and the pictures of every other run of that seed. Runs are made one after
another, on one thread; to use more cores, start as many shards. A run that was killed is made again; one that is in the
records is not.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import records
from .grid import Cell, Grid, load_grid
from .train import train_run

__all__ = ["pilot", "report", "run", "tune"]

PILOT_SEED, PILOT_STEPS, PILOT_RATE = 1000, 20, 4e-3


@dataclass(frozen=True)
class Job:
    """A run to make."""

    cell: Cell
    mixer: str
    seed: int
    rate: float
    steps: int

    def key(self) -> tuple[str, str, int, float, int]:
        """What tells it from other runs."""
        return self.cell.name, self.mixer, self.seed, self.rate, self.steps


def _key(record: dict[str, Any]) -> tuple[str, str, int, float, int]:
    return tuple(record[name] for name in ("cell", "mixer", "seed", "rate", "asked_steps"))


def tuning_jobs(grid: Grid) -> list[Job]:
    """Half the steps, every rate, on the tuning seeds, in the cell that a task is tuned on."""
    return [
        Job(cell, mixer, seed, rate, cell.steps // 2)
        for cell in grid.cells.values()
        if cell.tune
        for mixer in cell.mixers
        for rate in grid.rates
        for seed in grid.tuning_seeds
    ]


def tuned_rates(grid: Grid, folder: Path) -> dict[tuple[str, str], float]:
    """(task, mixer) -> learning rate: the best mean over the tuning seeds; on a tie, the best mean curve.

    Raises:
        ValueError: a tuning run is missing.
    """
    done = {_key(record): record for record in records.read([folder / grid.name / "tuning.jsonl"])}
    scores: dict[tuple[str, str], dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for job in tuning_jobs(grid):
        record = done.get(job.key())
        if record is None:
            raise ValueError(
                f"experiment {grid.name}: {job.cell.name}-{job.mixer} is not tuned yet; run --tune before --run"
            )
        sign = 1 if grid.higher_is_better else -1
        curve = np.mean([value for _, value in record["curve"]]) if record["finite"] else -np.inf
        value = sign * record["value"] if record["finite"] else -np.inf
        scores[job.cell.task, job.mixer][job.rate].append((round(value, 3), sign * curve))
    return {key: max(rates, key=lambda rate: tuple(np.mean(rates[rate], axis=0))) for key, rates in scores.items()}


def run_jobs(grid: Grid, folder: Path, cells: Sequence[Cell], steps: dict[str, int]) -> list[Job]:
    """Every mixer of ``cells`` with every seed; all mixers of a seed before the next seed."""
    rates = tuned_rates(grid, folder)
    return [
        Job(cell, mixer, seed, rates[cell.task, mixer], steps[cell.name])
        for cell in cells
        for seed in grid.seeds
        for mixer in cell.mixers
    ]


def tune(name: str, folder: Path = records.RESULTS, shard: tuple[int, int] = (1, 1), data: Path | None = None) -> None:
    """Makes the tuning runs that are missing, and prints the rates when all are there.

    Args:
        name: of a grid in ``configs/experiments``.
        folder: of the records, ``{folder}/{name}/tuning.jsonl``.
        shard: (i, n): make only every n-th run, from the i-th.
        data: folder of Fashion-MNIST.
    """
    grid = load_grid(name)
    path = folder / name / "tuning.jsonl"
    _make(grid, tuning_jobs(grid), lambda job: path, shard, data)
    done = {_key(record) for record in records.read([path])}
    if all(job.key() in done for job in tuning_jobs(grid)):
        for (task, mixer), rate in tuned_rates(grid, folder).items():
            print(f"{task} {mixer}: {rate:g}")


def run(
    name: str,
    folder: Path = records.RESULTS,
    shard: tuple[int, int] = (1, 1),
    data: Path | None = None,
    cell: str | None = None,
    seed: int | None = None,
    double: bool = False,
) -> None:
    """Makes the runs that are missing, the most important cells first.

    Args:
        name: of a grid in ``configs/experiments``.
        folder: of the records, ``{folder}/{name}/{cell}.jsonl``.
        shard: (i, n): make only every n-th run, from the i-th.
        data: folder of Fashion-MNIST.
        cell: only this cell, ``far-784``, or this mixer in it, ``far-784-s6``.
        seed: only this one.
        double: with twice the steps, once, for a cell that was void; into ``{cell}-twice.jsonl``.

    Raises:
        ValueError: not tuned yet, no such cell, a seed that is not the experiment's, or ``double`` for no cell.
    """
    grid = load_grid(name)
    if double and cell is None:
        raise ValueError("--double is for one cell that was void: give --cell")
    if seed is not None and seed not in grid.seeds:
        raise ValueError(f"seed: expected one of {tuple(grid.seeds)}, got {seed}")
    chosen, mixers = grid.parse_run(cell) if cell else (None, ())
    cells = [chosen] if chosen else list(grid.cells.values())
    steps = {c.name: c.steps * (2 if double else 1) for c in cells}
    jobs = [
        job
        for job in run_jobs(grid, folder, cells, steps)
        if (not chosen or job.mixer in mixers) and (seed is None or job.seed == seed)
    ]
    ending = "-twice.jsonl" if double else ".jsonl"
    _make(grid, jobs, lambda job: folder / name / f"{job.cell.name}{ending}", shard, data)


def pilot(
    name: str,
    folder: Path = records.RESULTS,
    shard: tuple[int, int] = (1, 1),
    data: Path | None = None,
    cell: str | None = None,
    steps: int = PILOT_STEPS,
) -> None:
    """Measures what the grid will cost: a few steps of every network, on a seed that no analysis uses.

    Prints, per cell and mixer, the milliseconds of a step and the core-hours of all its runs.

    Args:
        name, folder, shard, data, cell: as in `run`; records go to ``pilot.jsonl``.
        steps: of each.
    """
    grid = load_grid(name)
    chosen, mixers = grid.parse_run(cell) if cell else (None, ())
    jobs = [
        Job(replace(c, points=1), mixer, PILOT_SEED, PILOT_RATE, steps)
        for c in ([chosen] if chosen else grid.cells.values())
        for mixer in (mixers or c.mixers)
    ]
    path = folder / name / "pilot.jsonl"
    _make(grid, jobs, lambda job: path, shard, data)
    done = {_key(record): record for record in records.read([path])}
    hours: dict[str, float] = defaultdict(float)
    for job in jobs:
        record = done.get(job.key())
        if record is None:
            continue
        own = job.cell.steps * record["step_ms"] / 3.6e6 * len(grid.seeds)
        hours[job.cell.name] += own
        print(
            f"{job.cell.name}-{job.mixer}: {grid.metric} {record['value']:.3f} after {job.steps} steps, "
            f"{record['step_ms']:.1f} ms a step, {record['macs'] / 1e6:.1f} MMACs, {own:.2f} core-hours"
        )
    for cell_name, cell_hours in hours.items():
        print(f"{cell_name}: {cell_hours:.2f} core-hours without evaluation")
    print(f"{name}: {sum(hours.values()):.1f} core-hours without evaluation")


def report(name: str, folder: Path = records.RESULTS, out: Path | None = None) -> dict[str, Any]:
    """Judges the records by the protocol and writes ``report.json``, ``report.md`` and the pictures into ``out``.

    Args:
        name: of a grid in ``configs/experiments``.
        folder: of the records.
        out: folder to write to; default ``{folder}/{name}``.

    Raises:
        ValueError: a record was made under another protocol, with other settings, or from a changed tree.
    """
    from .report import write_report

    return write_report(load_grid(name), folder, out or folder / name)


def _make(grid: Grid, jobs: Sequence[Job], path_of: Any, shard: tuple[int, int], data: Path | None) -> None:
    """Makes this shard's missing runs, saying how long the rest will take."""
    done = {_key(record) for path in {path_of(job) for job in jobs} for record in records.read([path])}
    part, parts = shard
    todo = [job for number, job in enumerate(jobs) if job.key() not in done and number % parts == part - 1]
    left = sum(map(_work, todo))
    start, made = time.monotonic(), 0.0
    for number, job in enumerate(todo, start=1):
        record = _one(grid, job, data)
        records.append(path_of(job), record)
        made, left = made + _work(job), left - _work(job)
        minutes = (time.monotonic() - start) / made * left / 60
        value = "diverged" if record["value"] is None else f"{grid.metric} {record['value']:.4f}"
        print(
            f"[{number}/{len(todo)}, about {minutes:.0f} min left] {job.cell.name}-{job.mixer} seed {job.seed} "
            f"rate {job.rate:g}: {value} in {record['cpu_s']:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _one(grid: Grid, job: Job, data: Path | None) -> dict[str, Any]:
    made_by = records.provenance(job.cell)  # of the moment the run starts
    result = train_run(
        job.cell, job.mixer, job.seed, job.rate, metric=grid.metric, steps=job.steps, root=data, **grid.train
    )
    return {
        "experiment": grid.name,
        "cell": job.cell.name,
        "mixer": job.mixer,
        "seed": job.seed,
        "rate": job.rate,
        "asked_steps": job.steps,
        **result,
        **made_by,
    }


def _work(job: Job) -> float:
    """Something that a run's time is about proportional to."""
    return job.steps * job.cell.batch * job.cell.data.get("side", 28) ** 2
