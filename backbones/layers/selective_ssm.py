"""The selective state-space model that all families with S6 scans share, and what every scan module refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import nn

from ..ops.common import upcast
from ..ops.cross_scan import Route
from ..ops.selective_scan import selective_scan_2d


def refuse_torchscript(module: nn.Module) -> NoReturn:
    """For a module's ``__prepare_scriptable__``, which ``torch.jit.script`` calls before it compiles anything."""
    raise RuntimeError(
        f"torch.jit.script does not take {type(module).__name__}: its scan is a Python operation; use "
        "torch.export.export or torch.compile, or record the network with torch.jit.trace"
    )


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

    __prepare_scriptable__ = refuse_torchscript

    def forward(self, u: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
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
            -upcast(self.A_log).exp(),
            B,
            C,
            upcast(self.D),
            z,
            upcast(self.dt_bias),
            delta_softplus=True,
            backend=self.backend,
            routes=self.routes,
            # The sum of the routes overflows float16 where the released models run in it (MzeroMiko/VMamba#138).
            out_dtype=torch.float32 if u.dtype == torch.float16 else None,
        )
