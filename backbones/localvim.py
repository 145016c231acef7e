"""LocalVim: Vision Mamba whose layers scan in four directions, local windows among them.

Paper: "LocalMamba: Visual State Space Model with Windowed Selective Scan", arXiv 2403.09338. Official code:
hunto/LocalMamba (Apache-2.0). Each layer has four directions of its own, found by a search; each direction has its own
convolution and SSM, and its output passes a channel gate that the four share. Positions are learned and, without a
class token, rotated into the residual before each layer.

A map that does not divide into windows is padded with zeros before the convolution, so that padding is a step of the
scan; it is dropped afterwards. The official code defines LocalVim-S twice; the second definition, which counts, has the
same four directions in all layers. Which of the two the released weights want is not known.

The official code keeps the four ``A_log`` of a layer in one storage: loaded on a CPU, all four become the last one.
Here they are apart, as on a GPU.

The published 1.5 and 4.8 GMACs count 5·E·N instead of 9·E·N for a step of a scan, and the convolution and projections
of one direction instead of four (hunto/LocalMamba#36). Counted alike, ours are the same; counted in full, 2.2 and 6.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, apply_rot_embed, calculate_drop_path_rates, lecun_normal_, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ._checkpoint import load_official, read_files_safely, unwrap
from ._isotropic import IsotropicBackbone, make_head, resize_map
from .localvmamba import direction_lists
from .mixers.local import ChannelGate
from .ops.cross_scan import Route
from .ops.scan_orders import scan_order
from .ops.selective_scan import selective_scan_2d
from .vim import PatchEmbed, RMSNorm

__all__ = ["LocalVim"]

Grid = tuple[int, int]
Rotation = tuple[torch.Tensor, torch.Tensor]
SPAN = 14  # positions run from 0 to 14 over a map of any size


class CausalConv1d(nn.Conv1d):
    """Depthwise convolution that sees the past alone, ``(B, L, E) -> (B, L, E)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.transpose(1, 2).unsqueeze(2)  # (B, E, 1, L), channels_last in memory: not copied
        past = self.kernel_size[0] - 1
        y = F.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=(0, past), groups=self.groups)
        return y[..., : x.shape[1]].squeeze(2).transpose(1, 2)


