"""The ``cpu`` backend: the C kernel of ``scan_cpu.c``, called through ctypes."""

from __future__ import annotations

import torch

CONTIGUOUS_LAST = False
DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def unavailable(device: torch.device) -> str | None:
    """Why the kernel cannot run on ``device``, and what would mend it; None if it can."""
    return "the C kernel was not built; install a C compiler and reinstall mixerzoo"
