"""The metrics of depth, as mmengine evaluates a data set with them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from ..engine.checkpoints import write_atomically
from .metrics import METRICS as NAMES
from .metrics import Protocol, as_protocol, image_metrics, mean_metrics

__all__ = ["DepthScore"]

Result = tuple[str, dict[str, float] | None]


@METRICS.register_module()
class DepthScore(BaseMetric):
    """`mean_metrics` under a protocol: ``depth/abs_rel``, ``depth/delta1``, ``depth/rmse``, ``depth/silog`` …

    With several processes each image counts once, whichever of them saw it.

    Args:
        protocol: a name of `metrics.PROTOCOLS`, or the fields of a `metrics.Protocol`.

    Raises:
        ValueError: unknown protocol or field.
    """

    default_prefix = "depth"

    def __init__(self, protocol: str | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            self.protocol = as_protocol(protocol if isinstance(protocol, str) else Protocol(**protocol))
        except TypeError as error:
            raise ValueError(f"protocol: {error}") from None

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[torch.Tensor]) -> None:
        """Scores a batch.

        Args:
            data_batch: ``depth`` (B, H, W) in metres, ``name`` of each picture.
            data_samples: predictions, B of (H, W), or of (352, 1216) under a protocol with a KB crop.
        """
        for name, depth, prediction in zip(data_batch["name"], data_batch["depth"], data_samples, strict=True):
            self.results.append((name, image_metrics(prediction.cpu(), depth.cpu(), self.protocol)))

    def compute_metrics(self, results: Sequence[Result]) -> dict[str, float]:
        self.images = list(results)
        return mean_metrics([values for _, values in results], self.protocol)

    def save(self, folder: Path) -> None:
        """Writes ``per_image.csv`` of the last evaluation into ``folder``: a line per picture, empty if it has no valid
        pixel."""
        if not hasattr(self, "images"):
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, ["name", *NAMES], restval="")
        writer.writeheader()
        writer.writerows({"name": name, **(values or {})} for name, values in self.images)
        write_atomically(text.getvalue().encode(), folder / "per_image.csv")
