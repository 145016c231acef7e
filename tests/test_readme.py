"""Everything in README.md is run here, or by .ci/run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from mixerzoo.benchmarks.counting.counter import count_flops
from mixerzoo.benchmarks.report import documents
from mixerzoo.benchmarks.sources import build_model
from mixerzoo.benchmarks.timing.environment import source_hash
from mixerzoo.tasks.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def lines(prefix: str) -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line.startswith(prefix)]


@pytest.mark.parametrize("code", blocks("python"), ids=["timm", "scan"])
def test_python(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("command", lines("mixerzoo "))
def test_commands(command, tmp_path, monkeypatch):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert result.output


def test_the_two_commands_are_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    for command in lines("pip install uv && "):
        assert command.removeprefix("pip install uv && ") in ci
    assert len(lines("pip install uv && ")) == 2


def test_published_figures():
    """docs/counting.md: what papers print, and what we print in their convention."""
    text = (ROOT / "docs" / "counting.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 13
    for name, published, ours in rows:
        macs = count_flops(build_model(name, (224, 224), device="meta"), (224, 224)).macs("paper") / 1e9
        assert f"{macs:.3f}" == ours, name
        assert (f"{macs:.1f}" == published) != name.startswith("vim_"), name


def test_every_table_follows_from_its_record():
    """What README and docs show is what `documents` writes today."""
    for page in documents.pages(ROOT):
        text = page.read_text(encoding="utf-8")
        assert documents.render(text, ROOT) == text, f"{page.name}: run python -m mixerzoo.benchmarks.report.documents"


def test_pages_hold_marked_tables():
    tables = {page.name: documents.MARKS.findall(page.read_text(encoding="utf-8")) for page in documents.pages(ROOT)}
    assert len(tables["model_zoo.md"]) >= 8
    assert len(tables["results.md"]) >= 10
    assert len(tables["README.md"]) == 1


def test_figures_of_other_code_are_named(tmp_path):
    """A record whose code has changed since, and one that does not say, are both listed."""
    results = tmp_path / documents.RESULTS
    results.mkdir(parents=True)
    source = (ROOT / documents.RESULTS / "mambaout_tiny_intel_xeon.jsonl").read_text(encoding="utf-8")
    row = json.loads(source.splitlines()[0])
    row["fingerprint"]["source_hash"] = source_hash(row["case"]["model"])
    (results / "now.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    row["fingerprint"]["source_hash"] = "0" * 16
    (results / "before.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (results / "unknown.jsonl").write_text(source, encoding="utf-8")
    marks = "".join(
        f"<!-- table: timings {name}.jsonl -->\n<!-- end of table -->\n" for name in ("now", "before", "unknown")
    )
    (tmp_path / "README.md").write_text(marks, encoding="utf-8")
    assert documents.changed(tmp_path) == ["README.md: before.jsonl", "README.md: unknown.jsonl"]


def test_a_mark_of_no_table_is_named():
    with pytest.raises(ValueError, match=r"table: expected one of .*, got 'nothing'"):
        documents.render("<!-- table: nothing x -->\n<!-- end of table -->\n", ROOT)


def test_readme_is_read_in_a_minute():
    assert len(README.splitlines()) <= 120


def around_mask_rcnn(dims: tuple[int, ...], height: int = 800, width: int = 1280) -> float:
    """GMACs of FPN, RPN, box and mask head (mmdet's Mask R-CNN, 80 classes, 1000 proposals, 100 masks)."""
    c, conv = 256, 9 * 256 * 256
    pixels = [height // stride * (width // stride) for stride in (4, 8, 16, 32)]
    fpn = sum(n * (dim * c + conv) for n, dim in zip(pixels, dims, strict=True))
    rpn = (sum(pixels) + -(-height // 64) * (width // 64)) * (conv + c * 3 * (1 + 4))
    box = 1000 * (7 * 7 * c * 1024 + 1024 * 1024 + 1024 * (81 + 4 * 80))
    mask = 100 * (14 * 14 * (4 * conv + 4 * c * c) + 28 * 28 * c * 80)
    return (fpn + rpn + box + mask) / 1e9


def around_upernet(dims: tuple[int, ...], height: int = 512, width: int = 2048) -> float:
    """GMACs of mmseg's UperNet head of 512 channels and 150 classes, without the auxiliary head."""
    c, conv = 512, 9 * 512 * 512
    pixels = [height // stride * (width // stride) for stride in (4, 8, 16, 32)]
    fpn = sum(n * (dim * c + conv) for n, dim in zip(pixels[:3], dims[:3], strict=True))
    pyramid = (1 + 4 + 9 + 36) * dims[3] * c + pixels[3] * (9 * dims[3] * c + 4 * conv)
    return (fpn + pyramid + pixels[0] * (4 * conv + 150 * c)) / 1e9


def test_published_figures_of_detectors_and_segmentors():
    """docs/counting.md: published totals are our backbone and what stands around it."""
    text = (ROOT / "docs" / "counting.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 9
    for name, *figures in rows:
        coco, ade20k = ((800, 1280), (512, 2048))
        nets = [build_model(name, size, device="meta", num_classes=0) for size in (coco, ade20k)]
        dims = tuple(stage["num_chs"] for stage in nets[0].feature_info)
        detector = count_flops(nets[0], coco).macs("paper") / 1e9 + around_mask_rcnn(dims)
        segmentor = count_flops(nets[1], ade20k).macs("paper") / 1e9 + around_upernet(dims)
        published_detector, ours, published_segmentor, ours_too = figures
        assert (f"{detector:.1f}", f"{segmentor:.1f}") == (ours, ours_too), name
        assert abs(segmentor / float(published_segmentor) - 1) < 0.002, name
        assert (abs(detector / float(published_detector) - 1) < 0.002) == (name != "vmamba_small_s2l15"), name


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
