"""Token mixers: ``(B, H, W, D) -> (B, H, W, D)``. Importing this package registers all of them."""

from __future__ import annotations

from .attention import Attention, CausalAttention
from .gated_cnn import GatedCNN
from .identity import Identity
from .pool import Pool
from .registry import list_mixers, mixer_class, register_mixer

__all__ = [
    "Attention",
    "CausalAttention",
    "GatedCNN",
    "Identity",
    "Pool",
    "list_mixers",
    "mixer_class",
    "register_mixer",
]
