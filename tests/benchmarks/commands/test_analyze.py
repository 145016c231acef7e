"""``mixerzoo analyze`` and ``mixerzoo list``: every format from the same records, bad input in one line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from fractions import Fraction

import pytest
import torch
from click.testing import CliRunner
from mixerzoo.benchmarks import sources
from mixerzoo.benchmarks.counting.record import from_json
from mixerzoo.tasks.cli import main


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def refused(*args):
    """Standard error of a command that must fail in one line, and what it printed before."""
    result = run(*args, code=1)
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("mixerzoo: ")
    return result.stderr, result.stdout


def test_tables_state_what_the_figures_depend_on():
    out = run("analyze", "test_vit", "mambaout_femto_attn_causal", "--input", "64").stdout
    for said in ("GFLOPs", "GMACs", "64×64", "convention exact", "1 MAC = 2 FLOPs", "Attention path: ", "torch 2."):
        assert said in " ".join(out.split())
    assert "Causal attention: mambaout_femto_attn_causal, counting the pairs that exist." in " ".join(out.split())
    assert "not autoregressive" in out
    assert "causal attention" in out
    assert "gelu" in out  # among the operators not counted


def test_figures_never_come_without_a_unit():
    out = run("analyze", "resnet10t", "--tree").stdout.replace("1 MAC = 2 FLOPs", "")
    assert "GMACs" in out
    assert not re.search(r"\d\s*(FLOPs|MACs)", out)


def test_json_is_the_record():
    (record,) = from_json(run("analyze", "test_vit", "--json", "--input", "224x448").stdout)
    assert record.image_size == record.counted_size == (224, 448)
    blocks = max(record.stages, key=lambda stage: stage.flops)
    assert Fraction(blocks.rho_exact) == Fraction(14 * 28 + 1, 6 * blocks.dim * 5 // 6)  # its MLP has ratio 3: 5·D
    assert record.modules == ()
    (with_tree,) = from_json(run("analyze", "test_vit", "--json", "--tree", "--input", "224x448").stdout)
    assert with_tree.modules[0].flops == record.flops


def test_csv_has_a_line_per_scope():
    rows = list(csv.DictReader(io.StringIO(run("analyze", "resnet10t", "test_vit", "--csv").stdout)))
    totals = {row["model"]: int(row["flops"]) for row in rows if row["scope"] == "model"}
    assert list(totals) == ["resnet10t", "test_vit"]
    for model, total in totals.items():
        stages = [row for row in rows if row["model"] == model and row["scope"].startswith("stage ")]
        assert sum(int(row["flops"]) for row in stages) == total
        assert {(row["convention"], row["height"], row["torch"]) for row in stages} == {
            ("exact", "176" if model == "resnet10t" else "160", torch.__version__)
        }


def test_markdown_tables_are_rectangular():
    out = run("analyze", "resnet10t", "test_vit", "--markdown", "--tree", "--input", "64x96").stdout
    blocks = [block.splitlines() for block in out.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5  # networks, stages and modules of two
    for lines in blocks:
        assert {line.count("|") for line in lines} == {lines[0].count("|")}
        assert set(lines[1]) <= set("|:- ")
    assert "64×96" in out
    assert "GMACs" in blocks[0][0]


def test_tree_shows_every_module_with_its_growth():
    out = run("analyze", "test_vit", "--tree").stdout
    for path in ("patch_embed", "blocks", "attn", "qkv", "fc1", "head"):
        assert f" {path}  " in out
    assert "grows as pixels^1.00" in out


def test_tasks():
    records = from_json(run("analyze", "test_vit", "--task", "all", "--json").stdout)
    assert [(r.task, r.image_size) for r in records] == [
        ("imagenet", (224, 224)),
        ("coco", (800, 1280)),
        ("ade20k", (512, 2048)),
        ("ade20k", (512, 512)),
        ("nyu", (480, 640)),
        ("kitti", (352, 1216)),
    ]
    out = run("analyze", "test_vit", "--task", "all").stdout
    assert "test_vit, coco 800×1280: long" in out
    assert out.count("not autoregressive") == 6


def test_paper_convention():
    (record,) = from_json(run("analyze", "mambaout_femto_gatedcnn", "--convention", "paper", "--json").stdout)
    assert (record.convention, record.macs, record.flops) == ("paper", record.macs_paper, 2 * record.macs_paper)
    assert round(record.macs / 1e9, 3) == 1.156
    assert record.macs_by_class["other"] > 0


def test_trust():
    pytest.importorskip("fvcore", reason="fvcore is a development extra")
    (record,) = from_json(run("analyze", "test_vit", "--trust", "--json", "--input", "64").stdout)
    torch_counter, fvcore = record.trust
    assert torch_counter.macs == record.macs
    assert torch_counter.delta == 0
    assert fvcore.macs == record.macs_paper - record.macs_by_class["attention"]
    assert fvcore.misses == {"aten::scaled_dot_product_attention": 6}
    assert "leaves out" in run("analyze", "test_vit", "--trust", "--input", "64").stdout


def test_trust_without_fvcore_names_the_fix(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fvcore.nn", None)
    (record,) = from_json(run("analyze", "resnet10t", "--trust", "--json", "--input", "64").stdout)
    assert record.trust[1].macs is None
    assert "pip install fvcore" in record.trust[1].note


@pytest.mark.parametrize(("error", "said"), [(AssertionError(), "AssertionError"), (RuntimeError("one\ntwo"), "one")])
def test_trust_says_why_fvcore_failed(monkeypatch, error, said):
    pytest.importorskip("fvcore", reason="fvcore is a development extra")

    def fail(*args):
        raise error

    monkeypatch.setattr("fvcore.nn.FlopCountAnalysis", fail)
    (record,) = from_json(run("analyze", "resnet10t", "--trust", "--json", "--input", "64").stdout)
    assert (record.trust[1].macs, record.trust[1].note) == (None, f"failed: {said}")
    assert record.trust[0].macs > 0


def test_output_is_written_atomically(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    assert run("analyze", "resnet10t", "--json", "--output", path).stdout == ""
    assert from_json(path.read_text())[0].model == "resnet10t"
    assert os.listdir(tmp_path) == ["record.json"]
    run("analyze", "resnet10t", "--output", path)
    assert "GMACs" in path.read_text()


def test_sizes_may_be_repeated_or_listed():
    out = run("analyze", "resnet10t", "--json", "--input", "64,96x128", "--input", "32").stdout
    assert [row["image_size"] for row in json.loads(out)] == [[64, 64], [96, 128], [32, 32]]


class TestBadInput:
    @pytest.mark.parametrize("size", ["0x0", "x", "224x", "-3"])
    def test_image_size(self, size):
        error, _ = refused("analyze", "resnet10t", f"--input={size}")
        assert "input size: expected" in error

    def test_unknown_model(self):
        error, _ = refused("analyze", "resnet10tt")
        assert "did you mean" in error
        assert "resnet10t" in error

    def test_image_smaller_than_a_patch(self):
        error, _ = refused("analyze", "test_vit", "--input", "8")
        assert "test_vit cannot take 8×8 images" in error

    def test_what_could_be_counted_is_shown(self):
        error, out = refused("analyze", "efficientformer_l1", "--input", "224,256", "--json")
        assert "cannot take 256×256" in error
        assert from_json(out)[0].image_size == (224, 224)

    def test_output_in_no_folder(self, tmp_path):
        error, _ = refused("analyze", "resnet10t", "--output", tmp_path / "no" / "file.json")
        assert "there is no folder" in error

    def test_output_is_a_folder(self, tmp_path):
        error, _ = refused("analyze", "resnet10t", "--output", tmp_path)
        assert "is a folder" in error

    def test_output_is_refused_before_any_work(self, tmp_path, monkeypatch):
        monkeypatch.setattr("mixerzoo.benchmarks.counting.criterion.Analyzer", None)
        refused("analyze", "resnet10t", "--output", tmp_path / "no" / "file.json")

    @pytest.mark.parametrize(
        "args",
        [["analyze"], ["analyze", "resnet10t", "--task", "coco", "--input", "64"], ["analyze", "x", "--task", "lsun"]]
        + [["analyze", "resnet10t", "--convention", "vmamba"], ["list", "--limit", "-1"]],
    )
    def test_usage(self, args):
        assert "Usage:" in run(*args, code=2).stderr

    def test_pattern_that_matches_nothing(self):
        error, _ = refused("list", "mambaoutt_tiny")
        assert "no model matches 'mambaoutt_tiny'; did you mean" in error


class TestList:
    def test_pattern_covers_ours_and_timms(self):
        out = run("list", "mambaout_femto*").stdout
        rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("  mambaout")}
        assert rows["mambaout_femto_gatedcnn"][1:5] == ["7.30", "224×224", "1.15", "0.0"]
        assert rows["mambaout_femto"][1:] == rows["mambaout_femto_gatedcnn"][1:]
        assert rows["mambaout_femto_attn"][-1] == "attention"
        assert rows["mambaout_femto_attn_causal"][-2:] == ["causal", "attention"]
        assert rows["mambaout_femto_identity"][-1] == "none"

    def test_a_part_of_a_name_will_do(self):
        assert sources.matching("caformer_s18") == ["caformer_s18"]

    def test_default_is_this_package(self):
        names = sources.matching(None)
        assert "mambaout_tiny_gatedcnn" in names
        assert "mambaout_tiny" not in names

    def test_what_is_left_out_is_said(self):
        out = " ".join(run("list", "resnet*", "--limit", "1").stdout.split())
        assert "1 of" in out
        assert "left out: narrow the pattern, or --limit 0 for all" in out
