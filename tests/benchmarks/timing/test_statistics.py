from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixerzoo.benchmarks.timing import statistics as sig

times = st.lists(st.floats(0.01, 1e4), min_size=6, max_size=40)


@pytest.mark.parametrize(
    ("count", "ranks"), [(6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15)), (100, (40, 61))]
)
def test_median_interval_has_the_tabulated_ranks(count, ranks):
    """Ranks of the 95 % interval as tables of the sign test print them."""
    interval = sig.median_interval(list(range(count, 0, -1)))
    assert (interval.low, interval.high) == ranks
    assert interval.value == (count + 1) / 2


def test_five_values_have_no_95_percent_interval():
    assert sig.median_interval([1, 2, 3, 4, 5]) is None
    assert sig.median_interval([1, 2, 3, 4, 5], level=0.9) == sig.Interval(3.0, 1, 5)


def test_median_interval_covers_the_median_of_a_skewed_distribution():
    rng = np.random.default_rng(1)
    intervals = [sig.median_interval(rng.lognormal(0, 1, size=25)) for _ in range(2000)]
    covered = np.mean([i.low <= 1 <= i.high for i in intervals])
    assert 0.95 <= covered < 0.97  # exactly 1 - 2·P(Bin(25, ½) ≤ 7) = 0.957


@given(times)
def test_median_interval_holds_its_estimate_and_scales(values):
    interval, doubled = sig.median_interval(values), sig.median_interval([2 * v for v in values])
    assert interval.low <= interval.value <= interval.high
    assert doubled.half_width == pytest.approx(interval.half_width)


@pytest.mark.parametrize(
    ("count", "percent", "given_"),
    [(0, 50, False), (1, 50, True), (9, 90, False), (10, 90, True), (99, 99, False), (100, 99, True)],
)
def test_a_percentile_needs_a_sample_beyond_it(count, percent, given_):
    assert (sig.percentile(list(range(count)), percent) is not None) is given_


def test_percentiles_of_a_known_set():
    samples = list(range(101))
    assert [sig.percentile(samples, p) for p in (50, 90, 99)] == [50, 90, 99]
    assert sig.spread(samples) == pytest.approx(1.0)  # (75 - 25) / 50


def test_a_warm_up_ends_when_two_medians_of_five_agree_within_2_percent():
    assert not sig.stable([1.0] * 9)
    assert sig.stable([9.0] * 3 + [1.0] * 10)
    assert sig.stable([1.0] * 5 + [1.019] * 5)
    assert not sig.stable([1.0] * 5 + [0.97] * 5)
    assert sig.stable([1.0, 1, 1, 50, 50] + [1.0] * 5)  # two outliers do not move a median of five


def test_ratio_of_medians_of_known_samples():
    rng = np.random.default_rng(2)
    base = rng.normal(100, 1, size=60)
    interval = sig.ratio_of_medians(1.1 * rng.normal(100, 1, size=60), base)
    assert interval.low < 1.1 < interval.high
    assert interval.half_width < 0.01
    same = sig.ratio_of_medians(base, base[::-1])
    assert same.value == 1
    assert same.low < 1 < same.high


def test_ratio_of_medians_seldom_sees_a_difference_where_there_is_none():
    rng = np.random.default_rng(3)
    pairs = rng.lognormal(0, 0.05, size=(150, 2, 20))
    alarms = [not i.low <= 1 <= i.high for i in (sig.ratio_of_medians(a, b) for a, b in pairs)]
    assert np.mean(alarms) < 0.1


def test_pairing_cancels_a_drift_that_hides_the_ratio_from_medians():
    rng = np.random.default_rng(4)
    drift = np.linspace(1, 3, 30)
    slow, fast = drift * rng.normal(1.03, 0.002, 30), drift * rng.normal(1, 0.002, 30)
    paired = sig.paired_ratio(slow, fast)
    assert paired.low > 1.02
    assert paired.high < 1.04
    unpaired = sig.ratio_of_medians(slow, fast)
    assert unpaired.low < 1 < unpaired.high


def test_ratios_refuse_what_has_none():
    with pytest.raises(ValueError, match="same number of rounds, got 2 and 1"):
        sig.paired_ratio([1, 2], [1])
    with pytest.raises(ValueError, match="at least one value"):
        sig.ratio_of_medians([], [1])


@given(times, st.integers(0, 5))
def test_ratios_depend_on_the_seed_alone(values, seed):
    other = values[::-1]
    assert sig.paired_ratio(values, other, seed=seed) == sig.paired_ratio(values, other, seed=seed)
    interval = sig.ratio_of_medians(values, other, seed=seed)
    assert interval.low <= interval.high
    assert math.isclose(interval.value, 1)


def test_noise_verdicts():
    rng = np.random.default_rng(5)
    quiet = rng.normal(100, 0.5, size=40)
    assert sig.noise_verdict(quiet, quiet) == "quiet"
    assert sig.noise_verdict(quiet[:5], quiet[:5]) == "unknown"
    noisy = rng.normal(100, 15, size=40)
    assert sig.noise_verdict(noisy, noisy) == "noisy"
    warming = quiet * np.linspace(1, 1.1, 40)
    assert sig.noise_verdict(warming, warming) == "drifting"
    throttled = quiet * np.where(np.arange(40) < 25, 1, 1.3)
    assert sig.noise_verdict(throttled, throttled) == "drifting"
    assert sig.thirds_drift(throttled).value == pytest.approx(1.3, abs=0.02)
    assert sig.thirds_drift(throttled[:11]) is None
    slow_drift = quiet * np.linspace(1, 1.01, 40)  # significant, but below 2 %
    assert sig.noise_verdict(slow_drift, slow_drift) == "quiet"


def test_white_noise_is_seldom_called_a_drift():
    rng = np.random.default_rng(6)
    verdicts = [sig.noise_verdict(rounds, rounds) for rounds in rng.normal(100, 10, size=(100, 24))]
    assert verdicts.count("drifting") <= 6
