"""What `mixerzoo analyze --config` counts of a segmentor: backbone, neck and decode head, as the papers' tables do."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

__all__ = ["SIZE", "network_for_counting"]

SIZE = (512, 2048)  # rows and columns at which UperNet's tables count, since Swin (arXiv 2103.14030, table 3)


def network_for_counting(cfg: Config, size: tuple[int, int] = SIZE) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The config's segmentor on the meta device, and an input.

    Its forward pass gives the logits of the decode head, before they are enlarged to the image. The auxiliary head is
    among its parameters but not in the pass: it works in training only. Papers count the same way (mmseg's
    ``tools/analysis_tools/get_flops.py``).

    Args:
        cfg: of `engine.load_config`.
        size: rows and columns of the image.
    """
    init_default_scope(cfg.get("default_scope", "mmseg"))
    model = cfg.model.to_dict()
    model["backbone"].update(pretrained=False, checkpoint=None, init_cfg=None)
    with torch.device("meta"):
        network = MODELS.build(model).eval()
        image = torch.zeros(1, 3, *size)  # (1, 3, H, W)
    return network, (image,)
