"""Trains what an experiment holds, each run in a process of its own, and goes on where it was broken off."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from .. import engine
from ..engine.checkpoints import write_atomically
from .grid import experiment_configs, headline_of

__all__ = ["run"]


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
    headline = headline_of(result["config"])
    return f"{headline.label} {result['metrics'][headline.metric]:.4g}"
