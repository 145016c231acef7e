"""A config as one plain file of mmengine: no ``_base_``, no key that only this project reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from .checkpoints import write_atomically
from .config import RUNNER_KEYS
from .errors import ConfigError, explain

__all__ = ["end_schedule", "write_plain"]

MMENGINE_KEYS = RUNNER_KEYS | {
    "custom_imports",
    "compile",
    "model_wrapper_cfg",
    "sync_bn",
    "find_unused_parameters",
}


def end_schedule(scheduler: Any, max_epochs: int | None, max_iters: int | None) -> None:
    """Lets a schedule without ``end`` end with the training; mmengine's would never end.

    Args:
        scheduler: ``param_scheduler`` of a config; changed in place.
        max_epochs: of the training; None: it has none.
        max_iters: of the training; None: not known.

    Raises:
        ValueError: it ends with an iteration, and their number is not known.
    """
    for place, cfg in enumerate(scheduler if isinstance(scheduler, list) else [scheduler]):
        if isinstance(cfg, dict) and "end" not in cfg:
            cfg["end"] = max_epochs if cfg.get("by_epoch", True) else max_iters
            if cfg["end"] is None:
                raise ValueError(
                    f"param_scheduler.{place} ends with the training, whose iterations follow from the data; put the "
                    f"data in place, or give --cfg-options param_scheduler.{place}.end=ITERATIONS"
                )


def write_plain(cfg: Config, file: Path, about: str) -> None:
    """Writes what mmdet's, mmseg's and mmengine's own tools train, where this package is installed.

    Args:
        cfg: of `load_config`; changed.
        file: to write, ``.py``.
        about: a line that says where it is from.

    Raises:
        ConfigError: the schedule depends on data that are not there.
    """
    kept = Config({key: value for key, value in cfg.items() if key in MMENGINE_KEYS})
    if "param_scheduler" in kept:
        loop = kept.train_cfg
        try:
            end_schedule(kept.param_scheduler, loop.get("max_epochs"), loop.get("max_iters") or _iterations(kept))
        except ValueError as error:
            raise ConfigError(f"{cfg.filename}: {error}") from error
    write_atomically(f'"""{about}"""\n\n{kept.pretty_text}'.encode(), file)


def _iterations(cfg: Config) -> int | None:
    """Of a training by epochs on one process; None if its data are not there."""
    scheduler = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    if all("end" in one or one.get("by_epoch", True) for one in scheduler if isinstance(one, Mapping)):
        return None  # nobody asks
    try:
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
            images = len(DATASETS.build(cfg.train_dataloader.dataset))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"train_dataloader: {explain(error)}") from error
    batches = images / cfg.train_dataloader.batch_size
    per_epoch = int(batches) if cfg.train_dataloader.get("drop_last") else -int(-batches // 1)
    return cfg.train_cfg.max_epochs * per_epoch
