"""What timed samples say: percentiles, confidence intervals, noise, and whether two measurements differ.

A shared machine drifts: its speed changes by more, and more slowly, than neighbouring samples differ. Samples of one
round are therefore no independent draws, and every interval here stands on the medians of rounds, not on samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

RESAMPLES = 10_000
MIN_ROUNDS = 6  # fewer values than this have no 95 % interval of the median: 2 · 0.5⁵ = 6.25 % lie outside their range
NOISY_SPREAD = 0.05
DRIFT = 0.02


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width, relative to the estimate."""
        return (self.high - self.low) / 2 / self.value

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def percentile(samples: Sequence[float], percent: float) -> float | None:
    """Percentile of the samples, or None where they are too few for one sample to be expected above it (or, for the
    median, where there is none at all)."""
    needed = 1 if percent <= 50 else math.ceil(round(100 / (100 - percent), 6))
    return float(np.percentile(samples, percent)) if len(samples) >= needed else None


def spread(samples: Sequence[float]) -> float:
    """Interquartile range / median."""
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float((high - low) / middle)


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Distribution-free confidence interval of the median, from order statistics.

    Args:
        values: independent values, here the medians of rounds.
        level: probability that the interval holds the median, whatever the distribution.

    Returns:
        The sample median with its interval, or None if the values are too few to give one at this level.
    """
    if len(values) < 2:
        return None
    middle = float(np.median(values))
    low, high = scipy.stats.quantile_test(values, q=middle, p=0.5).confidence_interval(level)
    return None if math.isnan(low) or math.isnan(high) else Interval(middle, float(low), float(high))


def stable(samples: Sequence[float], window: int = 5, tolerance: float = 0.02) -> bool:
    """Whether the medians of the last two windows agree: the end of a warm-up."""
    if len(samples) < 2 * window:
        return False
    before, after = np.median(samples[-2 * window : -window]), np.median(samples[-window:])
    return bool(abs(after - before) <= tolerance * before)


def _bootstrap(samples: Sequence[np.ndarray], statistic: Callable[..., Any], level: float, seed: int) -> Interval:
    """A statistic of samples (each (n,), resampled apart) with its percentile-bootstrap interval."""
    value = float(statistic(*samples, axis=-1))
    if min(map(len, samples)) < 2:
        return Interval(value, value, value)
    rng = np.random.default_rng(seed)
    options = {"n_resamples": RESAMPLES, "confidence_level": level, "method": "percentile", "rng": rng}
    low, high = scipy.stats.bootstrap(samples, statistic, **options).confidence_interval
    return Interval(value, float(low), float(high))


def _ratio_of_medians(above: np.ndarray, below: np.ndarray, axis: int) -> np.ndarray:
    return np.median(above, axis=axis) / np.median(below, axis=axis)


def ratio_of_medians(
    numerator: Sequence[float], denominator: Sequence[float], level: float = 0.95, seed: int = 0
) -> Interval:
    """Ratio of the medians of two independent sets of rounds, with its percentile-bootstrap interval.

    Raises:
        ValueError: a set is empty.
    """
    if not len(numerator) or not len(denominator):
        raise ValueError("ratio of medians: expected at least one value on each side, got none")
    return _bootstrap((np.asarray(numerator, float), np.asarray(denominator, float)), _ratio_of_medians, level, seed)


def paired_ratio(
    numerator: Sequence[float], denominator: Sequence[float], level: float = 0.95, seed: int = 0
) -> Interval:
    """Median of the ratios of rounds that were measured side by side, with its percentile-bootstrap interval.

    The two values of a round saw the same state of the machine, so its drift cancels, which it does not in a ratio of
    two medians.

    Args:
        numerator, denominator: medians of the rounds; position i of both belongs to the same round.
        level: confidence level.
        seed: of the resampling.

    Raises:
        ValueError: the lengths differ or are zero.
    """
    if len(numerator) != len(denominator) or not len(numerator):
        raise ValueError(
            f"paired ratio: expected the same number of rounds, got {len(numerator)} and {len(denominator)}"
        )
    ratios = np.asarray(numerator, float) / np.asarray(denominator, float)
    return _bootstrap((ratios,), np.median, level, seed)


def thirds_drift(rounds: Sequence[float]) -> Interval | None:
    """Median of the last third of the rounds over that of the first, at 99 %; None with fewer than 12 rounds."""
    third = len(rounds) // 3
    if third < 4:
        return None
    return ratio_of_medians(rounds[-third:], rounds[:third], level=0.99)


def noise_verdict(samples: Sequence[float], rounds: Sequence[float]) -> str:
    """Names the state of the machine while it measured.

    ``drifting``: the first and the last third of the rounds differ by more than 2 %, and significantly so;
    ``noisy``: the interquartile range of the samples is more than 5 % of their median; ``quiet``: neither;
    ``unknown``: fewer than 6 rounds.
    """
    if len(rounds) < MIN_ROUNDS:
        return "unknown"
    change = thirds_drift(rounds)
    if change is not None and abs(change.value - 1) > DRIFT and not change.low <= 1 <= change.high:
        return "drifting"
    return "noisy" if spread(samples) > NOISY_SPREAD else "quiet"
