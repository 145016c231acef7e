"""What stands behind a local convolution: ``convolution -> SiLU -> second mixer``, as in S6 behind the Gated CNN's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .attention import Attention, CausalAttention
from .causal_conv import CausalConv1d, CausalConv2d
from .gated_cnn import GatedCNN
from .global_conv import GlobalConv
from .linear_attention import CausalLinearAttention, LinearAttention
from .ncssd import NonCausalSSD
from .registry import register_mixer
from .scan import Scan


class Then(nn.Module):
    """Mixed in before a convolution's class, whose parameters keep their names; ``inner`` is the second mixer."""

    inner_class: type[nn.Module]

    def __init__(self, dim: int, **kwargs: Any) -> None:
        inner = dict(kwargs)
        kwargs.pop("grid", None)
        super().__init__(dim, **kwargs)
        self.inner = self.inner_class(dim, **inner)
        self.no_weight_decay = tuple(f"inner.{name}" for name in getattr(self.inner, "no_weight_decay", ()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(F.silu(super().forward(x)))


@register_mixer("placebo", control=True)
class Placebo(Then, GatedCNN):
    """A second 7×7 depthwise convolution where `S6` has its scan: what more depth alone is worth."""

    inner_class = GatedCNN


@register_mixer("conv_attn", control=True)
class ConvAttention(Then, GatedCNN):
    """Softmax attention behind the convolution, so that it is added as `S6` adds its scan."""

    kind = "attention"
    inner_class = Attention


@register_mixer("conv_linear", control=True)
class ConvLinearAttention(Then, GatedCNN):
    """Linear attention behind the convolution."""

    kind = "attention"
    inner_class = LinearAttention


@register_mixer("conv_ncssd", control=True)
class ConvNonCausalSSD(Then, GatedCNN):
    """Non-causal SSD behind the convolution."""

    kind = "scan"
    inner_class = NonCausalSSD


@register_mixer("conv_globalconv", control=True)
class ConvGlobalConv(Then, GatedCNN):
    """The global convolution behind the local one."""

    needs_grid = True
    inner_class = GlobalConv


@register_mixer("placebo_causal2d", control=True)
class CausalPlacebo2d(Then, CausalConv2d):
    """Two masked two-dimensional convolutions."""

    inner_class = CausalConv2d


@register_mixer("s6_causal2d", control=True)
class CausalS6On2d(Then, CausalConv2d):
    """One scan behind the masked two-dimensional convolution: `S6`, strictly causal."""

    kind = "scan"
    inner_class = Scan


@register_mixer("attn_causal2d", control=True)
class CausalAttentionOn2d(Then, CausalConv2d):
    """Causal attention behind the masked two-dimensional convolution."""

    kind = "attention"
    inner_class = CausalAttention


@register_mixer("linear_causal2d", control=True)
class CausalLinearOn2d(Then, CausalConv2d):
    """Causal linear attention behind the masked two-dimensional convolution."""

    kind = "attention"
    inner_class = CausalLinearAttention


@register_mixer("placebo_causal1d", control=True)
class CausalPlacebo1d(Then, CausalConv1d):
    """Two causal convolutions along the row-major sequence."""

    inner_class = CausalConv1d


@register_mixer("s6_causal1d", control=True)
class CausalS6On1d(Then, CausalConv1d):
    """One scan behind the causal convolution along the sequence, as in Mamba's own block."""

    kind = "scan"
    inner_class = Scan
