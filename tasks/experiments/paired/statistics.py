"""What paired differences say, by rules written down before the runs (``docs/protocol.md``).

Differences are between two networks of equal seed, oriented so that a positive one favours the first. Tests come from
scipy; what is written here is Holm's step-down, which scipy lacks, and the rules that make verdicts of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

__all__ = [
    "ALPHA",
    "Difference",
    "compare",
    "detectable_effect",
    "equivalence",
    "holm",
    "moves_at_the_end",
    "paired_interval",
    "sign_flip",
    "verdict",
]

ALPHA = 0.05  # of each family of tests
CONTROL_FAILURES = 3  # seeds whose positive control fails that make a cell void
LAST = 0.2  # share of a learning curve that must be flat


@dataclass(frozen=True)
class Interval:
    """A mean difference and its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """All that is said of one contrast.

    Attributes:
        values: paired differences, one per seed.
        p: of the exact sign-flip test, two-sided.
        p_holm: the same, corrected for the family.
        interval: 95 %, from Student's t.
        p_equivalence: of the two one-sided tests.
        equivalence_interval: the one that lies within the margin if and only if they reject, 98 % for a family of 5.
        detectable: mean difference that a t test at the family's first step detects with probability 0.8, given the
            standard deviation found.
    """

    values: tuple[float, ...]
    p: float
    p_holm: float
    interval: Interval
    p_equivalence: float
    equivalence_interval: Interval
    detectable: float
    margin: float
    family: int

    @property
    def outcome(self) -> str:
        """``0`` equivalent, ``+`` first better, ``-`` first worse, ``?`` neither shown.

        Equivalence comes first: a difference that is surely smaller than the margin is none, even if it is not zero.
        """
        if self.p_equivalence < ALPHA / self.family:
            return "0"
        if self.p_holm < ALPHA:
            return "+" if self.interval.mean > 0 else "-"
        return "?"


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p value of the mean under all 2ⁿ changes of sign: no assumption but symmetry under no effect.

    Raises:
        ValueError: fewer than 2 differences, or more than 20, for which this would not be exact any more.
    """
    if not 2 <= len(differences) <= 20:
        raise ValueError(f"sign flip: expected 2 to 20 differences, got {len(differences)}")
    values = np.asarray(differences, float)
    flips = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True, alternative="two-sided"
    )
    return float(flips.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given: reject where one is below the family's α."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out.tolist()


def paired_interval(differences: Sequence[float], level: float = 0.95) -> Interval:
    """Mean difference with Student's t interval; of equal differences, a point."""
    mean, low, high = t_intervals(np.asarray(differences, float), level)
    return Interval(float(mean), float(low), float(high))


def t_intervals(differences: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of (…, n) with the ends of their t intervals, each (…)."""
    mean, error = differences.mean(-1), stats.sem(differences, axis=-1)
    reach = stats.t.ppf((1 + level) / 2, differences.shape[-1] - 1) * error
    return mean, mean - reach, mean + reach


def equivalence(differences: Sequence[float] | np.ndarray, margin: float) -> Any:
    """p value of the two one-sided t tests (Schuirmann 1987) that the mean lies within ± ``margin``; the larger one.

    Args:
        differences: (…, n).
        margin: of equivalence, positive.

    Returns:
        (…); of equal differences 0 within the margin and 1 outside.
    """
    values = np.asarray(differences, float)
    gap = margin - np.abs(values.mean(-1))  # to the nearer bound, whose test has the larger p value
    with np.errstate(divide="ignore"):
        return stats.t.sf(gap / stats.sem(values, axis=-1), values.shape[-1] - 1)


def detectable_effect(n: int, alpha: float, power: float = 0.8) -> float:
    """Smallest mean difference, in standard deviations, that a two-sided t test of n pairs finds with ``power``."""
    limit = stats.t.ppf(1 - alpha / 2, n - 1)

    def shortfall(effect: float) -> float:
        shift = effect * np.sqrt(n)
        return stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift) - power

    enough = 0.5  # scipy's distribution is not a number far out, so the root is approached from below
    while shortfall(enough) < 0:
        enough *= 1.3
    return float(optimize.brentq(shortfall, 1e-6, enough))


def compare(contrasts: Sequence[Sequence[float]], margins: Sequence[float], family: int) -> list[Difference]:
    """Judges the contrasts of one family.

    Args:
        contrasts: paired differences of each.
        margins: of equivalence, one for each.
        family: number of tests planned, at least as many as given: a test that is missing counts as not rejecting.
    """
    p_values = [sign_flip(values) for values in contrasts]
    adjusted = holm(p_values + [1.0] * (family - len(p_values)))
    return [
        Difference(
            values=tuple(map(float, values)),
            p=p,
            p_holm=p_holm,
            interval=paired_interval(values),
            p_equivalence=float(equivalence(values, margin)),
            equivalence_interval=paired_interval(values, 1 - 2 * ALPHA / family),
            detectable=detectable_effect(len(values), ALPHA / family) * float(np.std(values, ddof=1)),
            margin=margin,
            family=family,
        )
        for values, margin, p, p_holm in zip(contrasts, margins, p_values, adjusted, strict=False)
    ]


def verdict(outcome: str, criterion: str, rival: str, void: bool = False) -> str:
    """The word for a contrast: a function of its outcome and of what was predicted.

    Args:
        outcome: of `Difference`.
        criterion, rival: predictions, ``+``, ``0`` or ``""`` for none.
        void: whether a cell of the contrast is.

    Returns:
        ``void``, ``undecided``, ``supports C``, ``supports R``, ``supports both`` where they agree, ``equivalent``
        (a zero that nobody predicted), or ``contradicts both``.
    """
    if void:
        return "void"
    if outcome == "?":
        return "undecided"
    right = [name for name, predicted in (("C", criterion), ("R", rival)) if predicted == outcome]
    if right:
        return "supports both" if len(right) == 2 else f"supports {right[0]}"
    return "equivalent" if outcome == "0" else "contradicts both"


def moves_at_the_end(curves: Sequence[Sequence[tuple[int, float]]], tolerance: float) -> bool:
    """Whether the mean over seeds still moves by more than ``tolerance`` within the last fifth of the steps.

    Args:
        curves: of all seeds, equal steps, as [step, value].
    """
    steps = np.array([step for step, _ in curves[0]])
    mean = np.mean([[value for _, value in curve] for curve in curves], axis=0)
    last = mean[steps >= (1 - LAST) * steps[-1]]
    return bool(np.ptp(last) > tolerance)


def void_reasons(
    controls: Sequence[bool],
    finite: Sequence[bool],
    curves: dict[str, Sequence[Sequence[tuple[int, float]]]],
    tolerance: float,
) -> list[str]:
    """Why a cell says nothing; empty if it does.

    Args:
        controls: per seed, whether the positive control succeeded.
        finite: per run, whether it stayed finite.
        curves: of the networks that must be at their end.
        tolerance: of `moves_at_the_end`.
    """
    reasons = []
    failures = sum(not ok for ok in controls)
    if failures >= CONTROL_FAILURES:
        reasons.append(f"the positive control fails in {failures} of {len(controls)} seeds")
    if not all(finite):
        reasons.append(f"{sum(not ok for ok in finite)} runs diverged")
    moving = [mixer for mixer, given in curves.items() if moves_at_the_end(given, tolerance)]
    if moving:
        reasons.append(f"still learning in the last fifth: {', '.join(moving)}")
    return reasons
