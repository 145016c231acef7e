"""Our DPT against transformers' with the same weights: outputs compared first, then timed in turns in one process, and
the peak memory of each in a process of its own.

    python -m mixerzoo.benchmarks.dpt_against_transformers --output dpt_speed.json

Weights are random: they change no time. Before timing, the outputs have to agree; for the hybrid up to 2 % of their
spread, because transformers standardises its ResNet's weights with another epsilon than the released model.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import bootstrap
from torch import nn

from ..backbones.checkpoints import load_state, write_atomically
from ..backbones.dpt import checkpoint_filter_fn
from .sources import build_model
from .timing import environment

__all__ = ["compare", "interleaved", "peak_memory", "theirs"]

SIDE = 384
# transformers' configuration of each published model, and how far apart the outputs may be, over their spread.
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "backbone_out_indices": [5, 11, 17, 23],
    "neck_hidden_sizes": [256, 512, 1024, 1024],
}
_HYBRID = {
    "is_hybrid": True,
    "backbone_featmap_shape": [1, 1024, SIDE // 16, SIDE // 16],
    "backbone_out_indices": [2, 5, 8, 11],
    "neck_hidden_sizes": [256, 512, 768, 768],
    "neck_ignore_stages": [0, 1],
    "reassemble_factors": [1, 1, 1, 0.5],
}
_BIT = {
    "global_padding": "same",
    "layer_type": "bottleneck",
    "depths": [3, 4, 9],
    "out_features": ["stage1", "stage2", "stage3"],
    "embedding_dynamic_padding": True,
}
MODELS = {"dpt_hybrid_384": (_HYBRID, 2e-2), "dpt_large_384": (_LARGE, 1e-3)}


def theirs(name: str) -> nn.Module:
    """transformers' `DPTForDepthEstimation` of a published model, with weights from seed 0.

    Raises:
        ImportError: transformers is not installed.
    """
    try:
        from transformers import BitConfig, DPTConfig, DPTForDepthEstimation
    except ImportError as error:
        raise ImportError("comparing with transformers needs it: pip install transformers") from error
    options, _ = MODELS[name]
    if options.get("is_hybrid"):
        options = {**options, "backbone_config": BitConfig(**_BIT)}
    torch.manual_seed(0)
    config = DPTConfig(image_size=SIDE, layer_norm_eps=1e-6, readout_type="project", **options)
    model = DPTForDepthEstimation(config).eval()
    nn.init.constant_(model.head.head[-2].bias, 1.0)  # random weights alone may end below the last ReLU
    return model


def ours(name: str, reference: nn.Module) -> nn.Module:
    """Our model with the weights of transformers'."""
    model = build_model(name)
    load_state(model, checkpoint_filter_fn(reference.state_dict(), model), "transformers' weights")
    return model.eval()


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, once a round, in turns whose order alternates; a warm-up before does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for index in range(rounds):
        for name in sorted(calls, reverse=bool(index % 2)):
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median over rounds of ours / theirs, and its 95 % interval from a bootstrap over rounds."""
    ratios = np.array(seconds["ours"]) / np.array(seconds["theirs"])
    interval = bootstrap((ratios,), np.median, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return {"ratio": float(np.median(ratios)), "low": float(interval.low), "high": float(interval.high)}


def compare(name: str, rounds: int, images: torch.Tensor | None = None) -> dict[str, Any]:
    """Compares outputs and times of one model.

    Args:
        name: a key of `MODELS`.
        rounds: timed calls of each; at least 3.
        images: (B, 3, 384, 384); default: one, random.

    Returns:
        ``difference`` (largest, over the spread of the outputs), ``ratio`` with ``low`` and ``high`` (below 1: ours is
        faster), and medians and all ``seconds`` of both.

    Raises:
        RuntimeError: the outputs differ.
    """
    reference = theirs(name)
    model = ours(name, reference)
    if images is None:
        images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = reference(images).predicted_depth, model(images)
        difference = float((found - expected).abs().max() / expected.std())
        allowed = MODELS[name][1]
        if not difference <= allowed:
            raise RuntimeError(
                f"{name}: outputs differ by {difference:.2g} of their spread, more than {allowed:g}; nothing was timed"
            )
        seconds = interleaved({"ours": lambda: model(images), "theirs": lambda: reference(images)}, rounds)
    medians = {f"{which}_s": float(np.median(values)) for which, values in seconds.items()}
    return {"model": name, "difference": difference, **ratio(seconds), **medians, "seconds": seconds}


def peak_memory(name: str, which: str) -> dict[str, float]:
    """MB of a process that holds one model, ``ours`` or ``theirs``, before and at most during a forward pass (Linux).

    Run in a process of its own: what else lives in it would be measured too.
    """
    reference = theirs(name)
    model = reference if which == "theirs" else ours(name, reference)
    del reference
    images = torch.randn(1, 3, SIDE, SIDE)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew from here
    before = _status_mb("VmRSS")
    with torch.inference_mode():
        model(images)
    return {"before_mb": before, "peak_mb": _status_mb("VmHWM")}


def _status_mb(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1000


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice(list(MODELS)), help="Default: both.")
@click.option("--rounds", type=click.IntRange(min=3), default=21, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: PyTorch's choice.")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FILE.json")
def main(models: tuple[str, ...], rounds: int, threads: int | None, output: Path) -> None:
    """Times DPT at 384×384 against transformers' on this machine's CPU, and writes FILE.json."""
    import transformers

    if threads:
        torch.set_num_threads(threads)
    context = multiprocessing.get_context("spawn")
    results = []
    for name in models or MODELS:
        result = compare(name, rounds)
        for which in ("ours", "theirs"):
            with context.Pool(1) as pool:
                result[f"{which}_memory"] = pool.apply(partial(peak_memory, name, which))
        results.append(result)
        click.echo(
            f"{name}: {result['ratio']:.3f} of transformers' time ({result['low']:.3f} to {result['high']:.3f}), "
            f"peak {result['ours_memory']['peak_mb']:.0f} against {result['theirs_memory']['peak_mb']:.0f} MB"
        )
    measured = environment.collect("cpu", *(models or MODELS))
    record = {"fingerprint": measured, "transformers": transformers.__version__, "side": SIDE, "results": results}
    write_atomically(json.dumps(record, indent=1), output)


if __name__ == "__main__":
    main()
