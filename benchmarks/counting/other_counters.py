"""The same network through other counters: how far to trust ours, and what theirs leave out.

torch's counter runs on the meta device, where it sees all attention (on a CPU it misses the fused one). fvcore traces
the network, for which it has to compute: on the CPU, with memory for every activation, in seconds at 224×224 and half
a minute at 800×1280. It misses fused attention, having no formula for scaled_dot_product_attention.
"""

from __future__ import annotations

import importlib.metadata
import logging
import warnings

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..sources import build_model
from .counter import Count, image_channels
from .record import TrustRecord


def compare_counters(name: str, model: nn.Module, image_size: tuple[int, int], count: Count) -> tuple[TrustRecord, ...]:
    """``count`` of ``model`` against torch's FlopCounterMode and against fvcore.

    Args:
        name: the model's, for fvcore's own copy with memory.
        model: on the meta device, in eval mode, its parameters without gradients.
        image_size: (H, W) in pixels that ``count`` is of.
        count: ours.
    """
    image = torch.empty(1, image_channels(model), *image_size, device="meta")
    return _flop_counter_mode(model, image, count), _fvcore(name, image, count)


def _flop_counter_mode(model: nn.Module, image: torch.Tensor, count: Count) -> TrustRecord:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    macs = counter.get_total_flops() // 2
    return TrustRecord(
        f"torch {torch.__version__} FlopCounterMode",
        macs,
        _delta(macs, count.macs("exact")),
        note="against convention exact" + (", in which causal attention is halved" if count.causal else ""),
    )


def _fvcore(name: str, image: torch.Tensor, count: Count) -> TrustRecord:
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        return TrustRecord("fvcore", None, None, note="not installed; `pip install fvcore` adds this row")
    counter = f"fvcore {importlib.metadata.version('fvcore')}"
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns of every shape that Python looks at
            model = build_model(name, tuple(image.shape[-2:])).eval()
            analysis = (
                FlopCountAnalysis(model, torch.zeros(image.shape))
                .unsupported_ops_warnings(False)
                .uncalled_modules_warnings(False)
            )
            macs = int(analysis.total())
            unsupported = sorted(analysis.unsupported_ops().items())
    except (RuntimeError, AssertionError) as error:  # the row says so; our own count does not depend on it
        said, *_ = str(error).splitlines() or [type(error).__name__]
        return TrustRecord(counter, None, None, note=f"failed: {said}")
    misses = {op: n for op, n in unsupported if "attention" in op or not op.startswith(("aten::", "prim::"))}
    return TrustRecord(
        counter, macs, _delta(macs, count.macs("paper")), misses, "against convention paper, which adds fused attention"
    )


def _delta(theirs: int, ours: int) -> float | None:
    return theirs / ours - 1 if ours else None