class DirectionalSSM(nn.Module):
    """Convolution, SiLU and selective scan of one direction, ``(B, L, E) -> (B, L, E)``.

    Args:
        dim: inner width E.
        d_state: states N per channel.
        d_conv: taps of the causal depthwise convolution.
        dt_rank: rank R of the step's projection.
        backend: of the scan (`ops.selective_scan.selective_scan_2d`).
    """

    no_weight_decay = ("A_log", "D")

    def __init__(self, dim: int, d_state: int, d_conv: int, dt_rank: int, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        self.split, self.backend = [dt_rank, d_state, d_state], backend
        self.conv1d = CausalConv1d(dim, dim, d_conv, groups=dim, **dd)
        self.x_proj = nn.Linear(dim, sum(self.split), bias=False, **dd)
        self.dt_proj = nn.Linear(dt_rank, dim, **dd)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, **dd).log().repeat(dim, 1))
        self.D = nn.Parameter(torch.ones(dim, **dd))
        self.reset_steps()

    @torch.no_grad()
    def reset_steps(self) -> None:
        """Mamba's initialisation: steps log-uniform in [1e-3, 1e-1] at a zero input."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_proj.in_features**-0.5), self.dt_proj.in_features**-0.5)
        step = self.dt_proj.bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_()
        step.add_(torch.log(-torch.expm1(-step)))  # softplus⁻¹

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.silu(self.conv1d(x))
        dt, B, C = self.x_proj(u).unsqueeze(1).unsqueeze(3).split(self.split, dim=-1)  # (B, 1, L, 1, ·)
        y = selective_scan_2d(
            u.unsqueeze(1),
            self.dt_proj(dt),
            -self.A_log.float().exp().unsqueeze(0),
            B,
            C,
            self.D.float().unsqueeze(0),
            delta_softplus=True,
            backend=self.backend,
            routes=[Route.ROWS],
            out_dtype=torch.float32 if u.dtype == torch.float16 else None,
        )
        return y.squeeze(1)


class LocalMixer(nn.Module):
    """The LocalVim mixer, ``(B, L, D) -> (B, L, D)`` (paper section 4).

    Args:
        dim: channels D; the inner width E is twice as wide.
        directions: names of `ops.scan_orders.scan_order`.
        class_token: a class token stands behind the first half of the patches, in every order.
        d_state: states N per inner channel.
        d_conv: taps of the causal depthwise convolutions.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).
    """

    def __init__(
        self,
        dim: int,
        directions: Sequence[str],
        class_token: bool,
        d_state: int = 16,
        d_conv: int = 4,
        backend: str = "auto",
        **dd: Any,
    ) -> None:
        super().__init__()
        inner = 2 * dim
        self.directions, self.class_token = tuple(directions), class_token
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False, **dd)
        self.ssm = nn.ModuleList(
            DirectionalSSM(inner, d_state, d_conv, math.ceil(dim / 16), backend, **dd) for _ in self.directions
        )
        self.attn = ChannelGate(inner, **dd)
        self.out_proj = nn.Linear(inner, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor, grid: Grid) -> torch.Tensor:
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (B, L, E) each
        z, total = F.silu(z), 0
        for name, ssm in zip(self.directions, self.ssm, strict=True):
            order = scan_order(name, *grid, u, middle_token=self.class_token)
            total = total + self.attn(order.undo(ssm(order.apply(u))) * z)
        return self.out_proj(total.to(x.dtype))


class Layer(nn.Module):
    """Rotation, then a pre-norm residual block on a float32 residual, ``(B, L, D) -> (B, L, D)``.

    The official code rotates block output and residual apart before it adds them, which is the same.
    """

    def __init__(
        self, dim: int, directions: Sequence[str], class_token: bool, drop_path: float, backend: str = "auto", **dd: Any
    ) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, **dd)
        self.mixer = LocalMixer(dim, directions, class_token, backend=backend, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, residual: torch.Tensor, grid: Grid, rotation: Rotation | None) -> torch.Tensor:
        if rotation is not None:
            residual = apply_rot_embed(residual, *rotation)
        return residual + self.drop_path(self.mixer(self.norm(residual), grid)).float()


def rotation_tables(grid: Grid, dim: int, device: torch.device) -> Rotation:
    """Sines and cosines (h·w, D): rows turn the first half of the channels, columns the second, in adjacent pairs."""
    h, w = grid
    frequencies = 10000 ** -(torch.arange(0, dim // 2, 2, device=device, dtype=torch.float32) / (dim // 2))
    rows, columns = (
        (torch.arange(n, device=device) / n * SPAN).outer(frequencies).repeat_interleave(2, -1) for n in grid
    )  # (n, D/2)
    rows, columns = rows.unsqueeze(1).expand(h, w, -1), columns.expand(h, w, -1)
    angles = torch.cat((rows, columns), dim=-1).flatten(0, 1)
    return angles.sin(), angles.cos()


class LocalVim(IsotropicBackbone):
    """LocalVim on patches of 16×16 pixels.

    Args:
        directions: four names of `ops.scan_orders.scan_order` per layer; shorter lists start anew.
        img_size: side(s) in pixels of the images that the position embedding is made for; others are resized.
        patch_size: side of a patch in pixels.
        embed_dim: channels D.
        depth: layers.
        class_token: a class token behind the first half of the patches; without rotations, as published.
        resized_rotation: at other sizes, resize the rotations of ``img_size`` as the official dense networks do. By
            default they are made for the actual map, as the official classifiers do; at ``img_size`` both are the same.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg`` (mean of the patches), ``token`` (the class token) or ``''`` (all tokens); by default the
            class token where there is one.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last layer, growing linearly from 0.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).

    Raises:
        ValueError: unknown ``global_pool``, or images smaller than a patch.
    """

    def __init__(
        self,
        directions: Sequence[Sequence[str]] = (("h", "h_flip", "w2", "w2_flip"),),
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 20,
        class_token: bool = False,
        resized_rotation: bool = False,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.patch_size, self.resized_rotation = patch_size, resized_rotation
        self.pools = ("avg", "token", "") if class_token else ("avg", "")
        pool = ("token" if class_token else "avg") if global_pool is None else global_pool
        self.set_dims(embed_dim, depth, patch_size, in_chans, num_classes, pool, drop_rate)
        self.grid_size = self._grid(*((img_size, img_size) if isinstance(img_size, int) else img_size))
        self.patch_embed = PatchEmbed(patch_size, patch_size, in_chans, embed_dim, **dd)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim, **dd)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid_size) + class_token, embed_dim, **dd))
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        self.layers = nn.ModuleList(
            Layer(embed_dim, directions[i % len(directions)], class_token, rate, backend, **dd)
            for i, rate in enumerate(rates)
        )
        self.norm = RMSNorm(embed_dim, **dd)
        self.head = make_head(embed_dim, num_classes, **dd)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The official initialisation, which is Vim's."""
        trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=0.02)
        lecun_normal_(self.patch_embed.proj.weight)
        nn.init.zeros_(self.patch_embed.proj.bias)
        for layer in self.layers:
            nn.init.kaiming_uniform_(layer.mixer.out_proj.weight, a=math.sqrt(5))
            layer.mixer.out_proj.weight.div_(math.sqrt(len(self.layers)))
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names and patterns of parameters exempt from weight decay."""
        return {"pos_embed", "cls_token", *(f"*.mixer.ssm.*.{name}" for name in DirectionalSSM.no_weight_decay)}

    def _grid(self, height: int, width: int) -> Grid:
        if min(height, width) < self.patch_size:
            raise ValueError(f"images must be at least {self.patch_size} pixels a side, got {height}×{width}")
        return height // self.patch_size, width // self.patch_size

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[Grid, Rotation | None]]:
        grid = self._grid(x.shape[-2], x.shape[-1])
        x = self.patch_embed(x).flatten(1, 2)  # (B, M, D)
        pos, cls_pos = self.split(self.pos_embed)
        if grid != self.grid_size:
            pos = resize_map(pos, self.grid_size, grid)
        x = (x + pos).float()
        if self.cls_token is not None:
            cls = (self.cls_token + cls_pos).float().expand(x.shape[0], -1, -1)
            half = x.shape[1] // 2
            return torch.cat((x[:, :half], cls, x[:, half:]), dim=1), (grid, None)
        return x, (grid, self._rotation(grid, x.device))

    def _rotation(self, grid: Grid, device: torch.device) -> Rotation:
        if grid == self.grid_size or not self.resized_rotation:
            return rotation_tables(grid, self.embed_dim, device)
        tables = rotation_tables(self.grid_size, self.embed_dim, device)
        sin, cos = (resize_map(table.unsqueeze(0), self.grid_size, grid).squeeze(0) for table in tables)
        return sin, cos

    def split(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (B, h·w, D) and the class token (B, 1, D), or (B, 0, D) where there is none."""
        if self.cls_token is None:
            return super().split(tokens)
        middle = (tokens.shape[1] - 1) // 2
        return torch.cat((tokens[:, :middle], tokens[:, middle + 1 :]), dim=1), tokens[:, middle : middle + 1]


