"""COCO's data and figures through mmdet, with randomness that a resumed run repeats, and quieter."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from ..engine.sampling import SeededItems
from ..extras import require_mm

require_mm()

from mmdet.datasets import CocoDataset  # noqa: E402
from mmdet.evaluation import CocoMetric  # noqa: E402
from mmdet.registry import DATASETS, METRICS  # noqa: E402

from .. import loading  # noqa: E402, F401  (registers the one loader of pictures)

__all__ = ["CocoFigures", "SeededCocoDataset"]


@DATASETS.register_module()
class SeededCocoDataset(SeededItems, CocoDataset):
    """mmdet's CocoDataset for ``SeededSampler``: what a sample's augmentation draws depends on its place alone."""

    def load_data_list(self) -> list[dict[str, Any]]:
        with redirect_stdout(io.StringIO()):  # pycocotools reports on standard output
            return super().load_data_list()


@METRICS.register_module()
class CocoFigures(CocoMetric):
    """mmdet's CocoMetric (pycocotools), which here gives zeros where nothing at all was detected, not nothing."""

    FIGURES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with redirect_stdout(io.StringIO()):
            super().__init__(*args, **kwargs)

    def compute_metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Average precisions as shares of 1, ``bbox_mAP_50`` and so on; -1: there is no object of that size."""
        with redirect_stdout(io.StringIO()):
            figures = super().compute_metrics(results)
        nothing = {f"{metric}_{figure}": 0.0 for metric in self.metrics for figure in self.FIGURES}
        return {**nothing, **figures}
