"""What networks of one width share: layers on a sequence of patches, and timm's contract."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import get_device_dtype, resample_abs_pos_embed
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import nn


class IsotropicBackbone(nn.Module):
    """Patch embedding, layers on tokens (B, L, D), a final norm and a linear classifier; the methods timm asks for.

    A family sets ``layers`` (an `nn.ModuleList`), ``norm``, ``head`` and the attributes of `set_dims`, defines `embed`,
    `no_weight_decay`, and `split` if it has a class token.
    """

    pools = ("avg", "")

    def set_dims(
        self, dim: int, depth: int, stride: int, in_chans: int, num_classes: int, pool: str, drop_rate: float
    ) -> None:
        """Fills in what timm reads from a model: classes, channels, and one feature map per layer."""
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = dim
        self.num_prefix_tokens = 0
        self.feature_info = [{"num_chs": dim, "reduction": stride, "module": f"layers.{i}"} for i in range(depth)]
        self.grad_checkpointing = False
        self.head_drop = nn.Dropout(drop_rate)
        self._set_pool(pool)

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
        """Images (B, C, H, W) to tokens (B, L, D), and the layers' other arguments, the grid (h, w) first."""
        raise NotImplementedError

    def split(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (B, h·w, D) and the class token (B, 1, D), or (B, 0, D) where there is none."""
        return tokens, tokens[:, :0]

    def _set_pool(self, global_pool: str) -> None:
        if global_pool not in self.pools:
            raise ValueError(f"global_pool must be one of {', '.join(map(repr, self.pools))}, got {global_pool!r}")
        self.global_pool = global_pool

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: embeddings, each layer, final norm with the head."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": r"^layers\.(\d+)" if not coarse else [(r"^layers\.", (0,)), (r"^norm", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each layer in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The final linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it."""
        self.num_classes = num_classes
        if global_pool is not None:
            self._set_pool(global_pool)
        self.head = make_head(self.embed_dim, num_classes, **get_device_dtype(self)).train(self.training)

    def _call(self, layer: nn.Module, x: torch.Tensor, context: tuple[Any, ...]) -> torch.Tensor:
        return checkpoint(layer, x, *context) if self.grad_checkpointing else layer(x, *context)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        return_prefix_tokens: bool = False,
    ) -> Any:
        """Runs the network and collects the outputs of layers, without the class token.

        Args:
            x: images (B, C, H, W).
            indices: the last n layers if an integer, all if ``None``, else those listed.
            norm: apply the final norm to them.
            stop_early: stop after the last layer asked for.
            output_fmt: ``NCHW`` maps (B, D, h, w) or ``NLC`` tokens (B, h·w, D).
            intermediates_only: leave out the final features.
            return_prefix_tokens: pair each map with its class token (`split`).

        Raises:
            ValueError: unknown ``output_fmt``.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be NCHW or NLC, got {output_fmt!r}")
        take, last = feature_take_indices(len(self.layers), indices)
        x, context = self.embed(x)
        intermediates = []
        for i, layer in enumerate(self.layers[: last + 1] if stop_early else self.layers):
            x = self._call(layer, x, context)
            if i in take:
                patches, token = self.split(self.norm(x) if norm else x)
                if output_fmt == "NCHW":
                    patches = patches.unflatten(1, context[0]).permute(0, 3, 1, 2)
                intermediates.append((patches, token) if return_prefix_tokens else patches)
        return intermediates if intermediates_only else (self.norm(x), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the layers behind the last one asked for, and on request the final norm and the head."""
        take, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, L, D)``: all tokens after the final norm."""
        x, context = self.embed(x)
        for layer in self.layers:
            x = self._call(layer, x, context)
        return self.norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, L, D) -> (B, num_classes)``."""
        if self.global_pool:
            patches, token = self.split(x)
            x = patches.mean(1) if self.global_pool == "avg" else token.squeeze(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def make_head(dim: int, num_classes: int, **dd: Any) -> nn.Module:
    """The linear classifier; none for 0 classes."""
    return nn.Linear(dim, num_classes, **dd) if num_classes else nn.Identity()


def resize_map(tokens: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Resizes a table of positions (1, h·w, D) bicubically; the official models do so without antialiasing."""
    return resample_abs_pos_embed(tokens, list(new), list(old), num_prefix_tokens=0, antialias=False)
