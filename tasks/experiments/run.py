"""Trains what an experiment holds, each run in a process of its own, and goes on where it was broken off."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import engine
from ..engine.checkpoints import write_atomically
from ..recipes import Recipe, experiment
from .grid import Cell
from .headline import headline_of

__all__ = ["run"]


@dataclass(frozen=True)
class Run:
    """One training: a cell with a seed."""

    cell: Cell
    seed: int
    folder: Path

    @property
    def result(self) -> Path:
        """Written when it ends."""
        return self.folder / "result.json"

    def __str__(self) -> str:
        return f"{self.cell.name} seed {self.seed}"


def run(
    name: str,
    runs: Path,
    seeds: int | None = None,
    jobs: int | None = None,
    data: Path | None = None,
    options: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
    submit: str | None = None,
    submit_options: Mapping[str, Any] | None = None,
) -> bool:
    """Trains every cell of an experiment that is not done yet.

    Args:
        name: as `recipes.experiment` takes it.
        runs: for all output; a run is in ``runs/CELL/seed_K``.
        seeds: runs per cell; default: the experiment's.
        jobs: runs at the same time, default 1 here (the CPU's cores are shared among them) and all where submitted.
        data: as `engine.load_config` takes it.
        options: as `engine.parse_options` takes them.
        shard: (i, n): the i-th of n parts of the runs, for the i-th of n machines.
        submit: submitit's executor, ``slurm``, ``local`` or ``debug``, that trains instead of this process.
        submit_options: its parameters, e.g. ``{"slurm_partition": "gpu", "gpus_per_node": 1}``.

    Returns:
        Whether all runs are done, those of other shards too.

    Raises:
        ValueError: ``runs`` holds runs of another experiment or with other options.
        ImportError: submitit is not there.
        RuntimeError: runs failed; the others were finished.
    """
    recipe = experiment(name)
    headline = headline_of(engine.load_config(recipe.path))
    engine.parse_options(options)  # a slip in them is reported before anything is written
    note = {"experiment": recipe.name, "options": sorted(options), "data": str(data) if data else None}
    _claim(runs, note, jobs or 1)
    every = [
        Run(cell, seed, runs / cell.name / f"seed_{seed}")
        for seed in range(seeds or recipe.seeds)
        for cell in recipe.cells
    ]
    part, parts = shard
    todo = [one for one in every[part - 1 :: parts] if not one.result.exists()]
    if submit:
        finished = _submitted(recipe, todo, data, options, runs / "submitit", submit, dict(submit_options or {}))
    else:
        finished = _here(recipe, todo, data, options, jobs or 1)
    failed, start = [], time.monotonic()
    for done, (one, error) in enumerate(finished, start=1):
        if error is not None:
            failed.append(f"{one}: {' '.join(str(error).split())}")
            said = failed[-1]
        else:
            metrics = json.loads(one.result.read_text())["metrics"]
            said = f"{one}: {headline.label} {metrics[headline.metric]:.4g}"
        left = (time.monotonic() - start) / done * (len(todo) - done)
        print(f"[{done}/{len(todo)}, about {left:.0f} s left] {said}", file=sys.stderr, flush=True)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}")
    return all(one.result.exists() for one in every)


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


Finished = Iterator[tuple[Run, BaseException | None]]


def _here(recipe: Recipe, todo: Sequence[Run], data: Path | None, options: Sequence[str], jobs: int) -> Finished:
    context = multiprocessing.get_context("forkserver")  # forked from a process that has imported torch, and no more
    context.set_forkserver_preload(["mixerzoo.tasks.engine", "mixerzoo.tasks.classification"])
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        futures: dict[Future[None], Run] = {
            pool.submit(_train_quietly, recipe.path, one, data, tuple(options), threads): one for one in todo
        }
        for future in as_completed(futures):
            yield futures[future], future.exception()


def _submitted(
    recipe: Recipe,
    todo: Sequence[Run],
    data: Path | None,
    options: Sequence[str],
    logs: Path,
    cluster: str,
    parameters: dict[str, Any],
) -> Finished:
    """As an array of jobs; if this process is stopped, they go on."""
    try:
        import submitit
    except ImportError as error:
        raise ImportError(f"--submit {cluster} needs submitit: run `pip install submitit`") from error

    executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
    executor.update_parameters(**{"name": f"mixerzoo-{recipe.path.stem}", "timeout_min": 24 * 60, **parameters})
    with executor.batch():
        jobs = [executor.submit(_train, recipe.path, one, data, tuple(options)) for one in todo]
    which = dict(zip((job.job_id for job in jobs), todo, strict=True))
    for job in submitit.helpers.as_completed(jobs):
        yield which[job.job_id], job.exception()


def _train_quietly(config: Path, one: Run, data: Path | None, options: tuple[str, ...], threads: int) -> None:
    """In a process of its own; what it says goes into ``console.txt`` of its folder."""
    one.folder.mkdir(parents=True, exist_ok=True)
    console = os.open(one.folder / "console.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(console, 1)
    os.dup2(console, 2)
    torch.set_num_threads(threads)
    _train(config, one, data, options)


def _train(config: Path, one: Run, data: Path | None, options: tuple[str, ...]) -> None:
    chosen = {**one.cell.options, **engine.parse_options(options), "randomness.seed": one.seed}
    engine.train(config, one.folder, resume=True, options=chosen, data=data)
