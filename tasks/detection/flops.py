"""A detector as one module of an image, so that the whole of it can be counted."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["WholeDetector"]

PROPOSALS, MASKS = 1000, 100  # what mmdet's tools/analysis_tools/get_flops.py runs the heads on, and so all papers


class WholeDetector(nn.Module):
    """A two-stage detector of mmdet on a fixed number of proposals, as mmdet counts it: the figures of papers.

    RoIAlign and the selection of proposals multiply no matrices and are left out: the heads get maps of the right
    shape, cut from the pyramid.

    Args:
        detector: Faster or Mask R-CNN.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, 3, H, W) to the heads' raw outputs."""
        maps = self.detector.extract_feat(image)
        out = [x for level in self.detector.rpn_head(maps) for x in level]
        heads = self.detector.roi_head
        out += heads.bbox_head(self._crops(maps, heads.bbox_roi_extractor, PROPOSALS * len(image)))
        if heads.with_mask:
            out.append(heads.mask_head(self._crops(maps, heads.mask_roi_extractor, MASKS * len(image))))
        return out

    @staticmethod
    def _crops(maps: tuple[torch.Tensor, ...], extractor: nn.Module, count: int) -> torch.Tensor:
        """(count, C, size, size), computed from the image."""
        return maps[0][:1, :, :1, :1].expand(count, -1, *extractor.roi_layers[0].output_size)