_PER_DIRECTION = ("A_log", "D", "conv1d", "x_proj", "dt_proj")


def checkpoint_filter_fn(state_dict: dict[str, Any], model: LocalVim) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout; ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`_checkpoint.unwrap`), and the tables of rotations, which
            are computed here, are dropped.
        model: the network to load into; position embeddings of another grid are resized for it.

    Raises:
        ValueError: the keys are not those of a LocalVim checkpoint.
    """
    state_dict = unwrap(state_dict)
    if not any(key.endswith((".mixer.A_log_0", ".mixer.ssm.0.A_log")) for key in state_dict):
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            "not a LocalVim checkpoint: expected keys such as 'patch_embed.proj.weight' and 'layers.0.mixer.A_log_0', "
            f"found {some}"
        )
    out = {_official_to_ours(key): value for key, value in state_dict.items() if not key.startswith("rope.freqs_")}
    if "pos_embed" in out and out["pos_embed"].shape[1] != model.pos_embed.shape[1]:
        out["pos_embed"] = _resize_pos_embed(out["pos_embed"], model)
    return out


def _official_to_ours(key: str) -> str:
    """``layers.0.mixer.conv1d_2.weight -> layers.0.mixer.ssm.2.conv1d.weight``."""
    parts = key.replace("norm_f.", "norm.").split(".")
    if parts[2:3] == ["mixer"]:
        name, _, direction = parts[3].rpartition("_")
        if name in _PER_DIRECTION and direction.isdecimal():
            parts[3:4] = ["ssm", direction, name]
    return ".".join(parts)


def _resize_pos_embed(pos: torch.Tensor, model: LocalVim) -> torch.Tensor:
    """Position embeddings (1, M, D) or (1, M + 1, D) of a square grid for the model's grid."""
    patches, cls = model.split(pos)
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        return pos  # the strict load names it
    patches = resize_map(patches, (side, side), model.grid_size)
    half = patches.shape[1] // 2
    return torch.cat((patches[:, :half], cls, patches[:, half:]), dim=1)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "custom_load": True,  # `LocalVim.load_pretrained` reads the files safely
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2403.09338",
        "paper_name": "LocalMamba: Visual State Space Model with Windowed Selective Scan",
        "origin_url": "https://github.com/hunto/LocalMamba",
        "license": "apache-2.0",
        **kwargs,
    }


