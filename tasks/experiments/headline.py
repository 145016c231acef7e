"""The metric that an experiment is about, as its config says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmengine.config import Config

__all__ = ["Headline", "headline_of"]


@dataclass(frozen=True)
class Headline:
    """``headline`` of a config.

    Attributes:
        metric: its key, e.g. ``acc/top1``.
        label: its name and unit.
        best: ``highest`` or ``lowest``.
        others: keys of further metrics for the table → their labels.
        groups: ends of the cells' names, e.g. ``_short``; figures compare within a group only, so each has its plots.
    """

    metric: str
    label: str
    best: str
    others: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[str] = ()

    def sign(self) -> int:
        """Of values in ascending order, so that the best comes first."""
        return -1 if self.best == "highest" else 1


def headline_of(cfg: Config) -> Headline:
    """What a config says that its experiments are about.

    Args:
        cfg: of `engine.load_config`.

    Raises:
        ValueError: it says nothing, or something else.
    """
    try:
        return Headline(**cfg.headline)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{cfg.filename}: headline: expected a dictionary of metric, label, best and perhaps others: {error}"
        ) from error
