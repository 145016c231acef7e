"""Times functions of one process against each other: they take turns, so that a machine's drift meets all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from .statistics import Interval, paired_ratio

SAMPLE_S = 0.02  # calls are repeated to fill this, so that the clock and the synchronisation do not matter
FAST_S, SLOW_S = (
    0.3,
    3.0,
)  # beyond the first a function gets FEW_ROUNDS, beyond the second its warm-up is its only round
FEW_ROUNDS = 3
MAX_ROUNDS = 31

Rounds = list[float | None]
"""Seconds per call in each round; None where the function sat the round out."""


def seconds_per_call(function: Callable[[], object], calls: int, device: torch.device) -> float:
    """Wall time of ``calls`` calls, all of their work on the device included, over ``calls``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / calls


def time_in_turns(
    functions: Mapping[str, Callable[[], object]], device: torch.device, budget_s: float, seed: int = 0
) -> dict[str, Rounds]:
    """Seconds per call of each function, round by round, in an order drawn anew for each round.

    Args:
        functions: what to time; each is called once or twice before (compilation, caches).
        device: where they compute.
        budget_s: time for all rounds together; the slow functions' few rounds are taken in any case.
        seed: of the orders.

    Returns:
        For each function as many values as there were rounds, of which at least one is a number.
    """
    calls: dict[str, int] = {}
    turns: dict[str, int] = {}
    rounds: dict[str, Rounds] = {name: [] for name in functions}
    for name, function in functions.items():
        once = seconds_per_call(function, 1, device)
        if once > SLOW_S:
            rounds[name].append(once)
            calls[name], turns[name] = 1, 0
            continue
        once = seconds_per_call(function, 1, device)
        calls[name] = max(1, round(SAMPLE_S / once))
        turns[name] = MAX_ROUNDS if once < FAST_S else FEW_ROUNDS

    order, rng, begin, turn = list(functions), random.Random(seed), time.perf_counter(), 0
    while turn < FEW_ROUNDS or (turn < MAX_ROUNDS and time.perf_counter() - begin < budget_s):
        rng.shuffle(order)
        for name in order:
            if turn < turns[name]:
                rounds[name].append(seconds_per_call(functions[name], calls[name], device))
        turn += 1
    return {name: values + [None] * (turn - len(values)) for name, values in rounds.items()}


def median(rounds: Rounds) -> float:
    """Median of the rounds that were taken."""
    return statistics.median(value for value in rounds if value is not None)


def speedup(baseline: Rounds, ours: Rounds) -> Interval:
    """How many times faster ``ours`` is: the median of baseline / ours over the rounds that both took part in."""
    both = [(a, b) for a, b in zip(baseline, ours, strict=True) if a is not None and b is not None]
    return paired_ratio(*zip(*both, strict=True))
