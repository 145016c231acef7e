"""Local scans: along rows, columns and inside windows, weighed by a channel gate (LocalMamba, arXiv 2403.09338)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models import register_notrace_module
from torch import nn

from ..ops.cross_scan import Route
from ..ops.scan_orders import scan_order
from ..ops.selective_scan import selective_scan_2d
from .registry import register_mixer
from .s6 import SelectiveSSM, ignored_by_torchscript

_ROUTES = {"h": Route.ROWS, "v": Route.COLUMNS, "h_flip": Route.ROWS_REVERSED, "v_flip": Route.COLUMNS_REVERSED}


class ChannelGate(nn.Module):
    """A gate per channel from the mean of all tokens, ``(B, ..., E) -> (B, ..., E)`` (LocalMamba's ``BiAttn``).

    Args:
        dim: channels E; the gate is computed from ``int(E / 8)`` of them.
    """

    def __init__(self, dim: int, **dd: Any) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, eps=1e-5, **dd)
        self.global_reduce = nn.Linear(dim, dim // 8, **dd)
        self.channel_select = nn.Linear(dim // 8, dim, **dd)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.gated(y)

    def gated(self, y: torch.Tensor) -> torch.Tensor:
        tokens = y.flatten(1, -2)  # (B, L, E)
        mean = self.norm(tokens.to(self.norm.weight.dtype)).mean(1, keepdim=True)
        gate = self.channel_select(F.gelu(self.global_reduce(mean))).sigmoid()  # (B, 1, E)
        return (tokens * gate).view_as(y)


@register_notrace_module
class GatedSum(ChannelGate):
    """Sum of K maps (B, H, W, E), each behind the same `ChannelGate`."""

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        out = self.gated(maps[0])
        for y in maps[1:]:
            out = out + self.gated(y)
        return out


@register_notrace_module
class LocalSSM(SelectiveSSM):
    """Selective scans of one map in several directions, each with its own parameters and its own output.

    Rows and columns are routes of the scan; only windows are copied into their order (`ops.scan_orders`).

    Args:
        dim: channels E.
        directions: K names of `ops.scan_orders.scan_order`.
        d_state: states N per channel.
        dt_rank: rank R of the step's projection.
        backend: of `ops.selective_scan.selective_scan_2d`.
    """

    def __init__(
        self, dim: int, directions: Sequence[str], d_state: int, dt_rank: int, backend: str = "auto", **dd: Any
    ) -> None:
        rows = {True: Route.ROWS_REVERSED, False: Route.ROWS}  # a window order is scanned as one long row
        routes = [_ROUTES.get(name, rows[name.endswith("_flip")]) for name in directions]
        super().__init__(dim, routes, d_state, dt_rank, backend, **dd)
        self.directions = tuple(directions)

    @ignored_by_torchscript
    def forward(self, u: torch.Tensor) -> list[torch.Tensor]:
        """``(B, H, W, E)`` to K maps of that shape; float32 where ``u`` is float16, which their sum overflows."""
        params = F.linear(u, self.x_proj_weight.flatten(0, 1)).chunk(len(self.directions), dim=-1)
        return [_scan(self, u, params[k], k) for k in range(len(self.directions))]


def _scan(ssm: LocalSSM, u: torch.Tensor, params: torch.Tensor, k: int) -> torch.Tensor:
    """Scans ``u`` (B, H, W, E) in direction k; ``params`` (B, H, W, R + 2N) are step, B and C."""
    name, (_, H, W, _) = ssm.directions[k], u.shape
    order = None
    if name not in _ROUTES:  # the flip of a window order is its scan backwards
        order = scan_order(name.removesuffix("_flip"), H, W, u)
        u, params = (order.apply(x.flatten(1, 2)).unsqueeze(1) for x in (u, params))  # (B, 1, S, ·)
    dt, B, C = params.unsqueeze(3).split([ssm.dt_rank, ssm.d_state, ssm.d_state], dim=-1)
    y = selective_scan_2d(
        u,
        F.linear(dt, ssm.dt_proj_weight[k]),  # (B, H, W, 1, E)
        -ssm.A_log[k : k + 1].float().exp(),
        B,
        C,
        ssm.D[k : k + 1].float(),
        None,
        ssm.dt_bias[k : k + 1].float(),
        delta_softplus=True,
        backend=ssm.backend,
        routes=ssm.routes[k : k + 1],
        out_dtype=torch.float32 if u.dtype == torch.float16 else None,
    )
    return y if order is None else order.undo(y.squeeze(1)).unflatten(1, (H, W))


@register_mixer("local")
class Local(nn.Module):
    """Depthwise convolution, SiLU, four gated scans added up, LayerNorm, ``(B, H, W, D) -> (B, H, W, D)``.

    As `S6` in all but the scans, down to the convolution. The directions are rows and windows of 2×2, both ways, in all
    blocks: LocalMamba's setting without a search; the lists searched per block belong to its own networks. Not causal:
    the gate's mean sees the whole map, too.

    Args:
        dim: channels D.
        d_state: states N per channel.
        kernel_size: side of the convolution's kernel in tokens.
    """

    kind = "scan"
    causal = False
    directions = ("h", "h_flip", "w2", "w2_flip")
    no_weight_decay = tuple(f"ssm.{name}" for name in LocalSSM.no_weight_decay)

    def __init__(self, dim: int, d_state: int = 16, kernel_size: int = 7, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, **dd)
        self.ssm = LocalSSM(dim, self.directions, d_state, math.ceil(dim / 16), **dd)
        self.gate = GatedSum(dim, **dd)
        self.norm = LayerNorm(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.silu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        y = self.gate(self.ssm(u))
        return self.norm(y.to(self.norm.weight.dtype)).to(x.dtype)
