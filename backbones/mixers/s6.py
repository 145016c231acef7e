"""Selective state-space mixers (S6; Mamba, arXiv 2312.00752): the Gated CNN's convolution, then SiLU, then a scan.

MambaOut (arXiv 2405.07992, figure 1b) draws the Mamba block as the Gated CNN block plus an SSM. These mixers are that
difference: `S6` adds one scan in row-major order to the convolution of `GatedCNN`, `BiS6` a second one from the last
token to the first (Vim, arXiv 2401.09417).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Optional, get_type_hints

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import nn

from ..ops.cross_scan import VIM_ROUTES, Route
from ..ops.selective_scan import selective_scan_2d
from .registry import register_mixer


def ignored_by_torchscript(method: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a scripted model call ``method`` in Python; TorchScript reads its types and does not understand strings."""
    method.__annotations__ = get_type_hints(method)
    return torch.jit.ignore(method)


@register_notrace_module
class SelectiveSSM(nn.Module):
    """The selective SSM of every scan family: input-dependent step, B and C per route, then the scans, added up.

    Maps ``(B, H, W, E)``, or ``(B, H, W, K, E)`` where each route reads its own input, to ``(B, H, W, E)``.

    Args:
        dim: inner width E.
        routes: the K scan routes.
        d_state: states N per channel.
        dt_rank: rank R of the step's projection.
        backend: of `ops.selective_scan.selective_scan_2d`.

    Source: Mamba, arXiv 2312.00752, Algorithm 2; initialisation as in its section 3.6: A = -(1…N), D = 1, and steps
    log-uniform in [1e-3, 1e-1] at a zero input.
    """

    no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(
        self,
        dim: int,
        routes: Sequence[Route],
        d_state: int,
        dt_rank: int,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.routes = tuple(int(route) for route in routes)
        self.d_state, self.dt_rank, self.backend = d_state, dt_rank, backend
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        K = len(self.routes)
        self.x_proj_weight = nn.Parameter(torch.empty(K, dt_rank + 2 * d_state, dim, **dd))
        self.dt_proj_weight = nn.Parameter(torch.empty(K, dim, dt_rank, **dd))
        self.dt_bias = nn.Parameter(torch.empty(K, dim, **dd))
        self.A_log = nn.Parameter(torch.empty(K, dim, d_state, **dd))
        self.D = nn.Parameter(torch.empty(K, dim, **dd))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 1e-1, dt_floor: float = 1e-4) -> None:
        """Mamba's initialisation."""
        nn.init.uniform_(
            self.x_proj_weight, -(self.x_proj_weight.shape[2] ** -0.5), self.x_proj_weight.shape[2] ** -0.5
        )
        nn.init.uniform_(self.dt_proj_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        self.dt_bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=dt_floor)
        self.dt_bias.add_(torch.log(-torch.expm1(-self.dt_bias)))  # softplus⁻¹
        self.A_log.copy_(torch.arange(1, self.d_state + 1, device=self.A_log.device).log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    @ignored_by_torchscript
    def forward(self, u: torch.Tensor, z: Optional[torch.Tensor]) -> torch.Tensor:  # noqa: UP045
        """Scans ``u`` (B, H, W, E) or (B, H, W, K, E); ``z`` (B, H, W, E) or None gates every route by silu(z)."""
        if u.ndim == 4:  # one projection for all routes
            params = F.linear(u, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (len(self.routes), -1))
        else:
            params = torch.einsum("bhwke,kpe->bhwkp", u, self.x_proj_weight)
        dt, B, C = params.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = torch.einsum("bhwkr,ker->bhwke", dt, self.dt_proj_weight)  # (B, H, W, K, E)
        return selective_scan_2d(
            u,
            delta,
            -self.A_log.float().exp(),
            B,
            C,
            self.D.float(),
            z,
            self.dt_bias.float(),
            delta_softplus=True,
            backend=self.backend,
            routes=self.routes,
            # The sum of the routes overflows float16 where the released models run in it (MzeroMiko/VMamba#138).
            out_dtype=torch.float32 if u.dtype == torch.float16 else None,
        )


@register_mixer("s6")
class S6(nn.Module):
    """Depthwise convolution, SiLU, one selective scan, ``(B, H, W, D) -> (B, H, W, D)``.

    The convolution is the Gated CNN's own (7×7, two-dimensional), so that the scan is all that the mixer adds. It is
    therefore not causal as a whole: the scan sees the tokens before it, the convolution also the neighbours behind.

    Args:
        dim: channels D.
        d_state: states N per channel.
        kernel_size: side of the convolution's kernel in tokens.
    """

    kind = "scan"
    causal = False
    routes: tuple[Route, ...] = (Route.ROWS,)
    no_weight_decay = tuple(f"ssm.{name}" for name in SelectiveSSM.no_weight_decay)

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        kernel_size: int = 7,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, **dd)
        self.ssm = SelectiveSSM(dim, self.routes, d_state, math.ceil(dim / 16), **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.silu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.finish(self.ssm(u, None)).to(x.dtype)

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        """What follows the sum of the routes: nothing for one."""
        return y


@register_mixer("bis6")
class BiS6(S6):
    """As `S6` with a second scan from the last token to the first; the two are averaged, as in Vim (hustvl/Vim#90)."""

    routes = VIM_ROUTES

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        return y / 2
