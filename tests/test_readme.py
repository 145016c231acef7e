"""Everything in README.md is run here, or by .ci/run."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner
from mixerzoo.benchmarks.counting.counter import count_flops
from mixerzoo.benchmarks.sources import build_model
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


def test_model_table():
    section = README.partition("\n## Models\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|", section, re.MULTILINE)
    assert len(rows) > 15
    for name, params, gmacs in rows:
        net = build_model(name, (224, 224), device="meta")
        assert f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f}" == params, name
        macs = count_flops(net, (224, 224)).macs() / 1e9
        assert f"{macs:.{len(gmacs.partition('.')[2])}f}" == gmacs, name


def test_published_figures():
    """docs/counting.md: what papers print, and what we print in their convention."""
    text = (ROOT / "docs" / "counting.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 13
    for name, published, ours in rows:
        macs = count_flops(build_model(name, (224, 224), device="meta"), (224, 224)).macs("paper") / 1e9
        assert f"{macs:.3f}" == ours, name
        assert (f"{macs:.1f}" == published) != name.startswith("vim_"), name


def test_results_come_from_the_files(tmp_path):
    """Every line of the tables in the results section, and the picture, follow from `benchmarks/results/`."""
    section = README.partition("\n## Results\n")[2].partition("\n## ")[0]
    files = re.findall(r"mixerzoo bench --from (benchmarks/results/\w+\.jsonl)", section)
    printed = [CliRunner().invoke(main, ["bench", "--from", str(ROOT / f), "--markdown"]).output for f in files]
    scans = scan_rows(json.loads((ROOT / "benchmarks" / "results" / "scan_amd_epyc.json").read_text()))
    possible = {line for output in printed for line in output.splitlines()} | set(scans)
    possible |= set(experiment_rows(json.loads((ROOT / "benchmarks" / "results" / "h1_amd_epyc.json").read_text())))
    possible |= set(length_rows())
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    assert [line for line in rows if line not in possible] == []
    for side, tokens in re.findall(r"at about ([\d,]+) pixels a side \(([\d,]+) tokens", printed[0]):
        assert f"about {side} pixels a\nside ({tokens} tokens" in section
    picture = tmp_path / "time.svg"
    growth = ROOT / "benchmarks" / "results" / "growth_amd_epyc.jsonl"
    assert CliRunner().invoke(main, ["bench", "--from", str(growth), "--plot", str(picture)]).exit_code == 0
    assert picture.read_text() == (ROOT / "docs" / "time_against_image_side.svg").read_text()


def experiment_rows(record: dict) -> list[str]:
    """What `mixerzoo experiment` wrote as table.json, as lines of the README's table."""
    heads = ("network", "top-1 %", "± sd", "Mparams", "MMACs", "µs per image and training step")
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for entry in record["entries"]:
        values, step = entry["values"], 1e3 * entry["step_ms_per_image"]
        figures = f"{statistics.mean(values):.1f} | {statistics.stdev(values):.1f} | {entry['parameters'] / 1e6:.2f}"
        lines.append(f"| {entry['name']} | {figures} | {entry['macs'] / 1e6:.1f} | {step:.0f} |")
    return lines


def length_rows() -> list[str]:
    """Hypothesis 2: table.json of both tasks, short beside long, each seed, as lines of the README's table."""
    pair = ("short", "long")
    heads = [f"{metric}, short | long" for task in ("box AP50", "mIoU %") for metric in (task, "ms a step")]
    lines = [f"| network | {' | '.join(heads)} |", "| --- |" + 2 * len(heads) * " ---: |"]
    found = {}
    for task in ("detection", "segmentation"):
        file = ROOT / "benchmarks" / "results" / f"h2_{task}_amd_epyc.json"
        for entry in json.loads(file.read_text())["entries"]:
            found[(task, *entry["name"].rsplit("_", 1))] = entry
    for mixer in dict.fromkeys(mixer for _, mixer, _ in found):
        cells = []
        for task, digits in (("detection", 3), ("segmentation", 1)):
            entries = [found.get((task, mixer, length)) for length in pair]
            seeds = [[] if entry is None else entry["values"] for entry in entries]
            cells += [", ".join(f"{value:.{digits}f}" for value in values) or "–" for values in seeds]
            for entry, pictures in zip(entries, (16, 1), strict=True):  # 16 short ones have the pixels of a long one
                cells.append("–" if entry is None else f"{pictures * entry['step_ms_per_image']:.0f}")
        lines.append(f"| {mixer} | {' | '.join(cells)} |")
    return lines


def scan_rows(record: dict) -> list[str]:
    """The scan's C kernel against others, as lines of the README's table."""
    heads = ("scan", "shape (B, D, L, N)", "pass", "ms", "mamba-ssm's reference", "mambapy's pscan")
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for case in record["devices"]["cpu"]["cases"]:
        if case["shape"]["suite"] != "selective_scan":
            continue
        (row,) = (row for row in case["results"] if row["name"] == "cpu")
        shape = ", ".join(str(case["shape"][key]) for key in ("batch", "channels", "length", "states"))
        found = [row["speedups"].get(name) for name in ("selective_scan_ref", "mambapy pscan")]
        ratios = ["–" if ratio is None else f"{ratio[0]:.0f}×" for ratio in found]
        lines.append(
            f"| {case['shape']['model']} | ({shape}) | {case['mode']} | {row['ms']:.2f} | {' | '.join(ratios)} |"
        )
    return lines


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
