"""Vision Mamba (Vim): bidirectional Mamba blocks on a sequence of patches with the class token in its middle.

Paper: "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
arXiv 2401.09417. Official code: hustvl/Vim (Apache-2.0). These are exactly the released models
(``bimambav2 … midclstok_div2``): two directions with their own convolution and SSM, averaged before the output
projection.

The official model flips the sequence for the second direction and flips its output back. Here both directions are scan
routes over the same memory, and their convolutions reach left and right; nothing is flipped.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, calculate_drop_path_rates, lecun_normal_, resample_abs_pos_embed, trunc_normal_
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    generate_default_cfgs,
    register_model,
    register_notrace_function,
    register_notrace_module,
)
from timm.models._features import feature_take_indices
from torch import nn

from .checkpoints import WeightFile, load_weights, through_our_reader, unwrap
from .layers import RMSNorm, SelectiveSSM, reset_parameters
from .ops.common import upcast
from .ops.cross_scan import VIM_ROUTES

__all__ = ["VisionMamba"]

_log = logging.getLogger("mixerzoo")


class DepthwiseConv1d(nn.Conv1d):
    """Convolution of each channel over the tokens, padded on both sides, ``(B, E, L) -> (B, E, L + taps - 1)``.

    The first L outputs see no token behind their own, the last L none before. The official second direction flips the
    sequence, convolves and flips back; with ``flipped`` taps the last L outputs are the same.
    """

    def __init__(self, dim: int, taps: int, flipped: bool = False, **dd: Any) -> None:
        super().__init__(dim, dim, taps, groups=dim, padding=taps - 1, **dd)
        self.flipped = flipped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight.flip(-1) if self.flipped else self.weight).unsqueeze(2)  # (E, 1, 1, taps)
        image = x.unsqueeze(2)  # (B, E, 1, L): channels_last in memory if the channels of x are contiguous
        return F.conv2d(image, weight, self.bias, padding=(0, *self.padding), groups=self.groups).squeeze(2)


class BidirectionalMamba(nn.Module):
    """The Vim mixer, ``(B, L, D) -> (B, L, D)`` (paper algorithm 1).

    Args:
        dim: channels D; the inner width E is twice as wide.
        d_state: states N per inner channel.
        d_conv: taps of the causal depthwise convolution.
        backend: of the scan (`ops.selective_scan.selective_scan_2d`).
    """

    def __init__(self, dim: int, d_state: int = 16, d_conv: int = 4, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        inner = 2 * dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False, **dd)
        self.conv1d = DepthwiseConv1d(inner, d_conv, **dd)
        self.conv1d_b = DepthwiseConv1d(inner, d_conv, flipped=True, **dd)
        self.ssm = SelectiveSSM(inner, VIM_ROUTES, d_state, math.ceil(dim / 16), backend, **dd)
        self.out_proj = nn.Linear(inner, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (B, L, E) each
        x = x.transpose(1, 2)  # (B, E, L), channels contiguous
        L = x.shape[2]
        directions = (self.conv1d(x)[..., :L], self.conv1d_b(x)[..., -L:])  # (B, E, L) each
        u = F.silu(torch.stack([d.transpose(1, 2) for d in directions], dim=2))  # (B, L, K, E)
        y = self.ssm(u.unsqueeze(1), z.unsqueeze(1)).squeeze(1)  # sum of both directions, gated by silu(z)
        return self.out_proj((y / 2).to(dtype))  # halved first: the sum may be too large for float16


class Block(nn.Module):
    """Pre-norm residual block on a residual in float32 (float64 for float64), ``(B, L, D) -> (B, L, D)``."""

    def __init__(self, dim: int, drop_path: float, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, **dd)
        self.mixer = BidirectionalMamba(dim, backend=backend, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        return residual + self.drop_path(self.mixer(self.norm(residual)))


@register_notrace_module
class PatchEmbed(nn.Module):
    """Convolution over patches, ``(B, C, H, W) -> (B, h, w, D)``; a stride below the patch size makes them overlap.

    Raises:
        ValueError: images smaller than a patch.
    """

    def __init__(self, patch_size: int, stride: int, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.patch_size, self.stride = patch_size, stride
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=stride, **dd)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches per column and row of an image."""
        if min(height, width) < self.patch_size:
            raise ValueError(f"images must be at least {self.patch_size} pixels a side, got {height}×{width}")
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.grid(x.shape[-2], x.shape[-1])
        return self.proj(x).permute(0, 2, 3, 1)


