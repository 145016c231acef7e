"""The experiment of hypothesis 1, very small: runs, table, plot, and going on after a stop."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from mixerzoo.benchmarks.counting.counter import count_flops
from mixerzoo.tasks import engine, experiment
from mixerzoo.tasks.cli import main
from mmengine.registry import MODELS
from PIL import Image

from .conftest import CONFIG, DATA, SMALL, as_arguments


@pytest.mark.slow
def test_experiment(tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    for mixer in ("gatedcnn", "identity"):
        text = f'_base_ = "{engine.find_config(CONFIG)}"\nmodel = {{"net": {{"name": "mambaout_femto_{mixer}"}}}}\n'
        (configs / f"{mixer}.py").write_text(text)
    runs = tmp_path / "runs"
    command = ["experiment", str(configs), "--runs", str(runs), "--data", str(DATA), "--seeds", "2"]
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


@pytest.mark.slow
def test_experiment_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing: no folder of configs, nor a packaged one"):
        experiment.experiment_configs("nothing")
    with pytest.raises(ValueError, match=r"no finished run of classification/h1"):
        experiment.report("classification/h1", tmp_path)
    failing = [
        "experiment",
        "classification/h1",
        "--runs",
        str(tmp_path / "runs"),
        "--data",
        str(tmp_path),
        "--seeds",
        "1",
    ]
    result = CliRunner().invoke(main, failing)
    assert result.exit_code == 1
    assert "11 of 11 runs failed: " in result.stderr
    assert "apt-get install dataset-fashion-mnist" in result.stderr


@pytest.mark.parametrize("name", ["gatedcnn", "s6", "ss2d", "ssd", "attn", "vit"])
def test_multiply_adds_are_those_of_the_analyzer(name):
    with torch.device("meta"):
        model = MODELS.build(engine.load_config(f"classification/h1/{name}").model)
    expected = count_flops(model.net, (28, 28), in_chans=1).macs()
    assert experiment.macs(f"classification/h1/{name}") == pytest.approx(expected, rel=1e-3)


def test_groups_have_plots_of_their_own(tmp_path):
    def entry(name, value):
        return experiment.Entry(name, 1, 10**6, [value, value + 1], [], 1.0, 1.0, "cpu")

    entries = [entry("s6_short", 30.0), entry("attn_short", 28.0), entry("attn_long", 20.0)]
    plain = experiment.Headline("seg/mIoU", "mIoU %", "highest")
    grouped = experiment.Headline("seg/mIoU", "mIoU %", "highest", groups=("_short", "_long", "_huge"))
    rows = [(group, [e.name for e in shown]) for group, shown in experiment._rows(entries, grouped)]
    assert rows == [("_short", ["s6_short", "attn_short"]), ("_long", ["attn_long"])]
    assert [experiment._network(e, grouped) for e in entries] == ["s6", "attn", "attn"]
    assert [experiment._network(e, plain) for e in entries] == ["s6_short", "attn_short", "attn_long"]
    heights = []
    for headline in (plain, grouped):
        experiment._draw(entries[:2] if headline is plain else entries, headline, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as image:
            heights.append(image.height)
    assert heights[1] > 1.5 * heights[0]
