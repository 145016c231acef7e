"""Where one model overtakes another, from measured rows."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from mixerzoo.benchmarks.report.charts import TimeCurve
from mixerzoo.benchmarks.report.scaling import crossing, draw, sentences, time_curves, time_tables
from mixerzoo.benchmarks.timing.case import Case, Row
from mixerzoo.tasks.cli import main


def row(model: str, size: tuple[int, int], ms: float, **case) -> Row:
    rounds = [ms * (1 + 0.001 * i) for i in range(8)]
    interval = {"ci_low_ms": 0.99 * ms, "ci_high_ms": 1.01 * ms}
    batch = case.get("batch", 1)
    return Row(Case(model, size, threads=1, **case), "ok", batch=batch, p50_ms=ms, round_medians_ms=rounds, **interval)


def curve(model: str, sides: list[float], ms: list[float]) -> TimeCurve:
    return TimeCurve(model, np.array(sides), *(np.array(ms) for _ in range(3)))


def power(model: str, scale: float, exponent: float) -> TimeCurve:
    sides = [128, 256, 512, 1024]
    return curve(model, sides, [scale * side**exponent for side in sides])


def test_power_laws_cross_where_algebra_says():
    linear, quadratic = power("linear", 700.0, 2), power("quadratic", 0.01, 4)
    assert crossing(linear, quadratic) == pytest.approx(math.sqrt(700 / 0.01))
    assert crossing(quadratic, linear) is None
    assert sentences([linear, quadratic]) == [
        "linear overtakes quadratic at about 265 pixels a side (273 tokens of 16×16 pixels)."
    ]


def test_no_crossing():
    fast, slow = power("fast", 1, 2), power("slow", 2, 2)
    assert crossing(fast, slow) is None  # faster from the first size on: it overtakes nobody in the range
    assert crossing(slow, fast) is None
    assert crossing(fast, curve("elsewhere", [2048], [1])) is None
    assert sentences([fast, slow]) == ["No model overtakes another in this range."]


def test_only_shared_sizes_count_and_the_last_crossing():
    a = curve("a", [100, 200, 300, 400], [1, 3, 1, 1])
    b = curve("b", [100, 200, 400], [2, 2, 2])
    assert 200 < crossing(a, b) < 400
    assert crossing(curve("tie", [100, 200], [2, 1]), b) == pytest.approx(100)


def test_curves_take_what_was_measured_at_two_sizes():
    rows = [row("a", (64, 64), 8, batch=4), row("a", (32, 128), 9, batch=4), row("a", (128, 128), 32, batch=4)]
    (found,) = time_curves([*rows, row("b", (64, 64), 1, batch=4)])
    assert found.sides.tolist() == [64, 128]  # 32×128 has as many pixels as 64×64: the later row counts
    assert found.ms.tolist() == [9 / 4, 8]
    np.testing.assert_allclose(found.low_ms, [0.99 * 9 / 4, 0.99 * 8])


def test_one_table_per_set_of_conditions():
    rows = [row(m, (s, s), s / 8, batch=b) for b in (1, 2) for m in ("a", "b") for s in (64, 128)]
    tables = time_tables([*rows, row("c", (96, 96), 5)])
    assert [[cell.text for cell in line] for table in tables for line in table.rows] == [
        ["a", "8.00", "16.0"],
        ["b", "8.00", "16.0"],
        ["a", "4.00", "8.00"],
        ["b", "4.00", "8.00"],
    ]


def invoke(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def results(tmp_path):
    rows = [row("test_vit", (s, s), s**4 / 1e6) for s in (64, 128)]
    rows += [row("test_resnet", (s, s), s**2 / 100) for s in (64, 128)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(r.to_json() + "\n" for r in [row("test_vit", (64, 64), 1e6), *rows]))
    return path


def test_a_result_file_is_shown_and_drawn(results, tmp_path):
    picture = tmp_path / "time.svg"
    shown = invoke("--from", results, "--markdown", "--plot", picture)
    assert shown.exit_code == 0, shown.output
    assert "| test_vit | 16.8 | 268 |" in shown.output  # the later of two rows of one case
    assert "test_resnet overtakes test_vit at about 100 pixels a side" in shown.output
    drawn = ET.parse(picture).getroot()
    identifiers = {element.get("id") for element in drawn.iter()}
    assert {"growth-time-test_vit", "growth-time-test_resnet"} <= identifiers
    assert "overtakes" in ET.tostring(drawn, encoding="unicode")
    assert "time against" in invoke("--from", results).output.lower()


def test_bad_input_is_one_line(results, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(row("test_vit", (64, 64), 1).to_json() + "\n" + row("test_vit", (64, 64), 1, batch=2).to_json())
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for arguments, message in (
        (("--from", results, "--plot", tmp_path / "time.png"), "expected a file that ends in .svg"),
        (("--from", other, "--plot", tmp_path / "time.svg"), "expected rows of one set of conditions, got 2"),
        (("--from", empty), "expected measured rows, found none"),
        (("--from", tmp_path / "missing.jsonl"), "No such file"),
        (("--from", results, "test_vit"), "expected either MODEL..., or --from"),
        (("test_vit", "--plot", tmp_path / "time.png"), "expected a file that ends in .svg"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("time.*"))


def test_single_size_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="expected 1 to 12 models measured at two input sizes or more, got 0"):
        draw([row("test_vit", (64, 64), 1)], tmp_path / "time.svg")
