"""ViT with causal instead of fully visible attention: the ablation of MambaOut (arXiv 2405.07992, figure 3b).

The network is timm's `VisionTransformer` (An Image is Worth 16x16 Words, arXiv 2010.11929) and takes the weights of any
ordinary ViT or DeiT of its shape. Only the mask differs.

Patches are in row-major order, and patch t sees patches 1…t. The class token is read out at the end, so it must see
every patch, or the comparison would be about what it misses: it attends to all tokens, as if it stood at the end of the
sequence. No patch attends to it, because through it a later layer would see the patches behind.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import Attention
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, register_notrace_module
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from .checkpoints import WeightFile, load_weights, through_our_reader

__all__ = ["CausalVisionTransformer"]


@register_notrace_module  # torch.fx would see a proxy for the mask that is not there
class CausalAttention(Attention):
    """Self-attention in which patches see the patches up to themselves, and prefix tokens see everything.

    Maps ``(B, t + L, D)``, t prefix tokens in front, to the same. The prefix goes behind the patches for the time of
    the attention: there, the mask is the plain causal one, for which fused kernels exist.
    """

    causal = True
    num_prefix_tokens = 1

    def forward(
        self,
        x: torch.Tensor,
        attn_mask: Optional[torch.Tensor] = None,  # noqa: UP045  (TorchScript)
        is_causal: bool = True,
    ) -> torch.Tensor:
        if attn_mask is not None:
            raise ValueError("CausalAttention has its own mask and takes no attn_mask")
        B, N, _ = x.shape
        x = x.roll(-self.num_prefix_tokens, 1)
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # each (B, heads, N, head_dim)
        dropout = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, dropout_p=dropout, is_causal=True)
        y = y.transpose(1, 2).reshape(B, N, self.attn_dim).roll(self.num_prefix_tokens, 1)
        return self.proj_drop(self.proj(self.norm(y)))


class CausalVisionTransformer(VisionTransformer):
    """timm's ViT with `CausalAttention` in every block; same arguments, same parameters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, attn_layer=CausalAttention, **kwargs)
        for block in self.blocks:
            block.attn.num_prefix_tokens = self.num_prefix_tokens

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str | WeightFile) -> None:
        """Loads a file of an ordinary ViT or DeiT, or one of ours (`checkpoints.load_weights`)."""
        load_weights(self, checkpoint_path, checkpoint_filter_fn)


def _cfg() -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": IMAGENET_INCEPTION_MEAN,
        "std": IMAGENET_INCEPTION_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2405.07992",
        "paper_name": "MambaOut: Do We Really Need Mamba for Vision?",
    }


_SIZES = {
    "tiny": {"embed_dim": 192, "num_heads": 3},
    "small": {"embed_dim": 384, "num_heads": 6},
    "base": {"embed_dim": 768, "num_heads": 12},
}

default_cfgs = generate_default_cfgs({f"vit_{size}_patch16_224_causal": _cfg() for size in _SIZES})


def _create_vit(size: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        CausalVisionTransformer,
        f"vit_{size}_patch16_224_causal",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **{"patch_size": 16, **_SIZES[size], **through_our_reader(kwargs)},
    )


@register_model
def vit_tiny_patch16_224_causal(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-Ti/16, causal; weights of ``vit_tiny_patch16_224`` or ``deit_tiny_patch16_224`` fit."""
    return _create_vit("tiny", pretrained, **kwargs)


@register_model
def vit_small_patch16_224_causal(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-S/16, causal; weights of ``vit_small_patch16_224`` or ``deit_small_patch16_224`` fit."""
    return _create_vit("small", pretrained, **kwargs)


@register_model
def vit_base_patch16_224_causal(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-B/16, causal; weights of ``vit_base_patch16_224`` or ``deit_base_patch16_224`` fit."""
    return _create_vit("base", pretrained, **kwargs)
