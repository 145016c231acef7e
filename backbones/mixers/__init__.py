"""Token mixers: ``(B, H, W, D) -> (B, H, W, D)``. Importing this package registers all of them."""

from __future__ import annotations

from .attention import Attention, CausalAttention
from .gated_cnn import GatedCNN
from .identity import Identity
from .mila import MILA
from .pool import Pool
from .ravlt import RALA
from .registry import list_mixers, mixer_class, register_mixer
from .s6 import S6, BiS6
from .spatial import SpatialSSM
from .ss2d import SS2D
from .ssd import SSD

__all__ = [
    "MILA",
    "RALA",
    "S6",
    "SS2D",
    "SSD",
    "Attention",
    "BiS6",
    "CausalAttention",
    "GatedCNN",
    "Identity",
    "Pool",
    "SpatialSSM",
    "list_mixers",
    "mixer_class",
    "register_mixer",
]
