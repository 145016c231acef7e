"""PlainMamba: layers of one width that scan a map along snakes.

Paper: "PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition", arXiv 2403.17695. Official code:
ChenhongyiYang/PlainMamba (Apache-2.0). Four scans run along snaking rows and columns, both ways, with the same
parameters and one term of B per direction of movement.

Two quirks of the released networks are kept, because their weights were trained with them: only the scans' input is
taken in the order of the snakes, while step, B and C stay in row-major order (``raster_selectivity``), and the bias of
the step is added twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerNorm, calculate_drop_path_rates, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ._checkpoint import load_official, read_files_safely, unwrap
from ._isotropic import IsotropicBackbone, make_head, resize_map
from .ops.snake_scan import DIRECTIONS, snake_scan

__all__ = ["PlainMamba"]

Grid = tuple[int, int]


class PatchEmbed(nn.Module):
    """7×7 convolution of stride 2, 3×3 convolutions, patches of 8×8; ``(B, C, H, W) -> (B, h, w, D)``, h = ceil(H/16).

    Args:
        in_chans: channels of the image.
        dim: channels D.
        num_convs: 3×3 convolutions.
    """

    def __init__(self, in_chans: int, dim: int, num_convs: int, width: int = 64, **dd: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False, **dd), nn.BatchNorm2d(width, **dd), nn.ReLU()
        )
        convs: list[nn.Module] = []
        for _ in range(num_convs):
            convs += [nn.Conv2d(width, width, 3, padding=1, bias=False, **dd), nn.BatchNorm2d(width, **dd), nn.ReLU()]
        self.convs = nn.Sequential(*convs)
        self.projection = nn.Conv2d(width, dim, 8, stride=8, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convs(self.stem(x))
        x = F.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8))
        return self.projection(x).permute(0, 2, 3, 1)


class SnakeSSM(nn.Module):
    """Input-dependent step, B and C, then four snake scans that share them, ``(B, H, W, E) -> (B, H, W, E)``.

    Args:
        dim: inner width E.
        d_state: states N per channel.
        dt_rank: rank R of the step's projection.
        raster_selectivity: `ops.snake_scan.snake_scan`.
        backend: of the scans.
    """

    no_weight_decay = ("A_log", "D", "direction_B")

    def __init__(
        self, dim: int, d_state: int, dt_rank: int, raster_selectivity: bool, backend: str = "auto", **dd: Any
    ) -> None:
        super().__init__()
        self.split = [dt_rank, d_state, d_state]
        self.raster_selectivity, self.backend = raster_selectivity, backend
        self.x_proj = nn.Linear(dim, sum(self.split), bias=False, **dd)
        self.dt_proj = nn.Linear(dt_rank, dim, **dd)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, **dd).log().repeat(dim, 1))
        self.D = nn.Parameter(torch.ones(dim, **dd))
        self.direction_B = nn.Parameter(torch.empty(DIRECTIONS, d_state, **dd))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)
        return snake_scan(
            u,
            self.dt_proj(dt),
            -self.A_log.float().exp(),
            B,
            C,
            self.D.float(),
            self.direction_B,
            self.dt_proj.bias.float(),  # the second time
            self.raster_selectivity,
            self.backend,
            out_dtype=torch.float32 if u.dtype == torch.float16 else None,
        )


class PlainMambaMixer(nn.Module):
    """Gated snake scans, ``(B, H, W, D) -> (B, H, W, D)`` (paper section 3.2).

    Args:
        dim: channels D; the inner width E is twice as wide.
        d_state: states N per inner channel.
        raster_selectivity: `ops.snake_scan.snake_scan`.
        backend: of the scans.
    """

    def __init__(self, dim: int, d_state: int, raster_selectivity: bool, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        inner = 2 * dim
        self.in_proj = nn.Linear(dim, 2 * inner, **dd)
        self.conv2d = nn.Conv2d(inner, inner, 7, padding=3, groups=inner, **dd)
        self.ssm = SnakeSSM(inner, d_state, math.ceil(dim / 16), raster_selectivity, backend, **dd)
        self.out_proj = nn.Linear(inner, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (B, H, W, E) each
        u = F.silu(self.conv2d(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.out_proj((self.ssm(u) * F.silu(z)).to(x.dtype))


class Layer(nn.Module):
    """Pre-norm residual layer on the patches of a grid, ``(B, h·w, D) -> (B, h·w, D)``.

    Args:
        dim: channels D.
        d_state: states N per inner channel.
        raster_selectivity: `ops.snake_scan.snake_scan`.
        conv: a depthwise convolution follows, in place of what went into it.
        drop_path: probability of dropping the residual branch of a sample.
        backend: of the scans.
    """

    def __init__(
        self,
        dim: int,
        d_state: int,
        raster_selectivity: bool,
        conv: bool,
        drop_path: float,
        backend: str = "auto",
        **dd: Any,
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, eps=1e-5, **dd)
        self.mixer = PlainMambaMixer(dim, d_state, raster_selectivity, backend, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False, **dd) if conv else None
        self.dw = nn.Sequential(depthwise, nn.BatchNorm2d(dim, **dd), nn.GELU()) if conv else nn.Identity()

    def forward(self, x: torch.Tensor, grid: Grid) -> torch.Tensor:
        x = x.unflatten(1, grid)  # (B, h, w, D)
        x = x + self.drop_path(self.mixer(self.norm(x)))
        return self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)


class PlainMamba(IsotropicBackbone):
    """PlainMamba on patches of 16×16 pixels.

    Args:
        img_size: side(s) in pixels of the images that the position embedding is made for; others are resized.
        embed_dim: channels D.
        depth: layers.
        stem_convs: 3×3 convolutions of the patch embedding.
        conv_layers: numbers of the layers that end in a depthwise convolution.
        d_state: states N per inner channel.
        raster_selectivity: `ops.snake_scan.snake_scan`; the released weights want True.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg``, or ``''`` for all tokens.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last layer, growing linearly from 0.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).

    Raises:
        ValueError: unknown ``global_pool``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 192,
        depth: int = 24,
        stem_convs: int = 2,
        conv_layers: tuple[int, ...] = (),
        d_state: int = 16,
        raster_selectivity: bool = True,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.set_dims(embed_dim, depth, 16, in_chans, num_classes, global_pool, drop_rate)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = (-(-height // 16), -(-width // 16))
        self.patch_embed = PatchEmbed(in_chans, embed_dim, stem_convs, **dd)
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid_size), embed_dim, **dd))
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        self.layers = nn.ModuleList(
            Layer(embed_dim, d_state, raster_selectivity, i in conv_layers, rate, backend, **dd)
            for i, rate in enumerate(rates)
        )
        self.norm = LayerNorm(embed_dim, eps=1e-6, **dd)
        self.head = make_head(embed_dim, num_classes, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """The official initialisation, which leaves the step without a bias."""
        trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, SnakeSSM):
                trunc_normal_(module.direction_B, std=0.02)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names and patterns of parameters exempt from weight decay."""
        return {"pos_embed", *(f"*.mixer.ssm.{name}" for name in SnakeSSM.no_weight_decay)}

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[Grid]]:
        x = self.patch_embed(x)
        grid = tuple(x.shape[1:3])
        pos = self.pos_embed if grid == self.grid_size else resize_map(self.pos_embed, self.grid_size, grid)
        return x.flatten(1, 2) + pos, (grid,)


_NAMES = (  # official, ours
    ("backbone.", ""),
    ("ln1.", "norm."),
    ("head.fc.", "head."),
    (".mamba.direction_Bs", ".mixer.ssm.direction_B"),
    *((f".mamba.{name}", f".mixer.ssm.{name}") for name in ("A_log", "D", "x_proj.", "dt_proj.")),
    (".mamba.", ".mixer."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: PlainMamba) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout; ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`_checkpoint.unwrap`), and the shadow parameters that the
            official average keeps as buffers (``ema_…``) are dropped.
        model: the network to load into; position embeddings of another grid are resized for it.

    Raises:
        ValueError: the keys are not those of a PlainMamba checkpoint.
    """
    state_dict = unwrap(state_dict)
    if not any(key.endswith((".mamba.direction_Bs", ".ssm.direction_B")) for key in state_dict):
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            "not a PlainMamba checkpoint: expected keys such as 'backbone.patch_embed.stem.0.weight' and "
            f"'backbone.layers.0.mamba.direction_Bs', found {some}"
        )
    out = {}
    for key, value in state_dict.items():
        if not key.startswith("ema_"):
            for official, ours in _NAMES:
                key = key.replace(official, ours)
            out[key] = value
    pos = out.get("pos_embed")
    if pos is not None and pos.shape[1] != model.pos_embed.shape[1] and math.isqrt(pos.shape[1]) ** 2 == pos.shape[1]:
        side = math.isqrt(pos.shape[1])
        out["pos_embed"] = resize_map(pos, (side, side), model.grid_size)
    return out


