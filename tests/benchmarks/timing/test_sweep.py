"""The sweep: who is measured when, for how long, and what becomes of failures. Children are acted, but for one test."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from mixerzoo.benchmarks.timing import environment, sweep
from mixerzoo.benchmarks.timing.case import read_rows
from mixerzoo.benchmarks.timing.ratios import ratios
from mixerzoo.benchmarks.timing.sweep import Case, run_sweep

pytestmark = pytest.mark.unpoisoned  # torch.device("meta") knows torch.empty by identity

A = Case("test_vit", (64, 64), threads=1)
B = replace(A, model="test_mambaout")
C = replace(A, model="test_resnet")
OOM = {"status": "oom", "message": "no memory"}


class Stage:
    """Acts the children: a clock that only their steps move, a log of who was asked what, and scripted failures."""

    def __init__(self, monkeypatch, step_ms=lambda case, now: 10.0):
        self.now = 0.0
        self.step_ms = step_ms
        self.fail = lambda case, request, company: None
        self.log: list[tuple[str, str, int]] = []
        self.alive: list[Actor] = []
        monkeypatch.setattr(sweep.time, "monotonic", lambda: self.now)

    def __call__(self, case: Case) -> Actor:
        self.alive.append(Actor(self, case))
        return self.alive[-1]

    def asked(self, what: str) -> list[str]:
        return [model for do, model, _ in self.log if do == what]


class Actor:
    def __init__(self, stage: Stage, case: Case) -> None:
        self.stage = stage
        self.case = case

    def ask(self, request: dict, timeout_s: float) -> dict:
        assert self in self.stage.alive
        request = json.loads(json.dumps(request))
        if request["do"] == "prepare":
            self.case = Case(**request["case"])
        self.stage.log.append((request["do"], self.case.model, self.case.batch))
        failure = self.stage.fail(self.case, request, len(self.stage.alive))
        if failure is not None:
            return failure
        if request["do"] == "prepare":
            return {
                "status": "ok",
                "output_error": 1e-6,
                "warmup_steps": 10,
                "warmup_stable": True,
                "step_ms": self.stage.step_ms(self.case, self.stage.now),
                "fingerprint": environment.collect("cpu", self.case.model) | {"threads": self.case.threads},
            }
        parts = []
        for _ in range(request["samples"]):
            step = self.stage.step_ms(self.case, self.stage.now)
            parts.append([step] if self.case.mode == "infer" else [step / 4, step / 2, step / 4])
            self.stage.now += step * request["steps"] / 1e3
        return {"status": "ok", "parts_ms": parts, "peak_memory_mib": 100.0, "peak_reserved_mib": None}

    def close(self) -> None:
        if self in self.stage.alive:
            self.stage.alive.remove(self)


@pytest.fixture
def stage(monkeypatch) -> Stage:
    return Stage(monkeypatch)


def noisy(case: Case, now: float) -> float:
    """A step that never repeats itself, so that no interval narrows to 1 %."""
    return 10.0 * (1 + (now * 7919) % 1)


def test_a_rows_figures_follow_from_its_samples(stage):
    (row,) = run_sweep([replace(A, batch=4)], start=stage)
    assert (row.status, row.batch, row.batch_halved_from) == ("ok", 4, None)
    assert (row.p50_ms, row.p90_ms, row.p99_ms) == (10, 10, 10)
    assert (row.ci_low_ms, row.ci_high_ms) == (10, 10)
    assert row.images_per_s == 400
    assert row.gmacs == 0.005250304
    assert row.gflop_per_s == pytest.approx(2 * row.gmacs * 400)
    assert (row.noise, row.spread, row.drift) == ("quiet", 0, 0)
    assert (row.peak_memory_mib, row.output_error, row.warmup_steps) == (100, 1e-6, 10)
    assert (row.forward_ms, row.backward_ms, row.optimizer_ms) == (None, None, None)
    assert row.fingerprint["cpu"] == environment.cpu_model()
    assert row.started <= row.finished


def test_a_model_that_cannot_be_counted_is_timed_all_the_same(stage, monkeypatch):
    monkeypatch.setattr(sweep, "forward_gmacs", lambda model, size: (None, "no formula for aten::magic"))
    (row,) = run_sweep([A], start=stage)
    assert (row.status, row.gmacs, row.gflop_per_s, row.p50_ms) == ("ok", None, None, 10)
    assert row.message == "GMACs not counted: no formula for aten::magic"


def test_why_a_model_is_not_counted_is_told():
    gmacs, reason = sweep.forward_gmacs("test_resnet", (64, 64))
    assert gmacs > 0
    assert reason is None
    gmacs, reason = sweep.forward_gmacs("test_vit", (8, 8))
    assert gmacs is None
    assert reason


def test_a_training_row_has_its_parts_and_counts_three_passes(stage):
    (row,) = run_sweep([replace(A, mode="train", batch=2)], start=stage)
    assert (row.forward_ms, row.backward_ms, row.optimizer_ms) == (2.5, 5, 2.5)
    assert row.gflop_per_s == pytest.approx(3 * 2 * row.gmacs * 200)


def test_measuring_stops_once_the_median_is_known_to_1_percent(stage):
    (row,) = run_sweep([A], budget_s=1000, start=stage)
    assert len(row.round_medians_ms) == sweep.CONVERGED_ROUNDS
    assert row.samples >= sweep.CONVERGED_SAMPLES
    assert stage.now < 20


def test_measuring_stops_at_the_budget(monkeypatch):
    stage = Stage(monkeypatch, noisy)
    rows = run_sweep([A, B], budget_s=4, start=stage)
    assert 8 <= stage.now < 9.5  # two cases of four seconds, and the round that was running
    assert all(row.noise == "noisy" and len(row.round_medians_ms) > 8 for row in rows)


@pytest.mark.parametrize(("step_ms", "samples", "steps"), [(1.0, 100, 1), (10.0, 50, 1), (2000.0, 1, 1)])
def test_a_single_stream_round_is_steps_timed_one_by_one(monkeypatch, step_ms, samples, steps):
    measurement = sweep.Measurement(A, 1, "", None)
    measurement._ready = {"step_ms": step_ms}
    assert measurement.plan(budget_s=60) == (samples, steps)


@pytest.mark.parametrize(("step_ms", "samples", "steps"), [(1.0, 3, 167), (10.0, 3, 17), (2000.0, 3, 1)])
def test_an_offline_round_is_blocks_of_steps(step_ms, samples, steps):
    measurement = sweep.Measurement(replace(A, scenario="offline"), 1, "", None)
    measurement._ready = {"step_ms": step_ms}
    assert measurement.plan(budget_s=60) == (samples, steps)


def test_candidates_take_turns_in_a_new_order_each_round(stage):
    run_sweep([A, B, C], start=stage)
    turns = stage.asked("round")
    rounds = [tuple(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert all(sorted(members) == sorted(rounds[0]) for members in rounds)
    assert len(set(rounds)) > 2
    again = Stage(pytest.MonkeyPatch())
    run_sweep([A, B, C], start=again)
    assert again.log == stage.log
    other = Stage(pytest.MonkeyPatch())
    run_sweep([A, B, C], start=other, seed=1)
    assert other.asked("round") != turns


def test_drift_does_not_reach_a_ratio(monkeypatch):
    stage = Stage(monkeypatch, lambda case, now: (10.0 if case.model == "test_vit" else 10.5) * (1 + now / 40))
    rows = run_sweep([A, B], budget_s=10, start=stage)
    assert [row.noise for row in rows] == ["drifting", "drifting"]
    (found,) = ratios(rows)
    assert found.interleaved
    assert found.verdict == "slower"
    assert 1.02 < found.interval.low <= found.interval.value <= found.interval.high < 1.1


def test_only_cases_with_the_same_question_share_a_block(stage):
    cases = [
        A,
        B,
        replace(A, batch=2),
        replace(A, image_size=(96, 96)),
        replace(A, mode="train"),
        replace(A, compile=True),
    ]
    rows = run_sweep(cases, start=stage)
    assert len({row.block for row in rows}) == 4
    assert rows[0].block == rows[1].block == rows[5].block


def test_no_more_children_live_at_a_time_than_allowed(stage, monkeypatch):
    monkeypatch.setattr(sweep, "MAX_TOGETHER", 2)
    most = 0

    def start(case):
        nonlocal most
        actor = stage(case)
        most = max(most, len(stage.alive))
        return actor

    rows = run_sweep([A, B, C], start=start)
    assert most == 2
    assert [row.status for row in rows] == ["ok"] * 3
    assert stage.alive == []


def test_memory_that_ran_out_in_company_is_tried_alone_before_the_batch_is_halved(stage):
    stage.fail = lambda case, request, company: OOM if case.model == "test_mambaout" and company > 1 else None
    told = []
    rows = run_sweep([replace(A, batch=8), replace(B, batch=8)], start=stage, on_event=told.append)
    assert [(row.status, row.batch, row.batch_halved_from) for row in rows] == [("ok", 8, None)] * 2
    assert rows[0].block != rows[1].block
    notes = [event.message for event in told if event.kind == "note"]
    assert len(notes) == 1
    assert "out of memory beside 1 others, will be measured alone" in notes[0]


@pytest.mark.parametrize("when", ["prepare", "round"])
def test_the_batch_is_halved_until_it_fits_and_the_row_says_so(stage, when):
    stage.fail = lambda case, request, company: OOM if case.batch > 3 and request["do"] == when else None
    told = []
    (row,) = run_sweep([replace(A, batch=12)], start=stage, on_event=told.append)
    assert (row.status, row.batch, row.batch_halved_from) == ("ok", 3, 12)
    assert row.message == "out of memory at batch 12, measured at 3"
    assert row.images_per_s == 300
    assert row.case.batch == 12
    assert [event.message.rpartition(": ")[2] for event in told if event.kind == "note"] == [
        "out of memory at batch 12, trying 6",
        "out of memory at batch 6, trying 3",
    ]


def test_a_model_that_fits_at_no_batch_is_an_oom_row(stage):
    stage.fail = lambda case, request, company: OOM
    (row,) = run_sweep([replace(A, batch=5)], start=stage)
    assert (row.status, row.batch, row.batch_halved_from, row.p50_ms) == ("oom", 1, 5, None)
    assert [batch for _, _, batch in stage.log] == [5, 2, 1]


@pytest.mark.parametrize("status", ["error", "timeout"])
@pytest.mark.parametrize("when", ["prepare", "round"])
def test_a_failure_is_a_row_without_time_and_stops_nobody_else(stage, tmp_path, status, when):
    failure = {"status": status, "message": "it broke"}
    stage.fail = lambda case, request, company: failure if (case.model, request["do"]) == (B.model, when) else None
    path = tmp_path / "f.jsonl"
    rows = run_sweep([A, B, C], path, start=stage)
    assert [row.status for row in rows] == ["ok", status, "ok"]
    assert rows[1].message == "it broke"
    assert rows[1].p50_ms is None
    assert {row.key for row in read_rows(path)[0]} == {row.key for row in rows}
    assert stage.asked("round").count(B.model) == (1 if when == "round" else 0)


def test_a_failed_output_check_keeps_its_error(stage):
    stage.fail = lambda *_: {"status": "error", "message": "output check failed", "output_error": 0.5}
    (row,) = run_sweep([A], start=stage)
    assert (row.status, row.output_error, row.p50_ms) == ("error", 0.5, None)


def test_a_sweep_goes_on_where_its_file_ends(stage, tmp_path):
    path = tmp_path / "f.jsonl"
    first = run_sweep([A], path, start=stage)
    path.write_text(path.read_text() + first[0].to_json()[:40])
    stage.log.clear()
    told = []
    rows = run_sweep([A, B], path, start=stage, on_event=told.append)
    assert rows[0] == first[0]
    assert set(stage.asked("prepare")) == {B.model}
    assert [event.kind for event in told][:2] == ["note", "resumed"]
    assert "the last line was torn by a kill and has been cut off" in told[0].message
    assert [row.case for row in read_rows(path)[0]] == [A, B]


def test_failures_are_measured_anew_only_if_asked(stage, tmp_path):
    path = tmp_path / "f.jsonl"
    stage.fail = lambda *_: {"status": "error", "message": "it broke"}
    run_sweep([A], path, start=stage)
    stage.fail = lambda *_: None
    assert run_sweep([A], path, start=stage)[0].status == "error"
    assert run_sweep([A], path, start=stage, retry_failed=True)[0].status == "ok"
    assert [row.status for row in read_rows(path)[0]] == ["error", "ok"]


@pytest.mark.parametrize("change", [{"source_hash": "other"}, {"source_hash": None}, {"cpu": "other"}, {"threads": 7}])
def test_rows_of_another_source_or_machine_do_not_count_as_done(stage, tmp_path, change):
    path = tmp_path / "f.jsonl"
    (row,) = run_sweep([A], path, start=stage)
    path.write_text(replace(row, fingerprint=row.fingerprint | change).to_json() + "\n")
    stage.log.clear()
    run_sweep([A], path, start=stage)
    assert set(stage.asked("prepare")) == {A.model}
    assert len(read_rows(path)[0]) == 2


def test_an_interrupt_keeps_what_was_measured_and_ends_the_children(monkeypatch, tmp_path):
    stage = Stage(monkeypatch, noisy)

    def interrupt(case, request, company):
        if case.batch == 2 and len(stage.asked("round")) > 60:
            raise KeyboardInterrupt

    stage.fail = interrupt
    path = tmp_path / "f.jsonl"
    told = []
    cases = [A, B, replace(A, batch=2), replace(B, batch=2), replace(A, batch=3)]
    with pytest.raises(KeyboardInterrupt):
        run_sweep(cases, path, start=stage, on_event=told.append)
    assert stage.alive == []
    rows = read_rows(path)[0]
    assert [row.status for row in rows] == ["ok", "ok", "interrupted", "interrupted"]
    assert all(row.p50_ms > 0 for row in rows)
    assert [event.row for event in told if event.kind == "row"] == rows
    stage.log.clear()
    stage.fail = lambda *_: None
    assert [row.status for row in run_sweep(cases, path, start=stage)] == ["ok"] * 5
    assert {batch for _, _, batch in stage.log} == {2, 3}


def test_progress_never_runs_backwards_and_ends_at_one(stage):
    told = []
    run_sweep([A, B, replace(A, batch=2)], start=stage, on_event=told.append)
    assert told[-1].kind == "row"
    assert told[-1].fraction == 1
    assert all(0 <= event.fraction <= 1 for event in told)
    rounds = [event.fraction for event in told if event.kind in ("prepare", "round")]
    assert rounds == sorted(rounds)


def test_defaults_are_filled_in_and_repetitions_measured_once(stage):
    rows = run_sweep([Case("test_vit"), Case("test_vit"), Case("test_vit", (160, 160))], start=stage)
    assert len(rows) == 1
    assert rows[0].case.image_size == (160, 160)
    assert rows[0].case.threads == len(environment.available_cores())


@pytest.mark.parametrize(
    ("case", "budget_s", "message"),
    [
        (replace(A, model="test_vitt"), 1, r"unknown model 'test_vitt'.*did you mean test_vit"),
        (replace(A, device="cuda:99"), 1, r"device cuda:99: this PyTorch sees \d+ CUDA devices"),
        (A, 0, "expected seconds above 0, got 0"),
        (A, float("nan"), "expected seconds above 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(stage, tmp_path, case, budget_s, message):
    with pytest.raises(ValueError, match=message):
        run_sweep([B, case], tmp_path / "f.jsonl", budget_s=budget_s, start=stage)
    assert stage.log == []
    assert not (tmp_path / "f.jsonl").exists()


def test_an_unwritable_file_is_refused_before_anything_is_measured(stage, tmp_path):
    with pytest.raises(FileNotFoundError):
        run_sweep([A], tmp_path / "missing" / "f.jsonl", start=stage)
    assert stage.log == []


def test_real_children_measure_and_compare(tmp_path):
    """Two models side by side, in real processes."""
    path = tmp_path / "f.jsonl"
    rows = run_sweep([A, replace(B, dtype="bfloat16")], path, budget_s=0.5)
    for row in rows:
        assert row.status == "ok", row.message
        assert 0 < row.p50_ms < 60_000
        assert row.fingerprint["threads"] == 1
        assert row.images_per_s == pytest.approx(1e3 / row.p50_ms)
        assert row.gflop_per_s > 0
        assert 1 < row.peak_memory_mib < 2000
        assert len(row.round_medians_ms) >= 1
    assert rows[0].output_error < 1e-5 < rows[1].output_error < 0.08
    (found,) = ratios(rows)
    assert found.interleaved
    assert found.interval.value > 0
    assert read_rows(path)[0] == rows


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_gpu_is_measured_with_its_memory_and_named(mode):
    cases = [replace(A, device="cuda", dtype=dtype, mode=mode, batch=16) for dtype in ("float32", "bfloat16")]
    rows = run_sweep([*cases, replace(cases[1], scenario="offline")], budget_s=1)
    for row in rows:
        assert row.status == "ok", row.message
        assert 0 < row.peak_memory_mib <= row.peak_reserved_mib
        assert row.fingerprint["gpu"] == torch.cuda.get_device_name()
        assert row.fingerprint["gpu_driver"]
        assert row.p50_ms > 0
        assert (row.backward_ms is not None) == (mode == "train")
