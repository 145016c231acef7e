"""Is a set of depth frames what it says? Every frame read before training, with its range in metres."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..engine.runner import say

__all__ = ["check_data", "check_range"]

NEAR = 200  # ground truth of which half is nearer than this part of the largest depth is in another unit


def check_data(cfg: Config, thorough: bool = False) -> int:
    """Checks the data sets of a depth config. What a data set itself refuses is refused in any case.

    Args:
        cfg: of `engine.load_config`.
        thorough: read every frame, and print the range of its depth.

    Returns:
        Number of frames read.

    Raises:
        ValueError: a frame that cannot be read, or whose depth is in another unit than metres.
    """
    if not thorough:
        return 0
    total, done = 0, []
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        settings = cfg.get(key, {}).get("dataset")
        if settings is None or settings in done:
            continue
        done.append(settings)
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
            data = DATASETS.build(settings)
        medians, pixels, seen = [], 0, 0
        for index in range(len(data)):
            depth = data.load(index)["depth"]
            there = depth[depth > 0]
            pixels, seen = pixels + depth.numel(), seen + there.numel()
            if there.numel():
                medians.append(there.median())
        if not medians:
            raise ValueError(f"{key}: none of {len(data)} frames has a pixel with depth")
        middle = torch.stack(medians)
        check_range(middle, cfg.model.get("depth_range", (1e-3, 10.0)), key)
        say(
            f"{key}: {len(data):,} frames can be read; depth at {seen / pixels:.0%} of their pixels, medians from "
            f"{middle.min():.3g} to {middle.max():.3g} m"
        )
        total += len(data)
    return total


def check_range(depth: torch.Tensor, depth_range: tuple[float, float], where: str) -> None:
    """Is ground truth in metres, as far as its middle tells?

    Args:
        depth: metres, of any shape; 0 where there is none.
        depth_range: metres from and to which a model learns.
        where: what to call it in the error.

    Raises:
        ValueError: its median is beyond ``depth_range``, or far below its end.
    """
    there = depth[depth > 0]
    if not there.numel():
        return
    middle, (low, high) = float(there.median()), depth_range
    if not max(low, high / NEAR) <= middle <= high:
        raise ValueError(
            f"{where}: the median of its depth is {middle:.3g} m, where model.depth_range goes from {low:g} to "
            f"{high:g} m; is counts_per_metre right (1000 for millimetres, 256 for KITTI), and depth_range in metres?"
        )
