"""One transformer block over the number of tokens: where attention overtakes the rest in FLOPs, and where in time.

The criterion of MambaOut (arXiv 2405.07992, section 3.1) is a statement about FLOPs: in a block of
24·D²·L + 4·D·L² FLOPs the second term overtakes the first at L = 6D. A device does not run both terms at one rate, so
this sweep times them apart, inside the same forward pass, with a fused and with an eager attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .workload import Stopwatch

LENGTHS = (64, 196, 400, 784, 1152, 1600, 2304, 3136, 4096)
MIN_ROUNDS, MAX_ROUNDS = 5, 40
RESAMPLES = 1000


def fused_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """PyTorch's fused kernel; q, k, v and the result are (B, heads, L, head_dim)."""
    return F.scaled_dot_product_attention(q, k, v)


def eager_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same function with the (B, heads, L, L) scores written to memory."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


ATTENTIONS: dict[str, Callable[..., torch.Tensor]] = {"fused": fused_attention, "eager": eager_attention}


class TransformerBlock(nn.Module):
    """Pre-norm ViT block, ``(B, L, D) -> (B, L, D)``, in three parts so that each can be timed on its own.

    Args:
        dim: channels D.
        num_heads: heads of D / num_heads channels.
        mlp_ratio: width of the MLP over D.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, mlp_ratio * dim)
        self.fc2 = nn.Linear(mlp_ratio * dim, dim)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, each (B, heads, L, head_dim)."""
        B, L, D = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, L, 3, self.num_heads, D // self.num_heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def finish(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Everything behind the attention; y is (B, heads, L, head_dim)."""
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def forward(self, x: torch.Tensor, attention: Callable[..., torch.Tensor] = fused_attention) -> torch.Tensor:
        return self.finish(x, attention(*self.project(x)))


def block_flops(dim: int, length: int) -> dict[str, int]:
    """FLOPs of one block: ``linear`` 24·D²·L and ``attention`` 4·D·L² (softmax, norms and GELU not counted)."""
    return {"linear": 24 * dim * dim * length, "attention": 4 * dim * length * length}


def flop_share(dim: int, length: int) -> Fraction:
    """The attention's share of the block's FLOPs, L / (L + 6D)."""
    return Fraction(length, length + 6 * dim)


