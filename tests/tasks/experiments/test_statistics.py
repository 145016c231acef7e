"""The statistics against scipy, statsmodels, plain enumeration, and 2,000 simulated experiments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from mixerzoo.tasks.experiments.paired import statistics
from mixerzoo.tasks.experiments.paired.statistics import (
    compare,
    detectable_effect,
    equivalence,
    holm,
    moves_at_the_end,
    paired_interval,
    sign_flip,
    t_intervals,
    verdict,
    void_reasons,
)

EXPERIMENTS = 2000


def draws(seed: int, n: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1, n)


@pytest.mark.parametrize("seed", range(5))
def test_sign_flip_is_the_enumeration(seed):
    values = draws(seed, 7)
    means = [abs(np.mean(np.array(signs) * values)) for signs in itertools.product((-1, 1), repeat=7)]
    assert sign_flip(values) == pytest.approx(np.mean(np.array(means) >= abs(values.mean()) - 1e-12))


def test_sign_flip_at_its_ends():
    assert sign_flip(np.linspace(1, 2, 10)) == pytest.approx(2 / 2**10)
    assert sign_flip([0.0] * 5) == 1
    assert sign_flip([1.0, -1.0]) == 1
    with pytest.raises(ValueError, match="expected 2 to 20 differences, got 1"):
        sign_flip([1.0])


def test_against_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    from statsmodels.stats.power import TTestPower
    from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

    p = [0.03, 0.001, 0.2, 0.013, 0.013]
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1])
    for seed in range(3):
        values = draws(seed)
        np.testing.assert_allclose(equivalence(values, 0.8), ttost_paired(values, 0 * values, -0.8, 0.8)[0])
        interval = paired_interval(values, 0.98)
        np.testing.assert_allclose((interval.low, interval.high), DescrStatsW(values).tconfint_mean(0.02))
    np.testing.assert_allclose(
        detectable_effect(10, 0.01), TTestPower().solve_power(nobs=10, alpha=0.01, power=0.8), rtol=1e-4
    )


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_differences_are_a_point():
    interval = paired_interval([0.01] * 10)
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.01, 0.01, 0.01))
    assert equivalence([0.01] * 10, 0.02) == pytest.approx(0, abs=1e-100)
    assert equivalence([0.03] * 10, 0.02) == 1
    assert compare([[0.0] * 10], [0.02], 5)[0].outcome == "0"


def test_equivalence_is_the_98_percent_interval_within_the_margin():
    for seed in range(30):
        (found,) = compare([0.01 * draws(seed)], [0.01], 5)
        interval = found.equivalence_interval
        assert (found.p_equivalence < 0.01) == (interval.low > -0.01 and interval.high < 0.01)


def test_a_test_that_is_missing_does_not_reject():
    values = np.linspace(1, 2, 10)  # p = 2/1024
    alone, of_five = compare([values], [0.1], 1)[0], compare([values], [0.1], 5)[0]
    assert of_five.p_holm == pytest.approx(5 * alone.p_holm)
    assert of_five.outcome == "+"
    assert compare([-values], [0.1], 5)[0].outcome == "-"


@pytest.mark.parametrize("distribution", ["normal", "lopsided pairs"])
def test_errors_are_at_most_nominal_and_intervals_cover(distribution):
    """No difference: a family of 5 rejects in at most 5 % of 2,000 experiments, and 95 % of intervals hold zero."""
    rng = np.random.default_rng(5)
    shape = (EXPERIMENTS, 5, 10)
    if distribution == "normal":
        values = rng.normal(size=shape)
    else:  # differences of skewed values are symmetric, and heavy-tailed
        values = rng.lognormal(size=shape) - rng.lognormal(size=shape)
    signs = np.array(list(itertools.product((-1, 1), repeat=10)), float) / 10  # (1024, 10)

    means = np.abs(values @ signs.T)  # (experiments, 5, 1024)
    p_values = np.mean(means >= np.abs(values.mean(-1, keepdims=True)) - 1e-12, axis=-1)
    for p, differences in zip(p_values[:5, 0], values[:5, 0], strict=True):
        assert p == pytest.approx(sign_flip(differences))  # the enumeration at once is what scipy gives one by one
    error = 3 * np.sqrt(0.05 * 0.95 / EXPERIMENTS)
    assert np.mean([min(holm(p)) < 0.05 for p in p_values]) <= 0.05 + error
    assert np.mean(p_values[:, 0] < 0.05) <= 0.05 + error
    _, low, high = t_intervals(values[:, 0], 0.95)
    covered = np.mean((low <= 0) & (high >= 0))
    assert covered >= 0.95 - error
    if distribution == "normal":
        assert covered <= 0.95 + error


def test_equivalence_errs_at_most_as_often_as_nominal():
    """Differences whose mean is the margin are called equivalent in at most 1 % of experiments."""
    values = np.random.default_rng(6).normal(0.02, 0.01, size=(EXPERIMENTS, 10))
    wrong = np.mean(equivalence(values, 0.02) < 0.01)
    assert wrong <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / EXPERIMENTS)


def test_detectable_effect_is_detected_with_its_power():
    effect = detectable_effect(10, 0.01)
    values = np.random.default_rng(7).normal(effect, 1, size=(EXPERIMENTS, 10))
    found = np.mean([abs(v.mean()) / (v.std(ddof=1) / 10**0.5) > 3.2498 for v in values])  # t, 9 degrees, 0.005
    assert found == pytest.approx(0.8, abs=3 * np.sqrt(0.8 * 0.2 / EXPERIMENTS))


@pytest.mark.parametrize(
    ("outcome", "criterion", "rival", "word"),
    [
        ("0", "0", "+", "supports C"),
        ("+", "0", "+", "supports R"),
        ("-", "0", "+", "contradicts both"),
        ("+", "+", "0", "supports C"),
        ("0", "+", "0", "supports R"),
        ("+", "", "+", "supports R"),
        ("0", "", "+", "equivalent"),
        ("-", "", "+", "contradicts both"),
        ("0", "0", "", "supports C"),
        ("+", "+", "+", "supports both"),
        ("?", "0", "+", "undecided"),
    ],
)
def test_verdicts(outcome, criterion, rival, word):
    assert verdict(outcome, criterion, rival) == word
    assert verdict(outcome, criterion, rival, void=True) == "void"


def test_void_cells():
    flat = [[[step, 0.5] for step in range(10, 101, 10)]] * 3
    moving = [[[step, 0.001 * step] for step in range(10, 101, 10)]] * 3
    assert not moves_at_the_end(flat, 0.02)
    assert not moves_at_the_end(moving, 0.0201)  # 0.02 from step 80 to step 100
    assert moves_at_the_end(moving, 0.0199)
    assert void_reasons([True] * 8 + [False] * 2, [True] * 20, {"s6": flat}, 0.01) == []
    reasons = void_reasons([True] * 7 + [False] * 3, [True, False], {"s6": flat, "placebo": moving}, 0.01)
    assert reasons == [
        "the positive control fails in 3 of 10 seeds",
        "1 runs diverged",
        "still learning in the last fifth: placebo",
    ]
    assert statistics.CONTROL_FAILURES == 3
