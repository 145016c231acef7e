"""Isotropic networks of gated blocks: one grid of tokens, one width, the token mixer swapped; for controlled questions.

``isotropic_{mixer}`` exists for every mixer of ``mixers/``, those made for experiments included. The block is
MambaOut's (arXiv 2405.07992, figure 1), without its stages: tokens are patches of the image, every network has the same
learned position embedding, and the head is applied to the mean of all tokens or (``global_pool=''``) to each of them.

Two things make networks comparable that differ in the mixer alone:

- Parameters. Mixers differ in size, so the branch that no mixer touches (``through``) is narrowed or widened until each
  block has as many parameters as one with the 7×7 convolution, to half a channel (`matched_through`). `GlobalConv`,
  whose kernel is as large as the map, is left out: its blocks keep the convolution's width.
- Initialisation. `init_by_name` draws each tensor from a generator seeded with the seed, the tensor's name and its
  shape, so that two networks of one seed agree in all tensors that they have in common.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, calculate_drop_path_rates, get_device_dtype, to_2tuple
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from .mambaout import EPS, GatedBlock, through_channels
from .mixers import list_mixers, mixer_class

__all__ = ["Isotropic", "init_by_name", "matched_through"]


class Isotropic(nn.Module):
    """Patches, position embedding, gated blocks, norm, head; features are maps (B, H, W, D).

    Args:
        mixer: name of the token mixer (`mixers.list_mixers(controls=True)`).
        img_size: (H, W) of the images, or one side, in pixels: the position embedding's, which others resample.
        patch_size: side of a token in pixels.
        in_chans: channels of the image.
        embed_dim: channels D.
        depth: blocks.
        num_classes: classes; 0 gives the features.
        global_pool: ``avg`` for one answer per image, ``''`` for one per token: (B, H, W, num_classes).
        drop_path_rate: stochastic depth, growing linearly from 0.

    Raises:
        ValueError: unknown mixer, an image smaller than a patch, or a mixer too large to be matched at this width.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        mixer: str = "gatedcnn",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 64,
        depth: int = 4,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans, self.num_classes, self.global_pool, self.patch_size = (
            in_chans,
            num_classes,
            global_pool,
            patch_size,
        )
        self.num_features = self.head_hidden_size = embed_dim
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": patch_size, "module": f"blocks.{i}"} for i in range(depth)
        ]
        self.grad_checkpointing = False
        height, width = (side // patch_size for side in to_2tuple(img_size))
        cls = mixer_class(mixer)
        grid = {"grid": (height, width)} if getattr(cls, "needs_grid", False) else {}
        through = matched_through(embed_dim, mixer)
        self.patch_embed = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size, **dd)
        self.pos_embed = nn.Parameter(torch.empty(1, height, width, embed_dim, **dd))
        self.blocks = nn.Sequential(
            *[
                GatedBlock(embed_dim, cls(embed_dim, **grid, **dd), rate, through=through, **dd)
                for rate in calculate_drop_path_rates(drop_path_rate, depth)
            ]
        )
        self.norm: nn.Module = LayerNorm(embed_dim, eps=EPS, **dd)
        self.head = nn.Linear(embed_dim, num_classes, **dd) if num_classes else nn.Identity()
        nn.init.normal_(self.pos_embed, std=POSITION_STD)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) -> tokens (B, H/p, W/p, D) with their positions; a remainder of pixels is cut off."""
        if min(x.shape[2:]) < self.patch_size:
            height, width = x.shape[2:]
            raise ValueError(f"images must be at least {self.patch_size} pixels a side, got {height}×{width}")
        x = self.patch_embed(x).permute(0, 2, 3, 1).contiguous()
        position = self.pos_embed
        if position.shape[1:3] != x.shape[1:3]:
            position = position.permute(0, 3, 1, 2).float()
            position = F.interpolate(position, x.shape[1:3], mode="bicubic", antialias=True)
            position = position.permute(0, 2, 3, 1).to(x.dtype)
        return x + position

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, H/p, W/p, D)``."""
        x = self.embed(x)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return self.norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, H, W, D) -> (B, num_classes)``, or (B, H, W, num_classes) without pooling."""
        if self.global_pool:
            x = x.mean((1, 2))
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the network and collects the outputs of blocks; arguments and result as timm's models have them.

        Raises:
            ValueError: ``output_fmt`` is neither ``NCHW`` nor ``NHWC``.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        take, last = feature_take_indices(len(self.blocks), indices)
        intermediates = []
        x = self.embed(x)
        for i, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = block(x)
            if i in take:
                y = self.norm(x) if norm else x
                intermediates.append(y.permute(0, 3, 1, 2) if output_fmt == "NCHW" else y)
        return intermediates if intermediates_only else (self.norm(x), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the blocks behind the last one asked for, with their norm and head; returns the indices kept."""
        take, last = feature_take_indices(len(self.blocks), indices)
        shortened = last < len(self.blocks) - 1
        self.blocks = self.blocks[: last + 1]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """The final linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        like = self.patch_embed
        head = nn.Linear(self.num_features, num_classes, **get_device_dtype(like)) if num_classes else nn.Identity()
        self.head = head.train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: the embedding, then each block."""
        return {"stem": r"^pos_embed|^patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        """The position embedding, and what each mixer asks for."""
        return {"pos_embed"} | {
            f"blocks.{i}.mixer.{name}"
            for i, block in enumerate(self.blocks)
            for name in getattr(block.mixer, "no_weight_decay", ())
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable


POSITION_STD = 0.02


@cache
def matched_through(dim: int, mixer: str) -> int:
    """Hidden channels that no mixer touches, so that a block has as many parameters as one with the 7×7 convolution.

    Raises:
        ValueError: the mixer alone has more parameters than that leaves.
    """
    cls = mixer_class(mixer)
    if getattr(cls, "needs_grid", False):
        return through_channels(dim)
    extra = _size(cls(dim, device="meta")) - _size(mixer_class("gatedcnn")(dim, device="meta"))
    through = through_channels(dim) - round(extra / (3 * dim + 2))  # two layers into a channel with bias, one out of it
    if through < 1:
        raise ValueError(
            f"isotropic network: mixer {mixer!r} is too large to be matched in parameters at {dim} channels"
        )
    return through


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def init_by_name(model: nn.Module, seed: int) -> None:
    """Draws every parameter anew, in float32, from a generator seeded with (seed, name, shape) alone.

    Matrices and kernels are normal with standard deviation fan_in^-1/2, biases zero, norms one; what is particular to a
    state-space model is drawn as Mamba and Mamba-2 draw it, from the same kind of generator.

    Raises:
        ValueError: no rule for a parameter.
    """
    for name, parameter in model.named_parameters():
        key = hashlib.sha256(f"{seed} {name} {tuple(parameter.shape)}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little"))
        parameter.copy_(_drawn(name, parameter.shape, generator))


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    leaf = name.rpartition(".")[2]
    if leaf == "pos_embed":
        return POSITION_STD * torch.randn(shape, generator=generator)
    if leaf == "bias":
        return torch.zeros(shape)
    if leaf == "D" or (leaf == "weight" and len(shape) == 1):  # skips and norms
        return torch.ones(shape)
    if leaf == "weight":
        return torch.randn(shape, generator=generator) * math.prod(shape[1:]) ** -0.5
    if leaf in ("x_proj_weight", "dt_proj_weight"):  # (K, out, in)
        return (2 * torch.rand(shape, generator=generator) - 1) * shape[-1] ** -0.5
    if leaf == "dt_bias":  # softplus⁻¹ of steps log-uniform in [1e-3, 1e-1]
        step = (math.log(1e-3) + math.log(1e2) * torch.rand(shape, generator=generator)).exp()
        return step + torch.log(-torch.expm1(-step))
    if leaf == "A_log" and len(shape) == 3:  # S6: -A = 1…N
        return torch.arange(1, shape[-1] + 1).log().expand(shape)
    if leaf == "A_log":  # one decay per head: uniform in [1, 16]
        return (1 + 15 * torch.rand(shape, generator=generator)).log()
    raise ValueError(f"init_by_name: no rule for the parameter {name} {tuple(shape)}")


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """There is one layout: keys pass unchanged."""
    return state_dict


def _cfg() -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (14, 14),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed",
        "classifier": "head",
        "paper_ids": "arXiv:2405.07992",
        "paper_name": "MambaOut: Do We Really Need Mamba for Vision?",
    }


default_cfgs = generate_default_cfgs({f"isotropic_{mixer}": _cfg() for mixer in list_mixers(controls=True)})


def _entrypoint(mixer: str) -> Callable[..., nn.Module]:
    name = f"isotropic_{mixer}"

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            Isotropic,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
            **{"mixer": mixer, **kwargs},
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Isotropic network with the token mixer ``{mixer}`` (`mixers.{mixer_class(mixer).__name__}`)."
    return create


for _mixer in list_mixers(controls=True):
    globals()[f"isotropic_{_mixer}"] = register_model(_entrypoint(_mixer))
