"""Checkpoints that survive a kill and that cannot run code: atomic writing, safe reading, plain content.

mmengine writes straight into the final file, and where PyTorch's safe loader refuses a file it falls back to the one
that executes what is pickled. Here a checkpoint holds tensors, numbers and strings only, so the safe loader reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner.checkpoint import CheckpointLoader

from ...backbones import checkpoints
from ...backbones.checkpoints import write_atomically

__all__ = ["newest_checkpoint", "read_checkpoint", "use_safe_loader", "write_atomically"]


class AtomicBackend(LocalBackend):
    """mmengine's local file backend with atomic writes (``CheckpointHook(backend_args=dict(backend='atomic'))``)."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(obj, filepath)


register_backend("atomic", AtomicBackend, force=True)


@HOOKS.register_module()
class PlainStateHook(Hook):
    """Saves mmengine's log histories, the only objects in its checkpoints, as tensors, and makes them anew.

    Also notes what else a run that goes on has to have: the batch size, and what weights mean but do not show.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        scalars = checkpoint["message_hub"]["log_scalars"]
        histories = {key: tuple(torch.from_numpy(part) for part in history.data) for key, history in scalars.items()}
        checkpoint["message_hub"] = {**checkpoint["message_hub"], "log_scalars": histories}
        checkpoint["meta"]["images_per_iteration"] = images_per_iteration(runner)
        model = getattr(runner.model, "module", runner.model)
        if hasattr(model, "context"):
            checkpoint["meta"]["context"] = model.context()
        for key in ("meta", "message_hub", "param_schedulers"):
            if key in checkpoint:
                checkpoint[key] = _plain(checkpoint[key])

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        hub = checkpoint.get("message_hub")
        if hub:
            hub["log_scalars"] = {
                key: HistoryBuffer(values.numpy(), counts.numpy())
                for key, (values, counts) in hub["log_scalars"].items()
            }


def images_per_iteration(runner: Any) -> int:
    """Of all processes together."""
    return runner.train_dataloader.batch_sampler.batch_size * get_world_size()


def _plain(value: Any) -> Any:
    """``value`` with Python's numbers for NumPy's, which the safe loader refuses (mmengine keeps some)."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without executing anything in it (`mixerzoo.backbones.checkpoints`).

    What mixerzoo wrote comes whole; of other files (timm's, mmengine's own, official ones) what is tensors, numbers and
    texts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, truncated, or it pickles a call.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; expected a file that `mixerzoo train` wrote")
    content = checkpoints.read_checkpoint(path)
    if isinstance(content.get("meta"), dict):
        content["meta"].pop("config", None)  # old mmengine's: its resume executes this text as Python
    return content


def load_from_file(filename: str, map_location: Any = None, **unused: Any) -> Mapping[str, Any]:
    """A fresh state dict for mmengine, which changes what it gets, and moves it to where its parameters are."""
    content = read_checkpoint(filename)
    if "state_dict" in content:
        return content
    return {"state_dict": content.get("model", content)}


def load_from_url(filename: str, map_location: Any = "cpu", **unused: Any) -> Mapping[str, Any]:
    """As `load_from_file`, of a file that is first downloaded into PyTorch Hub's folder, if it is not there yet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(filename).path).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(filename, str(path))
    return load_from_file(str(path), map_location)


def _refuse_scheme(filename: str, map_location: Any = None) -> Mapping[str, Any]:
    raise ValueError(f"{filename}: expected a checkpoint's path or its https:// address; others are not read safely")


def use_safe_loader() -> None:
    """Makes every checkpoint that mmengine loads in this process go through `read_checkpoint`.

    Its own loaders fall back to executing what is pickled.
    """
    for scheme in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(prefixes=scheme, loader=_refuse_scheme, force=True)
    CheckpointLoader.register_scheme(prefixes=("http://", "https://"), loader=load_from_url, force=True)
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_file, force=True)


def newest_checkpoint(work_dir: str | Path) -> Path | None:
    """``epoch_N.pth`` or ``iter_N.pth`` with the largest N, or None. Half-written files do not have such names."""
    numbered = {
        int(match[1]): path
        for path in Path(work_dir).glob("*.pth")
        if (match := re.fullmatch(r"(?:epoch|iter)_(\d+)\.pth", path.name))
    }
    return numbered[max(numbered)] if numbered else None