def middle(tokens: torch.Tensor) -> int:
    """Where the class token stands among M + 1 tokens (B, M + 1, D): behind the first half of the M patches."""
    return (tokens.shape[1] - 1) // 2


def without_class_token(tokens: torch.Tensor) -> torch.Tensor:
    """``(B, M + 1, D) -> (B, M, D)``."""
    at = middle(tokens)
    return torch.cat((tokens[:, :at], tokens[:, at + 1 :]), dim=1)


@register_notrace_function
def add_positions(
    patches: torch.Tensor, cls_token: torch.Tensor, pos_embed: torch.Tensor, grid_size: tuple[int, int]
) -> torch.Tensor:
    """Patches (B, h, w, D) to tokens (B, M + 1, D) in at least float32, the class token before the middle patch.

    Args:
        patches: patches without position.
        cls_token: (1, 1, D).
        pos_embed: (1, M' + 1, D), resampled if ``patches`` has another grid.
        grid_size: the grid of M' patches that ``pos_embed`` is made for.
    """
    grid, x = patches.shape[1:3], patches.flatten(1, 2)  # (B, M, D)
    at, pos = middle(pos_embed), without_class_token(pos_embed)
    if tuple(grid) != tuple(grid_size):
        pos = resample_abs_pos_embed(pos, list(grid), list(grid_size), num_prefix_tokens=0)
    x = upcast(x + pos)
    cls = upcast(cls_token + pos_embed[:, at : at + 1]).expand(x.shape[0], -1, -1)
    half = x.shape[1] // 2
    return torch.cat((x[:, :half], cls, x[:, half:]), dim=1)


