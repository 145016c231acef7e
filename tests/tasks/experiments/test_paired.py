"""The runner of paired experiments: same bits twice, resuming, sharding, and records that the protocol refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.experiments.paired import grid as grids
from mixerzoo.tasks.experiments.paired import records, runs
from mixerzoo.tasks.experiments.paired.grid import Cell, Contrast, Control, Grid, load_grid
from mixerzoo.tasks.experiments.paired.patches import FashionPatches
from mixerzoo.tasks.experiments.paired.report import Runs, judge, write_report
from mixerzoo.tasks.experiments.paired.train import data_sets, network, train_run

DATA = Path(__file__).parents[2] / "data" / "fashion_mnist"
CELL = Cell(
    "far-49",
    "far",
    {"type": "legend", "side": 7},
    {"patch_size": 1, "embed_dim": 16, "depth": 1, "global_pool": ""},
    steps=6,
    batch=2,
    test_size=4,
    mixers=("s6", "placebo", "attn"),
    control=Control(("attn",), 0.0),
    tune=True,
    points=3,
)
TINY = Grid(
    name="tiny",
    title="Tiny",
    metric="accuracy",
    margin=0.02,
    tolerance=1.0,
    cells={"far-49": CELL},
    primary=(Contrast("P1", "scan", ((1, "far-49", "s6"), (-1, "far-49", "placebo")), "0", "+"),),
    sanity=(Contrast("S1", "control", ((1, "far-49", "attn"), (-1, "far-49", "placebo")), "+", "+"),),
    secondary=(Contrast("X1", "dose", ((1, "far-49", "s6"), (-1, "far-49", "placebo"))),),
    family=("tiny",),
    rates=(2e-3, 8e-3),
    seeds=(0, 1, 2),
    tuning_seeds=(100,),
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The tiny grid under a protocol of its own, from a tree that counts as clean; the folder of its records."""
    protocol = tmp_path / "protocol.md"
    protocol.write_text("as written before")
    for module in (grids, records):
        monkeypatch.setattr(module, "PROTOCOL", protocol)
    monkeypatch.setattr(records, "_git", lambda *arguments: "" if "status" in arguments else "c0ffee")
    monkeypatch.setattr(runs, "load_grid", lambda name: TINY)
    monkeypatch.setattr("mixerzoo.tasks.experiments.paired.report.load_grid", lambda name: TINY)
    return tmp_path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcome(record: dict) -> dict:
    return {key: record[key] for key in ("value", "curve", "accuracy", "bits", "accuracy_by_row", "rate")}


@pytest.mark.parametrize("mixer", ["s6", "globalconv", "attn"])
def test_a_run_has_the_same_bits_twice(mixer):
    one, other = (train_run(CELL, mixer, 3, 4e-3, metric="bits") for _ in range(2))
    assert outcome({**one, "rate": 0}) == outcome({**other, "rate": 0})
    assert outcome({**train_run(CELL, mixer, 4, 4e-3, metric="bits"), "rate": 0}) != outcome({**one, "rate": 0})
    assert one["finite"]
    assert [step for step, _ in one["curve"]] == [2, 4, 6]
    assert one["cpu_s"] > 0
    assert one["macs"] > 10_000


def test_runs_of_a_seed_share_pictures_and_initial_tensors():
    data, test = data_sets(CELL, 5)
    again, same_test = data_sets(CELL, 6)
    assert not np.array_equal(data.tokens(0)[0], again.tokens(0)[0])
    assert np.array_equal(test.tokens(0)[0], same_test.tokens(0)[0])
    s6, placebo = (network(CELL, mixer, data, 5).state_dict() for mixer in ("s6", "placebo"))
    common = [key for key in s6.keys() & placebo.keys() if s6[key].shape == placebo[key].shape]
    assert "blocks.0.mixer.conv.weight" in common
    assert all(s6[key].equal(placebo[key]) for key in common)


def test_a_run_that_diverges_says_so():
    record = train_run(CELL, "placebo", 0, float("inf"), metric="accuracy")
    assert record["value"] is None
    assert not record["finite"]


