"""No token mixing at all: the floor of the comparison (IdentityFormer, arXiv 2210.13452, section 2)."""

from __future__ import annotations

import torch
from torch import nn

from .registry import register_mixer


@register_mixer("identity")
class Identity(nn.Identity):
    """Returns its input; tokens meet only in the stem and the down-sampling convolutions."""

    kind = "identity"
    causal = False

    def __init__(self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