class VisionMamba(nn.Module):
    """Vim.

    Args:
        img_size: side(s) in pixels of the images that the position embedding is made for; others are resampled.
        patch_size: side of a patch in pixels.
        stride: pixels between patches.
        embed_dim: channels D.
        depth: blocks.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``token`` (the class token), ``avg`` (mean of the patches) or ``''`` (all tokens).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).

    Raises:
        ValueError: unknown ``global_pool``, or images smaller than a patch.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int = 16,
        embed_dim: int = 192,
        depth: int = 24,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 0  # the class token stands in the middle, not in front
        self.patch_size, self.stride = patch_size, stride
        self.grad_checkpointing = False
        self._set_pool(global_pool)
        self.patch_embed = PatchEmbed(patch_size, stride, in_chans, embed_dim, **dd)
        self.grid_size = self.patch_embed.grid(*((img_size, img_size) if isinstance(img_size, int) else img_size))
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim, **dd))
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.grid_size) + 1, embed_dim, **dd))
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        self.layers = nn.Sequential(*[Block(embed_dim, rate, backend, **dd) for rate in rates])
        self.feature_info = [{"num_chs": embed_dim, "reduction": stride, "module": f"layers.{i}"} for i in range(depth)]
        self.norm_f = RMSNorm(embed_dim, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes, **dd) if num_classes else nn.Identity()
        self._init_official()

    def init_weights(self) -> None:
        """Initialises every parameter, as the constructor does; for a network whose memory came from ``to_empty``."""
        reset_parameters(self)
        self._init_official()

    @torch.no_grad()
    def _init_official(self) -> None:
        """The official initialisation, with its zero bias of the second direction's steps."""
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        lecun_normal_(self.patch_embed.proj.weight)
        nn.init.zeros_(self.patch_embed.proj.bias)
        for block in self.layers:
            nn.init.kaiming_uniform_(block.mixer.out_proj.weight, a=math.sqrt(5))
            block.mixer.out_proj.weight.div_(math.sqrt(len(self.layers)))
            block.mixer.ssm.dt_bias[1].zero_()
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def _set_pool(self, global_pool: str) -> None:
        if global_pool not in ("token", "avg", ""):
            raise ValueError(f"global_pool must be 'token', 'avg' or '', got {global_pool!r}")
        self.global_pool = global_pool

    def load_pretrained(self, checkpoint_path: str | WeightFile) -> None:
        """Loads an official file or one of ours, executing nothing in it (`checkpoints.load_weights`)."""
        load_weights(self, checkpoint_path, checkpoint_filter_fn)

    def no_weight_decay(self) -> set[str]:
        """Names and patterns of parameters exempt from weight decay."""
        return {"pos_embed", "cls_token", *(f"*.mixer.ssm.{name}" for name in SelectiveSSM.no_weight_decay)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: embeddings, each block, final norm with the head."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": r"^layers\.(\d+)" if not coarse else [(r"^layers\.", (0,)), (r"^norm_f", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The final linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it."""
        self.num_classes = num_classes
        if global_pool is not None:
            self._set_pool(global_pool)
        weight = self.pos_embed
        self.head = (
            nn.Linear(self.embed_dim, num_classes, device=weight.device, dtype=weight.dtype)
            if num_classes
            else nn.Identity()
        ).train(self.training)

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) to tokens (B, M + 1, D) in at least float32, the class token before the middle patch."""
        return add_positions(self.patch_embed(x), self.cls_token, self.pos_embed, self.grid_size)

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
        """Runs the network and collects the outputs of blocks, without the class token.

        Args:
            x: images (B, C, H, W).
            indices: the last n blocks if an integer, all if ``None``, else those listed.
            norm: apply the final norm to them.
            stop_early: stop after the last block asked for.
            output_fmt: ``NCHW`` maps (B, D, h, w) or ``NLC`` tokens (B, M, D).
            intermediates_only: leave out the final features.
            return_prefix_tokens: pair each map with its class token (B, 1, D).

        Returns:
            ``(features, intermediates)``, all in the dtype of the network's parameters.

        Raises:
            ValueError: unknown ``output_fmt``.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be NCHW or NLC, got {output_fmt!r}")
        take, last = feature_take_indices(len(self.layers), indices)
        grid, dtype = self.patch_embed.grid(x.shape[-2], x.shape[-1]), self.pos_embed.dtype
        x = self._embed(x)
        intermediates = []
        for i, block in enumerate(self.layers[: last + 1] if stop_early else self.layers):
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
            if i in take:
                tokens = (self.norm_f(x) if norm else x).to(dtype)
                patches = without_class_token(tokens)
                if output_fmt == "NCHW":
                    patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)
                at = middle(tokens)
                intermediates.append((patches, tokens[:, at : at + 1]) if return_prefix_tokens else patches)
        return intermediates if intermediates_only else (self.norm_f(x).to(dtype), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the blocks behind the last one asked for, and on request the final norm and the head."""
        take, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm_f = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, M + 1, D)``: all tokens after the final norm, the class token in the middle."""
        x = self._embed(x)
        for block in self.layers:
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
        return self.norm_f(x).to(self.pos_embed.dtype)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, M + 1, D) -> (B, num_classes)``."""
        if self.global_pool == "token":
            x = x[:, middle(x)]
        elif self.global_pool == "avg":
            x = without_class_token(x).mean(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


_STACKED = {  # our tensor: the official keys of the two directions
    "ssm.x_proj_weight": ("x_proj.weight", "x_proj_b.weight"),
    "ssm.dt_proj_weight": ("dt_proj.weight", "dt_proj_b.weight"),
    "ssm.dt_bias": ("dt_proj.bias", "dt_proj_b.bias"),
    "ssm.A_log": ("A_log", "A_b_log"),
    "ssm.D": ("D", "D_b"),
}


def checkpoint_filter_fn(state_dict: dict[str, Any], model: VisionMamba) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout (both directions stacked); ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`checkpoints.unwrap`).
        model: the network to load into; position embeddings of another grid are resampled for it.

    Raises:
        ValueError: the keys are not those of a Vim checkpoint.
    """
    state_dict = unwrap(state_dict)
    if "patch_embed.proj.weight" not in state_dict or not any(".mixer." in key for key in state_dict):
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            "not a Vim checkpoint: expected keys such as 'patch_embed.proj.weight' and 'layers.0.mixer.A_log', "
            f"found {some}"
        )
    out = dict(state_dict)
    for key in state_dict:
        if not key.endswith(".mixer.A_log"):
            continue
        mixer = key.removesuffix("A_log")
        for ours, official in _STACKED.items():
            if all(mixer + name in out for name in official):
                out[mixer + ours] = torch.stack([out.pop(mixer + name) for name in official])
    if "pos_embed" in out:
        out["pos_embed"] = _fit_positions(out["pos_embed"], model)
    return out


def _fit_positions(pos: torch.Tensor, model: VisionMamba) -> torch.Tensor:
    """Position embeddings (1, M + 1, D) resampled for the model's grid, the class token in the middle."""
    if pos.ndim != 3 or pos.shape[2] != model.embed_dim:
        return pos  # the strict load names it
    grid = _trained_grid(pos.shape[1] - 1, model)
    if grid == model.grid_size:
        return pos
    at = middle(pos)
    patches = without_class_token(pos)
    patches = resample_abs_pos_embed(patches, list(model.grid_size), list(grid), num_prefix_tokens=0)
    half = patches.shape[1] // 2
    return torch.cat((patches[:, :half], pos[:, at : at + 1], patches[:, half:]), dim=1)


def _trained_grid(count: int, model: VisionMamba) -> tuple[int, int]:
    """The grid of ``count`` positions in a file: that of the ``input_size`` which its ``pretrained_cfg`` says it was
    trained with, else the model's own, a square, or one of the model's shape.

    Raises:
        ValueError: none of these, or several.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    said = model.patch_embed.grid(*cfg["input_size"][1:]) if cfg.get("input_size") else None
    target = model.grid_size
    if said is not None and math.prod(said) == count:
        if count == math.prod(target) and said != target:
            _log.warning(
                "position embeddings: %d×%d, resampled to %d×%d; if the file was trained on images of another shape, "
                "say so: pretrained_cfg_overlay=dict(input_size=(3, H, W))", *said, *target
            )  # fmt: skip
        return said
    if count == math.prod(target):
        return target
    side, scale = math.isqrt(count), math.sqrt(count / math.prod(target))
    scaled = round(target[0] * scale), round(target[1] * scale)
    same_shape = scaled[0] * target[1] == scaled[1] * target[0]
    shapes = {
        shape for shape, fits in (((side, side), True), (scaled, same_shape)) if fits and math.prod(shape) == count
    }
    if len(shapes) != 1:
        raise ValueError(
            f"{count} position embeddings: images of which shape were they trained on? Say so: "
            "pretrained_cfg_overlay=dict(input_size=(3, H, W))"
        )
    return shapes.pop()


def _cfg(hub_id: str, filename: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "hf_hub_id": hub_id,
        "hf_hub_filename": filename,
        "custom_load": "hf",  # the files pickle an argparse.Namespace: `VisionMamba.load_pretrained` reads them safely
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2401.09417",
        "paper_name": "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
        "origin_url": "https://github.com/hustvl/Vim",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "vim_tiny_patch16_224.midclstok_in1k": _cfg("hustvl/Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth"),
        "vim_small_patch16_224.midclstok_in1k": _cfg("hustvl/Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth"),
        "vim_base_patch16_224.midclstok_in1k": _cfg("hustvl/Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth"),
        "vim_tiny_patch16_stride8_224.midclstok_ft_in1k": _cfg(
            "hustvl/Vim-tiny-midclstok", "vim_t_midclstok_ft_78p3acc.pth"
        ),
        "vim_small_patch16_stride8_224.midclstok_ft_in1k": _cfg(
            "hustvl/Vim-small-midclstok", "vim_s_midclstok_ft_81p6acc.pth"
        ),
    }
)


def _create_vim(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        VisionMamba,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **through_our_reader(kwargs),
    )


@register_model
def vim_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Vim-Ti, 7.1 M parameters."""
    return _create_vim("vim_tiny_patch16_224", pretrained, **{"embed_dim": 192, **kwargs})


@register_model
def vim_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Vim-S, 25.8 M parameters."""
    return _create_vim("vim_small_patch16_224", pretrained, **{"embed_dim": 384, **kwargs})


@register_model
def vim_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Vim-B, 97.6 M parameters."""
    return _create_vim("vim_base_patch16_224", pretrained, **{"embed_dim": 768, **kwargs})


@register_model
def vim_tiny_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Vim-Ti fine-tuned on overlapping patches (stride 8, 730 tokens)."""
    return _create_vim("vim_tiny_patch16_stride8_224", pretrained, **{"embed_dim": 192, "stride": 8, **kwargs})


@register_model
def vim_small_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Vim-S fine-tuned on overlapping patches (stride 8, 730 tokens)."""
    return _create_vim("vim_small_patch16_stride8_224", pretrained, **{"embed_dim": 384, "stride": 8, **kwargs})
