"""What the engine costs: its training step with all hooks against a plain loop, interleaved in one run.

    python -m mixerzoo.tasks.engine.overhead classification/mambaout_femto_gatedcnn_fashion_mnist

The plain loop is the body of timm's train.py: forward, loss, backward, clipping, step, zero_grad, and the loss read out
at the logging interval. It trains a copy of the network with an equal optimizer on the same batches. The engine runs as
always; after each of its iterations, or before it, in turns, the plain loop makes the same one. Loading the batch
counts for neither.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from timm.utils import dispatch_clip_grad

from .config import load_config
from .optim import TimmOptimWrapperConstructor
from .runner import build_runner
from .steps import seconds

__all__ = ["InterleavedLoop", "measure"]

LOG_INTERVAL = 50  # that of configs/_base_/runtime.py and of timm's train.py
WARM_UP = 5  # iterations that do not count


@LOOPS.register_module()
class InterleavedLoop(EpochBasedTrainLoop):
    """mmengine's loop with a plain one beside it; seconds and losses of both, per iteration, in two lists."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, list[float]] = {"engine": [], "plain": []}
        self.losses: dict[str, list[float]] = {"engine": [], "plain": []}

    def run_iter(self, idx: int, data_batch: Any) -> None:
        if not self.seconds["engine"]:
            self._copy()
        rates = [group["lr"] for group in self.runner.optim_wrapper.optimizer.param_groups]
        images, labels = (part.to(next(self.net.parameters()).device) for part in data_batch)
        steps = {"engine": lambda: super(InterleavedLoop, self).run_iter(idx, data_batch)}
        steps["plain"] = lambda: self._plain(idx, images, labels, rates)
        for name in sorted(steps, reverse=bool(idx % 2)):
            self.seconds[name].append(seconds(steps[name]))
        self.losses["engine"].append(float(self.runner.message_hub.get_scalar("train/loss").current()))
        self.losses["plain"].append(self.loss.item())

    def _copy(self) -> None:
        self.net = copy.deepcopy(self.runner.model)
        cfg = self.runner.cfg.optim_wrapper
        self.clip = cfg.get("clip_grad", {}).get("max_norm")
        self.optimizer = TimmOptimWrapperConstructor({"optimizer": cfg.optimizer})(self.net).optimizer

    def _plain(self, index: int, images: torch.Tensor, labels: torch.Tensor, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # what a schedule would do
        self.loss = self.net(images, labels, mode="loss")["loss"]
        self.loss.backward()
        if self.clip:
            dispatch_clip_grad(self.net.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if index % LOG_INTERVAL == 0:
            self.loss.item()


def measure(
    config: str, iterations: int = 100, data: str | Path | None = None, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Trains so many iterations with both loops.

    Args:
        config: as `engine.load_config` takes it; one process, no accumulation, no mixed precision.
        iterations: of each loop; at least 10, of which the first few do not count.
        data: as `engine.load_config` takes it.
        options: as `engine.load_config` takes them.

    Returns:
        ``overhead`` (median over iterations of engine / plain - 1), its 95 % bootstrap interval ``low`` to ``high``,
        the median times ``engine_ms`` and ``plain_ms``, and the ``losses`` of both.

    Raises:
        ValueError: fewer than 10 iterations, or more than an epoch has.
    """
    if iterations < 10:
        raise ValueError(f"iterations: expected at least 10, got {iterations}")
    cfg = load_config(config, options, data)
    for key in ("val_dataloader", "val_cfg", "val_evaluator", "test_dataloader", "test_cfg", "test_evaluator"):
        cfg.pop(key, None)
    cfg.train_cfg = {"type": "InterleavedLoop", "max_epochs": 1}
    # Workers would load the next batches while a step is timed, on the same cores.
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.limit = iterations * cfg.train_dataloader.batch_size
    with tempfile.TemporaryDirectory() as folder:
        runner = build_runner(cfg, folder)
        if len(runner.train_loop.dataloader) < iterations:
            raise ValueError(f"iterations: an epoch has only {len(runner.train_loop.dataloader)}, got {iterations}")
        runner.train()
    times = {name: np.array(values[WARM_UP:]) for name, values in runner.train_loop.seconds.items()}
    ratios = times["engine"] / times["plain"] - 1
    draws = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    return {
        "overhead": float(np.median(ratios)),
        "low": float(np.quantile(draws, 0.025)),
        "high": float(np.quantile(draws, 0.975)),
        "engine_ms": 1e3 * float(np.median(times["engine"])),
        "plain_ms": 1e3 * float(np.median(times["plain"])),
        "losses": runner.train_loop.losses,
    }


@click.command()
@click.argument("config")
@click.option("--iterations", type=click.IntRange(min=10), default=100, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Root of the data sets.")
def main(config: str, iterations: int, data: Path | None) -> None:
    """Times the engine's training step for CONFIG against a plain loop."""
    result = measure(config, iterations, data)
    result["last_losses"] = {name: values[-1] for name, values in result.pop("losses").items()}
    click.echo(json.dumps({**result, "threads": torch.get_num_threads(), "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
