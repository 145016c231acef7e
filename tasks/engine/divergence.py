"""Stops a run that is lost: losses, gradients, weights, outputs and metrics that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from torch import nn

from .checkpoints import newest_checkpoint
from .errors import DivergenceError

__all__ = ["DivergenceHook", "first_not_finite"]

LEAST_SCALE = 2.0**-40  # of float16's losses; they are scaled down as long as gradients overflow


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The first name whose tensor holds NaN or infinity."""
    numbers = {name: x for name, x in tensors.items() if x.is_floating_point() and x.numel()}
    if not numbers or math.isfinite(torch.nn.utils.get_total_norm(list(numbers.values()), math.inf)):
        return None
    return next((name for name, x in numbers.items() if not x.isfinite().all()), None)


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Ends the run in the iteration in which its loss or a gradient becomes NaN or infinite.

    Nothing is saved then, so the newest checkpoint is from before. Gradients of float16 may overflow, for which its
    loss scaling is made; there only a scale that has shrunk to nothing is an error.
    """

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.gradient: str | None = None  # the first parameter with a bad one, in this iteration

    def before_train(self, runner: Any) -> None:
        model = _unwrapped(runner.model)
        for wrapper in _wrappers(runner):
            wrapper.step = self._checked(wrapper, model)

    def _checked(self, wrapper: OptimWrapper, model: nn.Module) -> Any:
        """The wrapper's step after a look at the gradients: clipping would spread a NaN over all of them."""
        step = wrapper.step

        def checked(**kwargs: Any) -> None:
            if _scaler(wrapper) is None:
                self.gradient = first_not_finite({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
            step(**kwargs)

        return checked

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        losses = {key: x for key, x in (outputs or {}).items() if "loss" in key and isinstance(x, torch.Tensor)}
        bad = [f"{key} is {float(x)}" for key, x in losses.items() if not x.isfinite().all()]
        scalers = [scaler for wrapper in _wrappers(runner) if (scaler := _scaler(wrapper))]
        if any(scaler.get_scale() < LEAST_SCALE for scaler in scalers):
            bad.append("the loss scale of float16 has shrunk to nothing, as every gradient overflows")
        if bad or self.gradient:
            self._stop(runner, bad)

    def _stop(self, runner: Any, bad: list[str]) -> None:
        weights = first_not_finite(dict(_unwrapped(runner.model).named_parameters()))
        if self.gradient:
            bad.append(f"the first parameter whose gradient is not finite is {self.gradient}")
        elif weights:
            bad.append(f"the first parameter that is not finite is {weights}")
        rates = [group["lr"] for wrapper in _wrappers(runner) for group in wrapper.optimizer.param_groups]
        raise DivergenceError(
            f"{runner.work_dir}: the training diverged at iteration {runner.iter + 1} (epoch {runner.epoch + 1}): "
            f"{', '.join(bad)}; {_last_good(runner)}. Lower the learning rate ({max(rates):.3g} there), clip gradients "
            "(optim_wrapper.clip_grad), or look for numbers in the data that are not finite"
        )

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        bad = first_not_finite(dict(_unwrapped(runner.model).named_parameters()))
        if bad:
            raise DivergenceError(
                f"{runner.work_dir}: the training diverged by iteration {runner.iter + 1}: {bad} is not finite, and is "
                f"not saved; {_last_good(runner)}"
            )

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._check_outputs(outputs, "validation", batch_idx)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._check_outputs(outputs, "test", batch_idx)

    def _check_outputs(self, outputs: Any, what: str, batch: int) -> None:
        for number, output in enumerate(() if outputs is None else outputs):
            if any(x.is_floating_point() and x.isnan().any() for x in _tensors(output)):
                raise DivergenceError(
                    f"{what}: the network's output for picture {number} of batch {batch} is NaN; there is nothing to "
                    "measure"
                )

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._check_metrics(metrics)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._check_metrics(metrics)

    def _check_metrics(self, metrics: Mapping[str, Any] | None) -> None:
        bad = [f"{k} is {v}" for k, v in (metrics or {}).items() if isinstance(v, Real) and not math.isfinite(v)]
        if bad:
            raise DivergenceError(f"metrics: {', '.join(bad)}; the network's output or the ground truth is not finite")


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _wrappers(runner: Any) -> list[OptimWrapper]:
    """One, or those of several optimizers."""
    wrapper = runner.optim_wrapper
    return [wrapper] if isinstance(wrapper, OptimWrapper) else list(wrapper.values())


def _scaler(wrapper: OptimWrapper) -> torch.amp.GradScaler | None:
    """Ours, or that of mmengine's AmpOptimWrapper; None: losses are not scaled."""
    scaler = getattr(wrapper, "scaler", None) or getattr(wrapper, "loss_scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _last_good(runner: Any) -> str:
    newest = newest_checkpoint(runner.work_dir)
    return f"{newest} is the last checkpoint from before" if newest else "there is no checkpoint from before"


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """What a task's network gives out per picture: logits, depth, or what mmseg and mmdet found."""
    if isinstance(output, torch.Tensor):
        yield output
        return
    for field in ("seg_logits", "pred_instances"):
        data = getattr(output, field, None)
        values: Sequence[Any] = data.values() if data is not None else ()
        yield from (value for value in values if isinstance(value, torch.Tensor))
