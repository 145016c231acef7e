"""What an experiment trains, and the metric that it is about."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import engine

__all__ = ["Headline", "experiment_configs", "headline_of"]


@dataclass(frozen=True)
class Headline:
    """The metric that an experiment is about: ``headline`` of its configs.

    Attributes:
        metric: its key, e.g. ``acc/top1``.
        label: its name and unit.
        best: ``highest`` or ``lowest``.
        others: keys of further metrics for the table → their labels.
        groups: ends of the configs' names, e.g. ``_short``; figures compare within a group only, so each has its plots.
    """

    metric: str
    label: str
    best: str
    others: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[str] = ()

    def sign(self) -> int:
        """Of values in ascending order, so that the best comes first."""
        return -1 if self.best == "highest" else 1


def experiment_configs(name: str) -> dict[str, str]:
    """What a folder of configs holds: the name of each → what `engine.load_config` takes.

    Args:
        name: a folder, or the name of a packaged one, or a pattern of packaged names such as ``depth/*_synthetic``.

    Raises:
        FileNotFoundError: no such folder, or no config in it or like it.
    """
    folder = Path(name)
    if folder.is_dir():
        found = {path.stem: str(path) for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    else:
        names = engine.config_names(name) or fnmatch.filter(engine.config_names(), name)
        found = {config.rpartition("/")[2]: config for config in names}
    if not found:
        raise FileNotFoundError(f"{name}: no folder of configs, nor a packaged one; there is classification/h1")
    return found


def headline_of(config: str) -> Headline:
    """What a config says that its experiments are about.

    Raises:
        ValueError: it says nothing, or something else.
    """
    cfg = engine.load_config(config)
    try:
        return Headline(**cfg.headline)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{cfg.filename}: headline: expected a dictionary of metric, label, best and perhaps others: {error}"
        ) from error
