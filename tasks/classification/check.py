"""Is a set of labelled pictures what it says? Every picture read before training, and counted by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..engine import say
from .data import LabelledImages

__all__ = ["check_data"]

NAMED = 10  # classes whose counts are printed one by one, at most


def check_data(cfg: Config, thorough: bool = False) -> int:
    """Checks the data sets of a classification config. What a data set itself refuses is refused in any case.

    Args:
        cfg: of `engine.load_config`.
        thorough: read every picture, and print how many there are of every class.

    Returns:
        Number of pictures read.

    Raises:
        ValueError: pictures that cannot be read; the message counts them and names the first.
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
        if isinstance(data, LabelledImages):
            counts = _read_all(data, key)
            say(f"{key}: {sum(counts.values()):,} pictures can be read: {_statistics(counts)}")
            total += sum(counts.values())
    return total


def _read_all(data: LabelledImages, key: str) -> dict[str, int]:
    """Pictures per class."""
    labels, faults = Counter(), []
    for index in data.indices:
        try:
            labels[data.load(index)[1]] += 1
        except (OSError, ValueError) as error:
            faults.append(str(error) if data.name(index) in str(error) else f"{data.name(index)}: {error}")
    if faults:
        more = f" (and {len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise ValueError(f"{key}: {faults[0]}{more}; repair or remove it")
    return {name: labels[number] for number, name in enumerate(data.classes)}


def _statistics(counts: Mapping[str, int]) -> str:
    if len(counts) <= NAMED:
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    least, most = min(counts, key=counts.get), max(counts, key=counts.get)
    empty = sum(not count for count in counts.values())
    none = f", none of {empty} classes" if empty else ""
    return f"{len(counts):,} classes, from {counts[least]:,} ({least}) to {counts[most]:,} ({most}){none}"