def _cfg(file: str) -> dict[str, Any]:
    return {
        "hf_hub_id": "ChenhongyiYang/PlainMamba",
        "hf_hub_filename": file,
        "custom_load": "hf",  # `PlainMamba.load_pretrained` reads the files safely
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.stem.0",
        "classifier": "head",
        "paper_ids": "arXiv:2403.17695",
        "paper_name": "PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition",
        "origin_url": "https://github.com/ChenhongyiYang/PlainMamba",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({f"plainmamba_l{i}.in1k": _cfg(f"l{i}.pth") for i in (1, 2, 3)})


def _create_plainmamba(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        PlainMamba,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def plainmamba_l1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PlainMamba-L1, 7.6 M parameters."""
    return _create_plainmamba("plainmamba_l1", pretrained, **{"stem_convs": 1, "conv_layers": (0,), **kwargs})


@register_model
def plainmamba_l2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PlainMamba-L2, 26.1 M parameters."""
    return _create_plainmamba("plainmamba_l2", pretrained, **{"embed_dim": 384, **kwargs})


@register_model
def plainmamba_l3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PlainMamba-L3, 51.0 M parameters."""
    return _create_plainmamba("plainmamba_l3", pretrained, **{"embed_dim": 448, "depth": 36, **kwargs})
