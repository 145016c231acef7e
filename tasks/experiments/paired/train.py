"""One run of an experiment: a small network trained for minutes on one CPU core, the same bits each time.

This is a plain loop and not mmengine's Runner. A run is a thousand steps of some 20 ms, its batches are drawn as they
are needed, and its CPU time is a result. Logs, checkpoints and workers would cost more than they are worth here: a run
that was killed is made again. Data sets, networks and counters are the project's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from .... import backbones  # noqa: F401  (registers the networks)
from ....backbones.isotropic import init_by_name
from ....benchmarks.counting.counter import count_flops
from ...synthetic.legend import IGNORED, TEST_SEED, LegendMaps
from ...synthetic.pixels import Pixels
from .grid import Cell
from .patches import FashionPatches

__all__ = ["data_sets", "evaluate", "network", "train_run"]

EVAL_TOKENS = 2048  # per forward pass of an evaluation

DATA: Mapping[str, Callable[..., Any]] = {"legend": LegendMaps, "pixels": Pixels, "patches": FashionPatches}


def data_sets(cell: Cell, seed: int, root: Path | None = None) -> tuple[Any, Any]:
    """Training and test set of a cell; ``root``: the folder of Fashion-MNIST, if not the default.

    Raises:
        ValueError: unknown type of data.
    """
    arguments = dict(cell.data)
    kind = arguments.pop("type")
    if kind not in DATA:
        raise ValueError(f"cell {cell.name}: data: expected a type of {', '.join(DATA)}, got {kind!r}")
    if kind == "legend":
        test = LegendMaps(**arguments, seed=TEST_SEED, size=cell.test_size)
    else:
        arguments |= {} if root is None else {"root": root}
        test = DATA[kind](**arguments, split="test", size=cell.test_size)
    return DATA[kind](**arguments, seed=seed), test


def network(cell: Cell, mixer: str, data: Any, seed: int) -> nn.Module:
    """The cell's network with ``mixer``, initialised by name from ``seed``."""
    pixels = {"img_size": data.side, "in_chans": data.channels, "num_classes": data.classes}
    model = timm.create_model(f"isotropic_{mixer}", **pixels, **cell.network)
    init_by_name(model, seed)
    return model


def optimizer(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (0.9, 0.98); biases, norms, positions and what a mixer names do not decay."""
    exempt = model.no_weight_decay()
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and name not in exempt].append(parameter)
    settings = [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]
    return torch.optim.AdamW(settings, lr=1.0, betas=(0.9, 0.98), fused=True)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step from 0: a tenth of warm-up, then a cosine to zero."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / (steps - warm_up))


@torch.no_grad()
def evaluate(model: nn.Module, test: Any, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """What a test set says of a network.

    Returns:
        ``accuracy`` and ``bits`` over all answers asked for; ``accuracy_se``, the accuracy's standard error clustered
        by picture; and, for maps with a legend, ``accuracy_by_row``: the accuracy per row of tokens, ``None`` where
        nothing is asked.
    """
    model.eval()
    per_pass = max(1, EVAL_TOKENS * int(model.patch_size) ** 2 // images[0, 0].numel())
    logits = torch.cat([model(part) for part in images.split(per_pass)])  # (B, [H, W,] classes)
    model.train()
    asked = labels != IGNORED
    right = ((logits.argmax(-1) == labels) & asked).double()
    nats = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED)
    pictures = right.flatten(1) if right.ndim > 1 else right[:, None]
    counts = asked.reshape(len(labels), -1).sum(1).double()
    accuracy = pictures.sum() / counts.sum()
    residuals = pictures.sum(1) - accuracy * counts
    spread = residuals.square().sum().sqrt() / counts.sum() * math.sqrt(len(labels) / (len(labels) - 1))
    result = {"accuracy": accuracy.item(), "accuracy_se": spread.item(), "bits": nats.item() / math.log(2)}
    if isinstance(test, LegendMaps):
        rows = asked.sum((0, 2))
        result["accuracy_by_row"] = [
            hits / count if count else None
            for hits, count in zip(right.sum((0, 2)).tolist(), rows.tolist(), strict=True)
        ]
    return result


def train_run(
    cell: Cell,
    mixer: str,
    seed: int,
    rate: float,
    *,
    metric: str,
    steps: int | None = None,
    root: Path | None = None,
    clip: float = 1.0,
    weight_decay: float = 0.01,
) -> dict[str, Any]:
    """Trains one network, on one thread.

    Args:
        cell: task and network.
        mixer: its token mixer.
        seed: of initialisation and data.
        rate: highest learning rate.
        metric: ``accuracy`` or ``bits``, of the curve.
        steps: instead of the cell's.
        root: folder of Fashion-MNIST.
        clip: largest norm of the gradient.
        weight_decay: of matrices.

    Returns:
        Result of `evaluate`, ``value`` (its metric) and the learning ``curve`` as [step, value]; ``finite``, False if
        the loss became NaN or infinite, where the run ends with value ``None``; parameters, multiply-adds of a
        picture's forward pass, CPU time in seconds, and the 10th percentile of a step's in milliseconds.
    """
    torch.set_num_threads(1)
    steps = cell.steps if steps is None else steps
    data, test = data_sets(cell, seed, root)
    images, labels = test.batch(range(cell.test_size))
    model = network(cell, mixer, data, seed)
    optim = optimizer(model, weight_decay)
    parameters = list(model.parameters())
    start, times, curve, finite = time.process_time(), [], [], True
    due = {round(steps * (point + 1) / cell.points) for point in range(cell.points)}
    scores: dict[str, Any] = {}
    for step in range(steps):
        begin = time.process_time()
        for group in optim.param_groups:
            group["lr"] = rate * schedule(step, steps)
        x, y = data.batch(range(step * cell.batch, (step + 1) * cell.batch))
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten(), ignore_index=IGNORED)
        optim.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
        if not math.isfinite(norm.item()):
            finite = False
            break
        optim.step()
        times.append(time.process_time() - begin)
        if step + 1 in due:
            scores = evaluate(model, test, images, labels)
            curve.append([step + 1, round(scores[metric], 6)])
    return {
        **scores,
        "value": scores[metric] if finite else None,
        "curve": curve,
        "finite": finite,
        "steps": steps,
        "parameters": sum(p.numel() for p in parameters),
        "macs": count_flops(model, (data.side, data.side), in_chans=data.channels).macs(),
        "cpu_s": round(time.process_time() - start, 2),
        "step_ms": round(1e3 * float(np.percentile(times, 10)), 3) if times else None,
    }
