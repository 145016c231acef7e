"""The scan benchmark: it must compare the same thing, fairly, and say so when something is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixerzoo.benchmarks.scan import __main__ as scan
from mixerzoo.benchmarks.scan import problems
from mixerzoo.benchmarks.scan.problems import Candidate, Shape
from mixerzoo.benchmarks.timing import turns

CPU = torch.device("cpu")
SHAPES = {
    "selective_scan": Shape("selective_scan", "tiny", 2, 9, 4, 3, gated=True),
    "selective_scan_2d": Shape("selective_scan_2d", "tiny", 2, 4, 6, 2),
    "ssd": Shape("ssd", "tiny", 2, 28, 4, 5, width=3),
}


def own_and_installed(shape: Shape) -> list[Candidate]:
    return [candidate for candidate in problems.candidates(shape, CPU) if candidate.missing is None]


@pytest.mark.parametrize("suite", SHAPES)
def test_all_implementations_compute_the_same(suite: str) -> None:
    found = own_and_installed(SHAPES[suite])
    assert "torch" in [candidate.name for candidate in found]
    for name, row in scan.check(SHAPES[suite], found, CPU, torch.float32).items():
        assert not row.wrong, (name, row)
        assert {"y", "dA", "dB", "dC", "dD", "dbias"} < set(row.errors)


@pytest.mark.parametrize("suite", SHAPES)
def test_layouts_are_undone(suite: str) -> None:
    tensors = problems.make_tensors(SHAPES[suite], CPU, torch.float32)
    for candidate in own_and_installed(SHAPES[suite]):
        again = candidate.from_layout(candidate.to_layout(tensors))
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[name], t) for name, t in tensors.items()), candidate.name


def test_initial_step_sizes_are_mambas() -> None:
    bias = problems.make_tensors(SHAPES["selective_scan"], CPU, torch.float32)["bias"]
    step = torch.nn.functional.softplus(bias)
    assert (step >= 0.99e-3).all()
    assert (step <= 1.01e-1).all()


def test_wrong_failing_and_not_finite_implementations_are_told() -> None:
    shape = SHAPES["selective_scan"]
    right = next(candidate for candidate in own_and_installed(shape) if candidate.name == "torch")

    def fails(tensors: problems.Tensors) -> torch.Tensor:
        raise RuntimeError("out of\nregisters")

    found = [
        right,
        replace(right, name="off", run=lambda t: right.run(t) * 1.001),
        replace(right, name="not finite", run=lambda t: right.run(t) * float("nan")),
        replace(right, name="failing", run=fails),
        replace(right, name="absent", missing="no compiler"),
    ]
    rows = scan.check(shape, found, CPU, torch.float32)
    assert [rows[name].wrong for name in ("torch", "off", "not finite", "failing", "absent")] == [0, 1, 1, 1, 0]
    for row in rows.values():
        row.ms = row.ns_per_element = row.copy_share = 1.0
    table = scan.render("title", list(rows.values())).splitlines()
    assert any(line.startswith("off") and line.endswith("WRONG") for line in table)
    assert any(line.startswith("not finite") and "nan WRONG" in line for line in table)
    assert "  failing: not timed, it failed: RuntimeError: out of registers" in table
    assert "  absent: not timed, no compiler" in table


def test_rounds_interleave_and_slow_functions_sit_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"fast": 0.001, "slow": 1.0, "slower": 10.0}
    order: list[str] = []

    def fake(function: object, calls: int, device: torch.device) -> float:
        order.append(function)
        return seconds[function]

    monkeypatch.setattr(turns, "seconds_per_call", fake)
    rounds = turns.time_in_turns({name: name for name in seconds}, CPU, budget_s=1e9)
    taken = {name: sum(value is not None for value in values) for name, values in rounds.items()}
    assert taken == {"fast": turns.MAX_ROUNDS, "slow": turns.FEW_ROUNDS, "slower": 1}
    assert {len(values) for values in rounds.values()} == {turns.MAX_ROUNDS}
    assert sorted(order[5:7]) == sorted(order[7:9]) == ["fast", "slow"]  # after 2 + 2 + 1 calls of warm-up
    assert turns.speedup(rounds["slower"], rounds["fast"]).value == pytest.approx(10_000)
    assert turns.median(rounds["slower"]) == 10.0


def test_ratio_is_of_shared_rounds() -> None:
    assert turns.speedup([8.0, 2.0, None], [2.0, 1.0, 100.0]).value == 3.0


def test_whole_run_writes_what_it_prints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan, "CPU_SHAPES", tuple(SHAPES.values()))
    monkeypatch.setattr(scan, "copy_speed", lambda device: 1e10)
    monkeypatch.setattr(turns, "SAMPLE_S", 1e-9)
    output = tmp_path / "scan.json"
    assert scan.main(["--device", "cpu", "--quick", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    cases = record["devices"]["cpu"]["cases"]
    assert [(case["shape"]["suite"], case["mode"]) for case in cases] == [(s, m) for s in SHAPES for m in scan.MODES]
    printed = capsys.readouterr().out
    for case in cases:
        timed = [row for row in case["results"] if row["skipped"] is None]
        assert {"torch"} <= {row["name"] for row in timed}
        assert all(f"{row['ms']:.3f}" in printed for row in timed)
    assert record["fingerprint"]["torch"] == torch.__version__.partition("+")[0]
    assert [case["results"][0]["ratio"] > 1 for case in record["devices"]["cpu"]["memory"]] == [True, True]


def test_bad_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--output", str(tmp_path / "absent" / "x.json")], ["--device", "tpu"]):
        with pytest.raises(SystemExit) as exit_:
            scan.main(arguments)
        assert exit_.value.code == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]