def test_tune_run_resume_shard_and_report(tiny, capsys):
    with pytest.raises(ValueError, match="far-49-s6 is not tuned yet; run --tune before --run"):
        runs.run("tiny", tiny)
    runs.tune("tiny", tiny)
    tuned = lines(tiny / "tiny" / "tuning.jsonl")
    assert len(tuned) == 3 * 2 * 1
    assert {record["asked_steps"] for record in tuned} == {3}
    assert "far placebo: 0.00" in capsys.readouterr().out

    runs.run("tiny", tiny, shard=(2, 2))
    path = tiny / "tiny" / "far-49.jsonl"
    half = path.read_text()
    assert len(lines(path)) == 4
    (tiny / "protocol.md").write_text("as written afterwards")
    with pytest.raises(ValueError, match=r"made under another protocol .* cannot be judged by this one"):
        runs.report("tiny", tiny)
    (tiny / "protocol.md").write_text("as written before")
    assert runs.report("tiny", tiny)["contrasts"][0]["verdict"] == "not run"

    runs.run("tiny", tiny)  # the other shard's, and no run twice
    assert path.read_text().startswith(half)
    assert len(lines(path)) == 9
    before = path.read_text()
    runs.run("tiny", tiny)
    assert path.read_text() == before
    by_name = {(record["mixer"], record["seed"]): record for record in lines(path)}
    (tiny / "again").mkdir()
    (tiny / "again" / "tiny").mkdir()
    (tiny / "again" / "tiny" / "tuning.jsonl").write_text((tiny / "tiny" / "tuning.jsonl").read_text())
    runs.run("tiny", tiny / "again", cell="far-49-s6", seed=2)
    (alone,) = lines(tiny / "again" / "tiny" / "far-49.jsonl")
    assert outcome(alone) == outcome(by_name["s6", 2])

    content = runs.report("tiny", tiny, tiny / "out")
    p1 = content["contrasts"][0]
    expected = [by_name["s6", seed]["value"] - by_name["placebo", seed]["value"] for seed in TINY.seeds]
    assert p1["values"] == pytest.approx(expected)
    written = {path.name for path in (tiny / "out").iterdir()}
    pictures = {"curves.png", "cost.png", "differences.png", "distance.png", "dose.png"}
    assert written == {"report.json", "report.md"} | pictures
    assert "| P1 | scan | 0 | + |" in (tiny / "out" / "report.md").read_text()


def record(mixer: str, seed: int, value: float, **changes) -> dict:
    made_by = {"protocol": grids.protocol_digest(), "settings": CELL.settings(), "clean": True}
    result = {"value": value, "finite": True, "curve": [[2, value], [6, value]], "rate": 1e-3, "asked_steps": 6}
    result |= {"steps": 6, "parameters": 1, "macs": 1, "step_ms": 1.0, "cpu_s": 1.0}
    return {"cell": "far-49", "mixer": mixer, "seed": seed, **result, **made_by, **changes}


def verdicts(folder: Path, name: str = "far-49.jsonl", s6: float = 0.9, attn: float = 0.99, **changes) -> list[str]:
    """Of ten seeds whose runs are made up."""
    ten = replace(TINY, seeds=tuple(range(10)), cells={"far-49": replace(CELL, control=Control(("attn",), 0.95))})
    path = folder / "tiny" / name
    path.parent.mkdir(exist_ok=True)
    values = {"s6": s6, "placebo": 0.5, "attn": attn}
    made = [record(mixer, seed, v + 1e-4 * seed, **changes) for mixer, v in values.items() for seed in range(10)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in made))
    return [judgement.verdict for judgement in judge({"tiny": Runs.load(ten, folder)}, "tiny")]