def sweep_blocks(
    dim: int = 192,
    num_heads: int = 3,
    lengths: Sequence[int] = LENGTHS,
    device: str = "cpu",
    threads: int = 1,
    budget_s: float = 25.0,
    on_round: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Times one float32 transformer block at every length, batch 1, lengths and attentions interleaved in each round.

    Args:
        dim: channels D of the block; the FLOPs cross at L = 6D.
        num_heads: attention heads.
        lengths: numbers of tokens L.
        device: where to run, ``cpu`` or ``cuda``.
        threads: CPU threads. One by default: shares of time need no parallelism, and with several threads every
            small operation ends in a barrier at which a busy neighbour can stall the whole block.
        budget_s: seconds after which no new round begins (at least `MIN_ROUNDS` rounds are always run).
        on_round: called after each round with the rounds done and the seconds spent.

    Returns:
        A JSON-ready record: the settings, one row per (L, attention) with times in milliseconds and achieved GFLOP/s,
        both crossovers in tokens, and what was left out for want of memory.

    Raises:
        ValueError: fewer than two lengths, or heads that do not divide D.
    """
    if len(set(lengths)) < 2 or min(lengths) < 1:
        raise ValueError(f"expected at least two positive lengths to sweep, got {list(lengths)}")
    if dim % num_heads:
        raise ValueError(f"num_heads must divide dim, got dim={dim} and num_heads={num_heads}")
    lengths = sorted(set(lengths))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = TransformerBlock(dim, num_heads).to(device)
        inputs = {length: torch.randn(1, length, dim).to(device) for length in lengths}  # each (1, L, D)
    with _threads(threads):
        return _sweep(block, inputs, budget_s, on_round)


def _sweep(
    block: TransformerBlock,
    inputs: dict[int, torch.Tensor],
    budget_s: float,
    on_round: Callable[[int, float], None] | None,
) -> dict[str, Any]:
    cases = [(length, name) for length in inputs for name in ATTENTIONS]
    left_out = _warm_up(block, inputs, cases)
    cases = [case for case in cases if case not in left_out]
    samples: dict[tuple[int, str], list[tuple[float, float]]] = {case: [] for case in cases}
    start = time.perf_counter()
    for done in range(1, MAX_ROUNDS + 1):
        for length, name in cases:
            samples[length, name].append(_time_parts(block, inputs[length], ATTENTIONS[name]))
        spent = time.perf_counter() - start
        if on_round:
            on_round(done, spent)
        if done >= MIN_ROUNDS and spent + spent / done > budget_s:
            break
    dim = block.fc2.out_features
    rows = [_row(dim, length, name, np.asarray(parts)) for (length, name), parts in samples.items()]
    return {
        "dim": dim,
        "num_heads": block.num_heads,
        "device": str(next(block.parameters()).device),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "rounds": done,
        "rows": rows,
        "crossover_tokens": {"flops": 6 * dim, "time": {name: _time_crossover(samples, name) for name in ATTENTIONS}},
        "left_out": [{"tokens": length, "attention": name, "reason": "out of memory"} for length, name in left_out],
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _warm_up(
    block: TransformerBlock, inputs: dict[int, torch.Tensor], cases: list[tuple[int, str]]
) -> list[tuple[int, str]]:
    """Runs every case once; returns those that do not fit into the device's memory."""
    left_out = []
    for length, name in cases:
        try:
            block(inputs[length], ATTENTIONS[name])
        except torch.OutOfMemoryError:
            left_out.append((length, name))
    return left_out


@torch.inference_mode()
def _time_parts(
    block: TransformerBlock, x: torch.Tensor, attention: Callable[..., torch.Tensor]
) -> tuple[float, float]:
    """Milliseconds of the attention and of everything else in one forward pass."""
    stopwatch = Stopwatch(x.device)
    stopwatch.mark()
    qkv = block.project(x)
    stopwatch.mark()
    y = attention(*qkv)
    stopwatch.mark()
    block.finish(x, y)
    stopwatch.mark()
    before, core, after = stopwatch.read_ms()
    return core, before + after


def _row(dim: int, length: int, name: str, parts: np.ndarray) -> dict[str, Any]:
    """Summary of the rounds; ``parts`` is (rounds, 2): attention and rest in milliseconds."""
    share = parts[:, 0] / parts.sum(axis=1)
    core, rest = np.median(parts, axis=0)
    flops = block_flops(dim, length)
    return {
        "tokens": length,
        "attention": name,
        "attention_ms": float(core),
        "rest_ms": float(rest),
        "time_share": float(np.median(share)),
        "time_share_p10": float(np.quantile(share, 0.1)),
        "time_share_p90": float(np.quantile(share, 0.9)),
        "flop_share": float(flop_share(dim, length)),
        "attention_gflop_per_s": float(flops["attention"] / core / 1e6),
        "rest_gflop_per_s": float(flops["linear"] / rest / 1e6),
    }


def _time_crossover(samples: dict[tuple[int, str], list[tuple[float, float]]], name: str) -> dict[str, Any]:
    """Tokens at which the attention takes half of the block's time, with a 95 % bootstrap interval over the rounds.

    ``tokens`` is ``None`` where the swept lengths do not contain the crossover, ``ci95`` where a resample does not.
    """
    lengths = np.array([length for length, kind in samples if kind == name], dtype=float)
    parts = np.array([samples[int(length), name] for length in lengths])  # (lengths, rounds, 2)
    ratio = np.log(parts[..., 0] / parts[..., 1])  # (lengths, rounds)
    rng = np.random.default_rng(0)
    picks = rng.integers(ratio.shape[1], size=(RESAMPLES, ratio.shape[1]))  # whole rounds: a round drifts as one
    medians = np.median(ratio[:, picks], axis=2)  # (lengths, RESAMPLES)
    found = [crossing(lengths, medians[:, i]) for i in range(RESAMPLES)]
    complete = None not in found
    return {
        "tokens": crossing(lengths, np.median(ratio, axis=1)),
        "ci95": [float(bound) for bound in np.quantile(found, (0.025, 0.975))] if complete else None,
    }


def crossing(lengths: np.ndarray, log_ratio: np.ndarray) -> float | None:
    """The length from which ``log_ratio`` stays positive, interpolated linearly in log L; ``None`` if outside.

    Taking the last change of sign instead of the first keeps a noisy short length from passing for the crossover.
    """
    above = log_ratio >= 0
    if len(lengths) < 2 or not above[-1] or above.all():
        return None
    i = int(np.flatnonzero(~above)[-1])  # last length where the rest still takes longer
    weight = log_ratio[i] / (log_ratio[i] - log_ratio[i + 1])
    x = np.log(lengths)
    return float(np.exp(x[i] + weight * (x[i + 1] - x[i])))