_RELEASE = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0"

default_cfgs = generate_default_cfgs(
    {
        "localvim_tiny.in1k": _cfg(url=f"{_RELEASE}/local_vim_tiny.ckpt"),
        "localvim_tiny_midcls.in1k": _cfg(url=f"{_RELEASE}/local_vim_tiny_middle_cls_token.ckpt"),
        "localvim_small.in1k": _cfg(),  # the official link leads to another model's file
    }
)

_TINY = """
h v_flip w7 w7_flip, h_flip w2_flip w7 w7_flip, h h_flip v w7, h h_flip v v_flip, h h_flip v v_flip, h h_flip v v_flip,
h_flip v v_flip w7, h_flip v v_flip w2_flip, h h_flip v v_flip, h h_flip v v_flip, h v v_flip w2, h v v_flip w2_flip,
h h_flip v_flip w7, h_flip v v_flip w2, h h_flip v v_flip, h v w2 w2_flip, v v_flip w2 w7, h h_flip v w2,
h h_flip w2_flip w7, v v_flip w2 w2_flip
"""  # found by the authors' search, a direction list per layer


def _create_localvim(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        LocalVim,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def localvim_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalVim-T, 8.0 M parameters."""
    return _create_localvim("localvim_tiny", pretrained, **{"directions": direction_lists(_TINY), **kwargs})


@register_model
def localvim_tiny_midcls(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalVim-T with a class token in the middle and no rotations, 8.0 M parameters."""
    arguments = {"directions": direction_lists(_TINY), "class_token": True, **kwargs}
    return _create_localvim("localvim_tiny_midcls", pretrained, **arguments)


@register_model
def localvim_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalVim-S, 27.8 M parameters."""
    return _create_localvim("localvim_small", pretrained, **{"embed_dim": 384, **kwargs})
