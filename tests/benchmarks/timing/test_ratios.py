from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mixerzoo.benchmarks.timing.case import Case, Row
from mixerzoo.benchmarks.timing.ratios import compare_files, ratio, ratios

A = Case("test_vit", (64, 64), threads=1)
B = replace(A, model="test_mambaout")
HERE = {"cpu": "a", "torch": "2.11", "commit": "1"}


def measured(case: Case, scale: float, seed: int = 0, rounds: int = 20, sigma: float = 0.005, **fields) -> Row:
    medians = (scale * np.random.default_rng(seed).normal(1, sigma, rounds)).tolist()
    defaults = {"batch": case.batch, "noise": "quiet", "fingerprint": HERE, "peak_memory_mib": 100.0, "p50_ms": scale}
    return Row(case, "ok", round_medians_ms=medians, **defaults | fields)


def write(path, *rows: Row):
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    return path


def test_rows_of_one_block_are_paired():
    drift = np.linspace(1, 2, 20)
    base = measured(A, 10, 0, block="x")
    row = measured(B, 10.3, 1, block="x")
    base.round_medians_ms = (drift * base.round_medians_ms).tolist()
    row.round_medians_ms = (drift * row.round_medians_ms).tolist()
    paired = ratio(row, base)
    assert (paired.verdict, paired.interleaved) == ("slower", True)
    apart = ratio(replace(row, block="y"), base)
    assert (apart.verdict, apart.interleaved) == ("no difference shown", False)


def test_verdicts():
    base = measured(A, 10)
    assert ratio(measured(B, 9, 1), base).verdict == "faster"
    assert ratio(measured(B, 11, 1), base).verdict == "slower"
    assert ratio(measured(B, 10, 1), base).verdict == "no difference shown"
    assert ratio(measured(B, 5, 1, rounds=5), base).verdict == "too few rounds"
    assert ratio(measured(B, 5, 1, noise="drifting"), base).verdict == "machine drifted"
    assert ratio(measured(B, 5, 1, noise="drifting", block="x"), replace(base, block="x")).verdict == "faster"
    assert ratio(measured(B, 10.06, 1, sigma=1e-4), replace(base, round_medians_ms=[10.0] * 9)).verdict == "slower"
    barely = ratio(measured(B, 10.06, 1, sigma=1e-4), replace(base, round_medians_ms=[10.0] * 9), min_change=0.01)
    assert barely.verdict == "no difference shown"


def test_an_interrupted_round_is_left_out_of_the_pairs():
    base = Row(A, "ok", batch=1, block="x", round_medians_ms=[1.0, 2, 3, 4, 5, 6, 7])
    row = Row(B, "interrupted", batch=1, block="x", round_medians_ms=[2.0, 4, 6, 8, 10, 12])
    found = ratio(row, base)
    assert (found.interval.value, found.interval.low, found.interval.high) == (2, 2, 2)
    assert found.verdict == "slower"


def test_times_are_compared_per_image():
    halved = measured(replace(B, batch=8), 40, 1, batch=4)
    assert ratio(halved, measured(replace(A, batch=8), 80)).interval.value == pytest.approx(1, rel=0.01)


def test_each_question_has_its_own_base():
    other = replace(A, batch=2)
    failed = Row(replace(A, model="test_resnet"), "error")
    rows = [failed, measured(A, 10), measured(B, 5, 1), measured(other, 20), measured(replace(B, batch=2), 30, 1)]
    found = ratios(rows)
    assert [(item.base.case, item.row.case) for item in found] == [(A, B), (other, replace(B, batch=2))]
    assert [round(item.interval.value, 1) for item in found] == [0.5, 1.5]
    assert ratios([failed, rows[1]]) == []


def test_two_files_are_compared_by_configuration_last_row_first(tmp_path):
    before = write(
        tmp_path / "a.jsonl", measured(A, 99), measured(A, 10), measured(B, 10), Row(replace(A, batch=2), "ok")
    )
    after = write(
        tmp_path / "b.jsonl",
        measured(A, 8, 1, fingerprint=HERE | {"commit": "2"}, peak_memory_mib=150.0),
        Row(B, "oom", fingerprint=HERE),
        Row(replace(A, batch=3), "ok"),
    )
    found = compare_files(before, after)
    assert [change.before.case for change in found.changes] == [A, B]
    first, second = found.changes
    assert first.ratio.verdict == "faster"
    assert first.ratio.interval.value == pytest.approx(0.8, rel=0.02)
    assert first.memory == 1.5
    assert (second.ratio, second.memory, second.after.status) == (None, None, "oom")
    assert [row.case.batch for row in found.only_before + found.only_after] == [2, 3]


def test_many_configurations_raise_the_level(tmp_path):
    cases = [replace(A, batch=n) for n in range(1, 11)]
    before = write(tmp_path / "a.jsonl", *(measured(case, 10, n) for n, case in enumerate(cases)))
    after = write(tmp_path / "b.jsonl", *(measured(case, 10, n + 50) for n, case in enumerate(cases)))
    alone = ratio(measured(cases[0], 10, 50), measured(cases[0], 10, 0)).interval
    among_ten = compare_files(before, after).changes[0].ratio.interval
    assert among_ten.low < alone.low < alone.high < among_ten.high


def test_different_machines_are_refused_unless_asked_for(tmp_path):
    before = write(tmp_path / "a.jsonl", measured(A, 10))
    after = write(tmp_path / "b.jsonl", measured(A, 5, fingerprint=HERE | {"cpu": "b", "gpu": "H200"}))
    with pytest.raises(ValueError, match=r"cpu 'a' and 'b', gpu None and 'H200'.*--allow-different-machines"):
        compare_files(before, after)
    assert compare_files(before, after, allow_different_machines=True).changes[0].ratio.verdict == "faster"


def test_files_without_a_common_configuration_are_refused(tmp_path):
    before, after = write(tmp_path / "a.jsonl", measured(A, 10)), write(tmp_path / "b.jsonl", measured(B, 10))
    with pytest.raises(ValueError, match="no configuration in common"):
        compare_files(before, after)
    with pytest.raises(FileNotFoundError):
        compare_files(before, tmp_path / "missing.jsonl")
