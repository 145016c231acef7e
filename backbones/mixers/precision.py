"""Arithmetic outside autocast, for mixers whose sums over all tokens do not fit half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(x: torch.Tensor) -> AbstractContextManager:
    """Switches autocast off on the device of ``x``; the meta device has none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def sum_dtype(x: torch.Tensor) -> torch.dtype:
    """float64 for a float64 ``x``, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
