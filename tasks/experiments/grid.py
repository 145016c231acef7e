"""A grid of options as the cells of an experiment: every combination of the levels of its axes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Cell", "expand"]


@dataclass(frozen=True)
class Cell:
    """One network or setting of an experiment.

    Attributes:
        name: the labels of its levels, joined by ``_``; the folder of its runs.
        options: dotted key → value, as `engine.load_config` takes them; ``backbone`` as its argument of that name.
    """

    name: str
    options: dict[str, Any]


def expand(grid: Mapping[str, Any]) -> list[Cell]:
    """Every combination, the last axis fastest.

    An axis is called as the option that it sets, ``backbone`` or ``optim_wrapper.optimizer.lr``, and has a list of
    values, or a dictionary of labels → values. A value that is a dictionary stands for several options, nested as in a
    config; such an axis may have any name. A dictionary with a ``type`` is an object of mmengine, so one value.

    Args:
        grid: axis → levels, e.g. ``{"backbone": {"s6": "mambaout_femto_s6"}, "train_cfg.max_epochs": [1, 2]}``.

    Returns:
        Cells with different names.

    Raises:
        ValueError: an axis without levels, an option that two axes set, or labels that are not names of files.
    """
    axes = [list(_levels(axis, levels)) for axis, levels in grid.items()]
    cells = []
    for levels in itertools.product(*axes):
        options: dict[str, Any] = {}
        for _, chosen in levels:
            twice = options.keys() & chosen.keys()
            if twice:
                raise ValueError(f"grid: two of its axes set {min(twice)}; expected every option on one axis")
            options |= chosen
        cells.append(Cell("_".join(label for label, _ in levels), options))
    names = [cell.name for cell in cells]
    for name in names:
        if not re.fullmatch(r"[\w.=+-]+", name) or names.count(name) > 1:
            raise ValueError(
                f"grid: {name!r} cannot be the name of a cell's folder; give every level a label of its own"
            )
    return cells


def _levels(axis: str, levels: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and options of each level of an axis."""
    if not isinstance(levels, Mapping | list | tuple) or not levels:
        raise ValueError(f"grid: {axis}: expected a list of values, or labels and values, got {levels!r}")
    if not isinstance(levels, Mapping):
        short = axis.rpartition(".")[2]
        levels = {value if isinstance(value, str) else f"{short}={value}": value for value in levels}
    for label, value in levels.items():
        yield str(label), dict(_options("", value)) if _is_several(value) else {axis: value}


def _is_several(value: Any) -> bool:
    return isinstance(value, Mapping) and "type" not in value


def _options(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Nested options as dotted ones."""
    for key, value in values.items():
        if _is_several(value):
            yield from _options(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
