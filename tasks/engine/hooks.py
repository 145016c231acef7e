"""Hooks that every run has: randomness as a function of the iteration, global losses, progress, and the report."""

from __future__ import annotations

import json
import random
import time
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .checkpoints import write_atomically
from .plots import draw_curves

__all__ = ["CatchUpHook", "GlobalLossHook", "ProgressHook", "ReportHook", "SeedHook", "seed_all"]


def seed_all(*key: int) -> None:
    """Seeds Python's, NumPy's and PyTorch's generators with a mix of ``key``."""
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  (timm's augmentation draws from it)
    torch.manual_seed(int(words[2]))


@HOOKS.register_module()
class SeedHook(Hook):
    """Makes what is drawn in an iteration depend on (seed, iteration, rank) alone.

    A run that is resumed at any iteration then draws what the uninterrupted one drew, on every rank, and no generator
    state has to be saved.
    """

    priority = "HIGHEST"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed_all(runner.seed, runner.iter, get_rank())


@HOOKS.register_module()
class GlobalLossHook(Hook):
    """Replaces what each process would log by the mean over processes: the loss of the global batch."""

    priority = "HIGHEST"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if get_world_size() > 1 and outputs:
            for value in outputs.values():
                all_reduce(value, "mean")


@HOOKS.register_module()
class ProgressHook(Hook):
    """A bar with the remaining time on a terminal, otherwise one line per epoch."""

    priority = "LOW"

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def before_train(self, runner: Any) -> None:
        self.start, self.first = time.monotonic(), runner.iter
        if is_main_process() and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=self.console)
            self.task = self.bar.add_task("train", total=runner.max_iters, completed=runner.iter)
            self.bar.start()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.bar:
            text = (
                f"loss {_last(runner, 'train/loss'):.4f}" if "train/loss" in runner.message_hub.log_scalars else "train"
            )
            self.bar.update(self.task, completed=runner.iter + 1, description=text)

    def after_train_epoch(self, runner: Any) -> None:
        self._say(runner, f"epoch {runner.epoch + 1}/{runner.max_epochs}", f"loss {_recent(runner, 'train/loss'):.4f}")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._say(runner, "validation", ", ".join(f"{key} {value:.4g}" for key, value in _numbers(metrics).items()))

    def after_train(self, runner: Any) -> None:
        if self.bar:
            self.bar.stop()

    def _say(self, runner: Any, what: str, figures: str) -> None:
        if not is_main_process():
            return
        line = f"{what}: {figures}"
        if hasattr(self, "start") and runner.iter > self.first:
            seconds = time.monotonic() - self.start
            left = seconds / (runner.iter - self.first) * (runner.max_iters - runner.iter)
            line += f"  ({seconds:.0f} s, about {left:.0f} s left)"
        (self.bar.console if self.bar else self.console).print(line, highlight=False, soft_wrap=True)


@HOOKS.register_module()
class CatchUpHook(Hook):
    """Validates the epoch that a run resumes from: its checkpoint was written before its validation."""

    priority = "LOWEST"

    def before_train(self, runner: Any) -> None:
        loop, done = runner.train_loop, runner.message_hub.runtime_info.get("validated_epoch", 0)
        if runner.val_loop is None or not isinstance(loop, EpochBasedTrainLoop) or done >= runner.epoch:
            return
        if runner.epoch >= loop.val_begin and (
            runner.epoch % loop.val_interval == 0 or runner.epoch == loop.max_epochs
        ):
            runner.val_loop.run()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        runner.message_hub.update_info("validated_epoch", runner.epoch)


@HOOKS.register_module()
class ReportHook(Hook):
    """At the end of a run: ``result.json``, ``curves.png``, and what the metrics have to show (``Metric.save``)."""

    priority = "LOWEST"

    def after_train(self, runner: Any) -> None:
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        history = {key: [float(v) for v in buffer.data[0]] for key, buffer in runner.message_hub.log_scalars.items()}
        steps, loading = history.get("train/time", []), history.get("train/data_time", [])
        batch = runner.train_dataloader.batch_sampler.batch_size * get_world_size()
        val_keys = [key for key in history if key.startswith("val/") and not key.endswith("time")]
        result = {
            "config": str(runner.cfg.filename),
            "seed": runner.seed,
            "epochs": runner.max_epochs,
            "iterations": runner.iter,
            "metrics": {key.removeprefix("val/"): history[key][-1] for key in val_keys},
            "parameters": sum(p.numel() for p in runner.model.parameters()),
            "train_seconds": sum(steps),
            "train_images_per_s": batch / float(np.median(steps)) if steps else None,
            "step_ms_per_image": 1e3 * float(np.median(np.subtract(steps, loading))) / batch if steps else None,
            "world_size": get_world_size(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        if runner.val_loop is not None:
            self._save_metrics(runner.val_evaluator, folder)
        draw_curves(history, folder / "curves.png")
        write_atomically(json.dumps(result, indent=1).encode(), folder / "result.json")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if is_main_process():
            self._save_metrics(runner.test_evaluator, Path(runner.work_dir))

    @staticmethod
    def _save_metrics(evaluator: Any, folder: Path) -> None:
        for metric in evaluator.metrics:
            if hasattr(metric, "save"):
                metric.save(folder)


def _numbers(metrics: dict[str, Any] | None) -> dict[str, float]:
    return {key: value for key, value in (metrics or {}).items() if isinstance(value, Real)}


def _last(runner: Any, key: str) -> float:
    return runner.message_hub.get_scalar(key).current()


def _recent(runner: Any, key: str) -> float:
    """Mean over the last epoch, or what there is of it."""
    return float(runner.message_hub.get_scalar(key).mean(len(runner.train_dataloader)))
