"""Token mixers: ``(B, H, W, D) -> (B, H, W, D)``. Importing this package registers all of them."""

from __future__ import annotations

from .after_conv import Placebo
from .attention import Attention, CausalAttention
from .causal_conv import CausalConv1d, CausalConv2d
from .gated_cnn import GatedCNN
from .global_conv import GlobalConv
from .identity import Identity
from .linear_attention import CausalLinearAttention, LinearAttention
from .ncssd import NonCausalSSD
from .pool import Pool
from .registry import list_mixers, mixer_class, register_mixer
from .s6 import S6, BiS6
from .scan import Scan
from .ss2d import SS2D
from .ssd import SSD

__all__ = [
    "S6",
    "SS2D",
    "SSD",
    "Attention",
    "BiS6",
    "CausalAttention",
    "CausalConv1d",
    "CausalConv2d",
    "CausalLinearAttention",
    "GatedCNN",
    "GlobalConv",
    "Identity",
    "LinearAttention",
    "NonCausalSSD",
    "Placebo",
    "Pool",
    "Scan",
    "list_mixers",
    "mixer_class",
    "register_mixer",
]
