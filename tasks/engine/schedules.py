"""Learning rates of a run that goes on: where the config has changed, they are what the new config says.

mmengine restores a schedule's ends and factors together with its place, so that a run resumed with more epochs would
stay at its old end.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from .checkpoints import images_per_iteration

__all__ = ["Schedule", "check_iterations"]

PLACE = {"last_step", "_global_step", "_last_value", "base_values", "optimizer", "verbose"}  # not of the config


def check_iterations(runner: Runner, content: Mapping[str, Any], path: Path, otherwise: str) -> None:
    """Batches and epochs have to be as large as they were, or neither schedule nor samples would go on where they were.

    Args:
        runner: about to resume.
        content: of the checkpoint.
        path: of the checkpoint.
        otherwise: what else can be done.

    Raises:
        ValueError: they are not.
    """
    loop, meta = runner.train_loop, content.get("meta", {})
    epochs, iterations = meta.get("epoch", 0), meta.get("iter", 0)
    batch, now = images_per_iteration(runner), len(loop.dataloader)
    if meta.get("images_per_iteration", batch) != batch:
        raise ValueError(
            f"{path}: of a run with {meta['images_per_iteration']} images per iteration, now there are {batch}; resume "
            f"with the train_dataloader.batch_size and the number of processes that it was trained with, {otherwise}"
        )
    if isinstance(loop, EpochBasedTrainLoop) and path.name.startswith("epoch_") and iterations != epochs * now:
        raise ValueError(
            f"{path}: of a run with {iterations / epochs:g} iterations per epoch, now there are {now}; resume with the "
            f"data that it was trained with, {otherwise}"
        )


class Schedule:
    """What a config's schedules are, noted before a checkpoint is loaded over them.

    Args:
        runner: with its optimizer and schedules built.
    """

    def __init__(self, runner: Runner) -> None:
        self.settings = [_settings(vars(scheduler)) for scheduler in _schedulers(runner)]
        self.starts = _starts(runner)

    def follow(self, runner: Runner, saved: Sequence[Any]) -> str | None:
        """Brings the rates of a runner that has resumed to where the config's schedule has them at this iteration.

        Args:
            runner: after ``resume``.
            saved: states of the schedules in the checkpoint.

        Returns:
            What in the config has changed since the checkpoint; None: nothing, and the rates stay as they were saved.
        """
        if len(saved) != len(self.settings):
            changed = f"param_scheduler has {len(self.settings)} parts instead of {len(saved)}"
        else:
            restored = [_settings(vars(scheduler)) for scheduler in _schedulers(runner)]
            differing = [
                f"param_scheduler.{number} has {key} {new[key]} instead of {old.get(key)}"
                for number, (new, old) in enumerate(zip(self.settings, restored, strict=True))
                for key in new
                if new[key] != old.get(key)
            ]
            if self.starts != _starts(runner):
                differing.append("optim_wrapper.optimizer has another learning rate")
            changed = differing[0] if differing else None
        if changed is not None:
            self._replay(runner)
        return changed

    def _replay(self, runner: Runner) -> None:
        for group, start in zip(_groups(runner), self.starts, strict=True):
            group.update(start)
            group.update({key.removeprefix("initial_"): value for key, value in start.items()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # schedules that step without their optimizer
            if runner.param_schedulers is not None:
                runner.param_schedulers = runner.build_param_scheduler(runner.cfg.param_scheduler)
            schedulers = _schedulers(runner)
            by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]
            by_iter = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
            length = len(runner.train_loop.dataloader)
            epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
            for iteration in range(1, runner.iter + 1):
                for scheduler in by_iter:
                    scheduler.step()
                if epochs and iteration % length == 0:
                    for scheduler in by_epoch:
                        scheduler.step()


def _schedulers(runner: Runner) -> list[Any]:
    """Of one optimizer; several have theirs restored as they were."""
    return list(runner.param_schedulers) if isinstance(runner.param_schedulers, list) else []


def _settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in PLACE and not callable(value)}


def _groups(runner: Runner) -> list[dict[str, Any]]:
    """Of one optimizer."""
    return runner.optim_wrapper.optimizer.param_groups if isinstance(runner.optim_wrapper, OptimWrapper) else []


def _starts(runner: Runner) -> list[dict[str, float]]:
    """What the schedules start from, per parameter group: ``initial_lr``, perhaps ``initial_momentum``."""
    return [
        {"initial_lr": group["lr"], **{key: value for key, value in group.items() if key.startswith("initial_")}}
        for group in _groups(runner)
    ]
