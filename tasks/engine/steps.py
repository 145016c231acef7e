"""How long a config's training step takes, without loading data: several configs taking turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

__all__ = ["seconds", "step_times"]


def seconds(step: Callable[[], Any]) -> float:
    """Wall time of a call, the GPU's work included."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    start = time.perf_counter()
    step()
    synchronize()
    return time.perf_counter() - start


def step_times(configs: Mapping[str, Config], rounds: int = 5) -> dict[str, float]:
    """Milliseconds per image of a training step: forward, loss, backward and optimizer, on the first batch.

    Args:
        configs: of `engine.load_config`, by a name of your choice. All their models are in memory at the same time.
        rounds: in each, every config makes one step, so that a machine whose speed drifts favours none; the median
            counts. One more round before them does not count.

    Returns:
        The same names.
    """
    steps = {name: _training_step(cfg) for name, cfg in configs.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(1 + rounds):
        for name, step in steps.items():
            taken[name].append(seconds(step))
    images = {name: cfg.train_dataloader.batch_size for name, cfg in configs.items()}
    return {name: 1e3 * statistics.median(taken[name][1:]) / images[name] for name in taken}


def _training_step(cfg: Config) -> Callable[[], Any]:
    """One step of a config's own model and optimizer on one batch of its own data."""
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        model = MODELS.build(cfg.model).to("cuda" if torch.cuda.is_available() else "cpu").train()
        batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    return lambda: model.train_step(batch, optim_wrapper)
