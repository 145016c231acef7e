"""State-space duality as a token mixer (Mamba-2, arXiv 2405.21060): one decay per head, computed as matrix products."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import nn

from ..layers import refuse_torchscript
from ..ops.common import upcast
from ..ops.ssd import ssd
from .registry import register_mixer


@register_notrace_module
class HeadwiseSSM(nn.Module):
    """The SSM of Mamba-2 without its convolution, gate and norm, ``(B, L, D) -> (B, L, D)``.

    Args:
        dim: channels D.
        d_state: states N, shared by all channels of a head; B and C are shared by all heads.
        num_heads: heads; ``None`` takes as many of 32 channels as fit, at least one.
        backend: of the scan (`ops.ssd.ssd`).

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.
    """

    no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(
        self,
        dim: int,
        d_state: int = 64,
        num_heads: int | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads = max(1, dim // 32) if num_heads is None else num_heads
        if dim % self.num_heads:
            raise ValueError(f"num_heads must divide dim, got dim={dim} and num_heads={self.num_heads}")
        self.d_state, self.backend = d_state, backend
        self.proj = nn.Linear(dim, 2 * d_state + self.num_heads, bias=False, **dd)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads, **dd))
        self.A_log = nn.Parameter(torch.empty(self.num_heads, **dd))
        self.D = nn.Parameter(torch.empty(self.num_heads, **dd))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        """Mamba-2's initialisation: A uniform in [-16, -1], steps log-uniform at a zero input."""
        self.A_log.uniform_(1, 16).log_()
        self.dt_bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_()
        self.dt_bias.add_(torch.log(-torch.expm1(-self.dt_bias)))  # softplus⁻¹
        nn.init.ones_(self.D)

    __prepare_scriptable__ = refuse_torchscript

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        params = self.proj(u)
        B, C, dt = params.split([self.d_state, self.d_state, self.num_heads], dim=-1)
        y = ssd(
            u.unflatten(-1, (self.num_heads, -1)),  # (B, L, H, P)
            dt,
            -upcast(self.A_log).exp(),
            B.unsqueeze(2),  # (B, L, 1, N)
            C.unsqueeze(2),
            D=upcast(self.D),
            dt_bias=upcast(self.dt_bias),
            dt_softplus=True,
            backend=self.backend,
        )
        return y.flatten(2)


@register_mixer("ssd")
class SSD(nn.Module):
    """Depthwise convolution, SiLU, one SSD scan in row-major order, ``(B, H, W, D) -> (B, H, W, D)``.

    As `S6` in all but the scan, down to the convolution; like it, not causal as a whole.
    """

    kind = "scan"
    causal = False
    no_weight_decay = tuple(f"ssm.{name}" for name in HeadwiseSSM.no_weight_decay)

    def __init__(self, dim: int, d_state: int = 64, kernel_size: int = 7, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, **dd)
        self.ssm = HeadwiseSSM(dim, d_state, backend=backend, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, D = x.shape
        u = F.silu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.ssm(u.reshape(B, H * W, D)).view(B, H, W, D).to(x.dtype)
