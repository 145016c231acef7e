"""Top-1, top-5, per-class accuracy and the confusion matrix."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from ..engine.checkpoints import write_atomically
from ..engine.errors import DivergenceError
from ..engine.plots import draw_confusion

__all__ = ["Accuracy"]


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Accuracy in percent: ``acc/top1``, ``acc/top5``, and ``acc/mean_class``, the mean over classes of their top-1."""

    default_prefix = "acc"

    def process(self, data_batch: Any, data_samples: Sequence[torch.Tensor]) -> None:
        """Notes true class, predicted class and the rank of the true one, per image.

        Args:
            data_batch: images and labels (B,).
            data_samples: logits, B of (C,).

        Raises:
            DivergenceError: a logit is NaN, which every comparison would take for right.
        """
        labels = torch.as_tensor(data_batch[1]).cpu()
        logits = torch.stack(list(data_samples)).float().cpu()  # (B, C)
        lost = int(logits.isnan().any(1).sum())
        if lost:
            raise DivergenceError(
                f"the logits of {lost} of {len(logits)} pictures are NaN; there is nothing to measure"
            )
        ranks = (logits > logits.gather(1, labels[:, None])).sum(1)  # classes that score higher than the true one
        self.results.extend(zip(labels.tolist(), logits.argmax(1).tolist(), ranks.tolist(), strict=True))

    def compute_metrics(self, results: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        true, predicted, rank = (np.array(column) for column in zip(*results, strict=True))
        names = (self.dataset_meta or {}).get("classes") or range(max(true.max(), predicted.max()) + 1)
        self.classes = [str(name) for name in names]
        self.counts = np.zeros((len(self.classes),) * 2, dtype=int)  # (true, predicted)
        np.add.at(self.counts, (true, predicted), 1)
        figures = {
            "top1": np.mean(true == predicted),
            "top5": np.mean(rank < 5),
            "mean_class": np.mean(self._per_class()),
        }
        return {key: round(100 * float(value), 4) for key, value in figures.items()}

    def _per_class(self) -> np.ndarray:
        """Share of right ones among the images of every class that has any."""
        total = self.counts.sum(1)
        return self.counts.diagonal()[total > 0] / total[total > 0]

    def save(self, folder: Path) -> None:
        """Writes ``confusion.png`` and ``per_class.csv`` of the last evaluation into ``folder``."""
        if not hasattr(self, "counts"):
            return
        draw_confusion(self.counts, self.classes, folder / "confusion.png")
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["class", "images", "right"])
        totals = self.counts.sum(1)
        writer.writerows(zip(self.classes, totals.tolist(), self.counts.diagonal().tolist(), strict=True))
        write_atomically(text.getvalue().encode(), folder / "per_class.csv")
