"""Everything in README.md is run here, or by .ci/run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from mixerzoo.benchmarks.cli import main
from mixerzoo.benchmarks.flops import count_flops
from mixerzoo.benchmarks.models import build_model

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
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|", README, re.MULTILINE)
    assert len(rows) > 15
    for name, params, gmacs in rows:
        net = build_model(name, (224, 224), device="meta")
        assert f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f}" == params, name
        macs = count_flops(net, (224, 224)).macs() / 1e9
        assert f"{macs:.{len(gmacs.partition('.')[2])}f}" == gmacs, name


def test_published_figures():
    """docs/counting.md: what papers print, and what we print in their convention."""
    text = (ROOT / "docs" / "counting.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    assert len(rows) == 13
    for name, published, ours in rows:
        macs = count_flops(build_model(name, (224, 224), device="meta"), (224, 224)).macs("paper") / 1e9
        assert f"{macs:.3f}" == ours, name
        assert (f"{macs:.1f}" == published) != name.startswith("vim_"), name


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
