"""The experiment of hypothesis 1, very small: runs, table, plot, and going on after a stop."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from click.testing import CliRunner
from mixerzoo.benchmarks.counting.counter import count_flops
from mixerzoo.tasks import engine, recipes
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.experiments import report, run
from mixerzoo.tasks.experiments.headline import Headline
from mmengine.registry import MODELS
from PIL import Image

from .conftest import DATA, SMALL, as_arguments

GRID = """
_base_ = "mixerzoo::classification/fashion_mnist"
grid = {"backbone": {mixer: f"mambaout_femto_{mixer}" for mixer in ("gatedcnn", "identity")}}
"""


@pytest.mark.slow
def test_experiment(tmp_path):
    grid = tmp_path / "grid.py"
    grid.write_text(GRID)
    runs = tmp_path / "runs"
    command = ["experiment", str(grid), "--runs", str(runs), "--data", str(DATA), "--seeds", "2"]
    options = as_arguments({**SMALL, "train_cfg.max_epochs": 1})
    result = CliRunner().invoke(main, [*command, *options])
    assert result.exit_code == 0, result.output
    table = json.loads((runs / "table.json").read_text())
    assert {entry["name"] for entry in table["entries"]} == {"gatedcnn", "identity"}
    for entry in table["entries"]:
        folder = runs / entry["name"]
        assert entry["values"] == [
            json.loads((folder / f"seed_{seed}" / "result.json").read_text())["metrics"]["acc/top1"] for seed in (0, 1)
        ]
        assert entry["step_ms_per_image"] == json.loads((runs / "steps.json").read_text())[entry["name"]] > 0
    seeds = [json.loads((runs / "identity" / f"seed_{seed}" / "result.json").read_text())["seed"] for seed in (0, 1)]
    assert seeds == [0, 1]
    assert "| gatedcnn | 2 |" in (runs / "table.md").read_text()
    with Image.open(runs / "plot.png") as image:
        assert image.width > 800

    done = (runs / "gatedcnn" / "seed_0" / "result.json").stat().st_mtime_ns
    (runs / "identity" / "seed_1" / "result.json").unlink()  # as if it had been stopped there
    again = CliRunner().invoke(main, [*command, *options])
    assert again.exit_code == 0, again.output
    assert (runs / "gatedcnn" / "seed_0" / "result.json").stat().st_mtime_ns == done
    assert json.loads((runs / "table.json").read_text())["entries"] != []

    other = CliRunner().invoke(main, [*command, "--cfg-options", "train_cfg.max_epochs=9"])
    assert other.exit_code == 1
    assert "has runs with options" in other.stderr


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A grid of three cells, and trainings that write nothing but a result."""

    def train(config, folder, resume, options, data):
        folder.mkdir(parents=True)
        seed = options["randomness.seed"]
        assert (resume, options["train_cfg.max_epochs"]) == (True, 1)
        result = {"metrics": {"acc/top1": len(options["backbone"]) + seed}, "seed": seed}
        (folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(engine, "train", train)
    (tmp_path / "grid.py").write_text(GRID.replace('"identity"', '"identity", "pool"'))
    return tmp_path / "grid.py", tmp_path / "runs"


def test_shards_are_parts_of_the_runs_and_submitit_trains_them(quick):
    pytest.importorskip("submitit", reason="comes with the dev extra")
    grid, runs = quick
    how = {"options": ["train_cfg.max_epochs=1"], "seeds": 2, "submit": "debug"}
    assert not run.run(str(grid), runs, shard=(1, 2), **how)
    done = {f"{path.parent.parent.name} {path.parent.name}" for path in runs.glob("*/*/result.json")}
    assert done == {"gatedcnn seed_0", "pool seed_0", "identity seed_1"}
    assert run.run(str(grid), runs, shard=(2, 2), **how)
    assert len(list(runs.glob("*/*/result.json"))) == 6
    with pytest.raises(ValueError, match="has runs with options"):
        run.run(str(grid), runs)


def test_submitting_without_submitit_says_what_to_install(quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"--submit slurm needs submitit: run `pip install submitit`"):
        run.run(str(quick[0]), quick[1], submit="slurm")


def test_experiment_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing: no such experiment; there are ar, classification_h1"):
        recipes.experiment("nothing")
    with pytest.raises(ValueError, match=r"no finished run of classification_h1"):
        report.report("classification_h1", tmp_path)
    for shard in ("3/2", "0/2", "1"):
        result = CliRunner().invoke(main, ["experiment", "classification_h1", "--runs", "r", "--shard", shard])
        assert "expected I/N with 1 ≤ I ≤ N" in result.stderr


@pytest.mark.slow
def test_runs_that_fail_are_named(tmp_path):
    command = ["experiment", "classification_h1", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path)]
    result = CliRunner().invoke(main, [*command, "--seeds", "1"])
    assert result.exit_code == 1
    assert "11 of 11 runs failed: " in result.stderr
    assert "apt-get install dataset-fashion-mnist" in result.stderr


@pytest.mark.parametrize("name", ["gatedcnn", "s6", "ss2d", "ssd", "attn", "vit"])
def test_multiply_adds_are_those_of_the_analyzer(name):
    with torch.device("meta"):
        model = MODELS.build(engine.load_config(f"classification/h1/{name}").model)
    expected = count_flops(model.net, (28, 28), in_chans=1).macs()
    assert report.macs(engine.load_config(f"classification/h1/{name}")) == pytest.approx(expected, rel=1e-3)


def test_groups_have_plots_of_their_own(tmp_path):
    def entry(name, value):
        return report.Entry(name, 1, 10**6, [value, value + 1], [], 1.0, 1.0, "cpu")

    entries = [entry("s6_short", 30.0), entry("attn_short", 28.0), entry("attn_long", 20.0)]
    plain = Headline("seg/mIoU", "mIoU %", "highest")
    grouped = Headline("seg/mIoU", "mIoU %", "highest", groups=("_short", "_long", "_huge"))
    rows = [(group, [e.name for e in shown]) for group, shown in report._rows(entries, grouped)]
    assert rows == [("_short", ["s6_short", "attn_short"]), ("_long", ["attn_long"])]
    assert [report._network(e, grouped) for e in entries] == ["s6", "attn", "attn"]
    assert [report._network(e, plain) for e in entries] == ["s6_short", "attn_short", "attn_long"]
    heights = []
    for headline in (plain, grouped):
        report._draw(entries[:2] if headline is plain else entries, headline, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as image:
            heights.append(image.height)
    assert heights[1] > 1.5 * heights[0]
