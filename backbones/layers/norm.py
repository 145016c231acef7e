"""Norms over activations that are kept in a higher precision than the network's weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models import register_notrace_module
from torch import nn

from ..ops.common import upcast


@register_notrace_module
class StateLayerNorm(LayerNorm):
    """LayerNorm in the wider dtype of input and weight: sums of scans come in float32 where float16 would overflow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, self.weight.to(dtype), self.bias.to(dtype), self.eps)


@register_notrace_module
class RMSNorm(nn.Module):
    """Root-mean-square norm of a residual, in float32 (float64 for float64); returns the dtype of its weight."""

    def __init__(self, dim: int, eps: float = 1e-5, **dd: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, **dd))
        self.eps = eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(upcast(x), self.weight.shape, upcast(self.weight), self.eps).to(self.weight.dtype)