def test_verdicts_from_records(tiny):
    assert verdicts(tiny) == ["supports R", "as expected", "better"]
    assert verdicts(tiny, s6=0.501) == ["supports C", "as expected", "equivalent"]
    assert verdicts(tiny, s6=0.2) == ["contradicts both", "as expected", "worse"]
    assert verdicts(tiny, attn=0.9) == ["void", "void", "void"]
    assert verdicts(tiny, "far-49-twice.jsonl") == ["supports R", "as expected", "better"]  # instead of the void ones


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "0" * 64}, "s6, seed 0: made under another protocol"),
        ({"settings": "0"}, "made with other settings"),
        ({"clean": False}, "made from a tree with uncommitted changes"),
    ],
)
def test_records_that_the_protocol_does_not_cover_are_refused(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        verdicts(tiny, **changes)


def test_a_file_that_holds_no_records_is_refused(tmp_path):
    path = tmp_path / "far.jsonl"
    path.write_text('{"cell": "far"}\n')
    with pytest.raises(ValueError, match=r"far\.jsonl, line 1: not a record of a run"):
        records.read([path])


def test_a_killed_run_is_made_again_and_files_stay_whole(tmp_path):
    command = f"{sys.executable} -m mixerzoo.tasks.cli experiment legend --pilot --cell far-49 --steps 2 --runs"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command.split(), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL)
    path = tmp_path / "legend" / "pilot.jsonl"
    deadline = time.monotonic() + 300
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = lines(path)
    assert 1 <= len(killed) < 10
    runs.pilot("legend", tmp_path, cell="far-49", steps=2)
    whole = lines(path)
    assert whole[: len(killed)] == killed
    assert sorted(record["mixer"] for record in whole) == sorted(load_grid("legend").cell("far-49").mixers)


@pytest.mark.parametrize("name", ["legend", "ar", "h1"])
def test_grids_hold_together(name):
    grid = load_grid(name)
    tuned = {cell.task for cell in grid.cells.values() if cell.tune}
    for cell in grid.cells.values():
        assert cell.task in tuned
        (tuner,) = [other for other in grid.cells.values() if other.task == cell.task and other.tune]
        assert set(cell.mixers) <= set(tuner.mixers)
        assert cell.control is None or set(cell.control.mixers) <= set(cell.mixers)
        if cell.data["type"] == "legend":
            data, _ = data_sets(cell, 0)
        elif cell.data["type"] == "pixels":
            data, _ = data_sets(replace(cell, test_size=8), 0, DATA)
        else:  # the tests' Fashion-MNIST is too small for its training images
            data = FashionPatches(root=DATA, images=16)
        images, labels = data.batch([0])
        assert network(cell, cell.mixers[0], data, 0)(images).shape == (*labels.shape, data.classes)
    assert not set(grid.seeds) & {*grid.tuning_seeds, runs.PILOT_SEED}


def test_primary_contrasts_are_the_protocols():
    page = grids.PROTOCOL.read_text()
    family = [contrast for name in ("legend", "ar") for contrast in load_grid(name).primary]
    assert [contrast.name for contrast in family] == ["P1", "P2", "P3", "P4", "P5"]
    for contrast in family:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {contrast.name} |")]
        predicted = [cell.strip() for cell in row.split("|")[4:6]]
        assert predicted == [contrast.criterion or "–", contrast.rival]
        assert all(f"`{cell}`" in row for cell in contrast.cells())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["legend", "--jobs", "2"], "--jobs is for grids of recipes"),
        (["legend", "--cell", "far-7"], "no cell 'far'"),
        (["legend", "--cell", "far-784-s7"], "cell far-784: no mixer 's7'"),
        (["legend", "--seed", "100"], "seed: expected one of (0, 1, 2"),
        (["legend", "--double"], "--double is for one cell"),
        (["legend", "--tune", "--shard", "3/2"], "expected I/N with 1 ≤ I ≤ N, e.g. 2/4; got '3/2'"),
    ],
)
def test_wrong_arguments_are_one_clear_error(tmp_path, arguments, message):
    result = CliRunner().invoke(main, ["experiment", *arguments, "--runs", str(tmp_path)])
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert not isinstance(result.exception, ValueError)


def test_report_of_nothing_says_that_nothing_was_run(tiny):
    content = write_report(TINY, tiny, tiny / "out")
    assert {contrast["verdict"] for contrast in content["contrasts"]} == {"not run"}
