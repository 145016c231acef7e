"""FLOP formulas of our custom ops: one registry, read by the analyzer.

A custom op is opaque to a dispatch-level counter: unregistered, it counts zero without a word. Each op therefore
registers, beside its kernels, two formulas that take the op's own arguments (as fake or meta tensors) and return an
integer number of FLOPs (a multiply-add is two):

* ``exact``: the arithmetic of the recurrence as it is computed step by step;
* ``paper``: the figure that the op's field prints (for the selective scan 9·B·L·D·N, state-spaces/mamba#110).

``exact`` is also handed to ``torch.utils.flop_counter``, so that PyTorch's own counter sees the op.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import register_flop_formula

Formula = Callable[..., int]


@dataclass(frozen=True)
class ScanFlops:
    """FLOPs of one custom op, each a function of the op's arguments."""

    exact: Formula
    paper: Formula


SCAN_FLOPS: dict[OpOverloadPacket, ScanFlops] = {}


def register_scan_flops(op: OpOverloadPacket, exact: Formula, paper: Formula) -> None:
    """Registers both formulas of ``op`` (a ``torch.ops.mixerzoo.*`` packet).

    Raises:
        ValueError: the op has formulas already.
    """
    if op in SCAN_FLOPS:
        raise ValueError(f"FLOP formulas of {op} are registered already")
    SCAN_FLOPS[op] = ScanFlops(exact, paper)

    @register_flop_formula(op, get_raw=True)
    def exact_for_torch(*args: object, out_val: torch.Tensor | None = None, **kwargs: object) -> int:
        return exact(*args, **kwargs)
