"""What mmdet's Mask R-CNN needs for mixed precision on any device."""

from __future__ import annotations

from typing import Any

import torch

from ..extras import require_mm

require_mm()

from mmdet.models.dense_heads import RPNHead  # noqa: E402
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402

__all__ = ["FullPrecisionRPNHead", "FullPrecisionRoIExtractor"]


@MODELS.register_module()
class FullPrecisionRPNHead(RPNHead):
    """mmdet's RPN (arXiv 1506.01497) with float32 outputs under autocast: mmcv's NMS takes nothing else on CPUs."""

    def forward(self, x: tuple[torch.Tensor, ...]) -> tuple[list[torch.Tensor], ...]:
        """Maps (B, C, h, w) to the scores (B, A, h, w) and the boxes (B, 4A, h, w) of A anchors, each a list."""
        return tuple([level.float() for level in levels] for levels in super().forward(x))


@MODELS.register_module()
class FullPrecisionRoIExtractor(SingleRoIExtractor):
    """mmdet's RoI extractor (RoIAlign over a pyramid, arXiv 1703.06870 and 1612.03144) in float32 under autocast.

    mmdet's own casts the boxes to the maps' dtype: bfloat16 places a corner at pixel 1300 only to within 4, and mmcv
    has no RoIAlign in bfloat16 on CPUs.
    """

    def forward(self, feats: tuple[torch.Tensor, ...], rois: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Maps (B, C, h, w) and boxes (N, 5), image number and corners in pixels, to (N, C, size, size)."""
        with torch.autocast(rois.device.type, enabled=False):
            return super().forward(tuple(x.float().contiguous() for x in feats), rois.float(), *args, **kwargs)
