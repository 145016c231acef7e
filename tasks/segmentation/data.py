"""Data sets of segmentation whose augmentation follows from seed and place alone (see `engine.sampling`)."""

from __future__ import annotations

from typing import Any

from ..engine.sampling import SeededItems
from ..extras import require_mm
from ..synthetic.composed import ADE_CLASSES

require_mm()

from mmseg.datasets import ADE20KDataset, BaseSegDataset  # noqa: E402
from mmseg.registry import DATASETS  # noqa: E402

from .. import loading  # noqa: E402, F401  (registers the one loader of pictures)

__all__ = ["ComposedSegmentation", "SeededADE20K"]

# Background grey, then matplotlib's tab10 without its grey, and black for the last.
PALETTE = [
    [127, 127, 127], [31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75],
    [227, 119, 194], [188, 189, 34], [23, 190, 207], [0, 0, 0],
]  # fmt: skip


@DATASETS.register_module()
class SeededADE20K(SeededItems, ADE20KDataset):
    """ADE20K (Zhou et al., CVPR 2017): 20,210 training and 2,000 validation images, 150 classes, label 0 ignored."""


@DATASETS.register_module()
class ComposedSegmentation(SeededItems, BaseSegDataset):
    """What `synthetic.composed` wrote in ADE20K's layout: background and ten items, label 0 ignored.

    Args:
        **kwargs: of `mmseg.datasets.BaseSegDataset`.
    """

    METAINFO = {"classes": ADE_CLASSES, "palette": PALETTE}  # noqa: RUF012  (mmengine's name for it)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"reduce_zero_label": True, **kwargs})
