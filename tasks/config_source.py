"""The source ``config:CONFIG`` of `mixerzoo.benchmarks`: a config's networks, without weights, losses and data."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..benchmarks.sources import Network
from .extras import require

require("train")

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from . import engine  # noqa: E402

__all__ = ["image_shape", "networks", "read", "sizes"]

Size = tuple[int, int]


def networks(cfg: Config, device: torch.device | str = "meta") -> dict[str, nn.Module]:
    """What there is to count in a config's model, in evaluation mode.

    The task says it: its ``predictor`` has a function ``networks(model)`` that gives names and modules, the whole
    network first, each of which maps images (B, C, H, W) to its output.

    Args:
        cfg: of `engine.load_config`.
        device: where to build it.

    Raises:
        ConfigError: the task does not say it, or the model cannot be built.
    """
    task: Any = importlib.import_module(cfg.predictor) if "predictor" in cfg else None
    if not hasattr(task, "networks"):
        raise engine.ConfigError(f"{cfg.filename}: predictor: expected a module with networks(model), found {task}")
    cfg.model.pop("mixup", None)  # timm's cannot be made on the meta device, and costs nothing
    try:
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope")), torch.device(device):
            model = MODELS.build(cfg.model).eval().requires_grad_(False)
    except (KeyError, TypeError, ValueError) as error:
        raise engine.ConfigError(f"{cfg.filename}: model: {error}") from error
    return task.networks(model)


def image_shape(cfg: Config) -> tuple[int, int, int]:
    """(channels, H, W) of a config's test images; mmdet's and mmseg's vary, there it is that of ``analyze_sizes``."""
    if "transform" not in cfg.test_dataloader.dataset:
        return 3, *cfg.analyze_sizes[0]
    transform = cfg.test_dataloader.dataset.transform
    if "convention" in transform:
        return 3, transform.convention.height, transform.convention.width
    return tuple(transform.input_size)


def sizes(cfg: Config) -> list[Size]:
    """(H, W) in pixels that a config is counted at: its ``analyze_sizes``, or that of its test images."""
    return [tuple(size) for size in cfg.get("analyze_sizes", [image_shape(cfg)[1:]])]


def read(config: str | Path, device: torch.device | str = "meta") -> list[Network]:
    """The networks of a config, each under the config's name and its own: what ``config:CONFIG`` stands for.

    Args:
        config: path or packaged name.
        device: ``meta`` allocates nothing; on others the weights are random.

    Raises:
        FileNotFoundError: no such config.
        ConfigError: the task does not name its networks, or the model cannot be built.
    """
    cfg = engine.load_config(config)
    at = sizes(cfg)
    return [Network(f"{cfg.run_name} {name}", network, at) for name, network in networks(cfg, device).items()]
