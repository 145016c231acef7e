"""The house rules that no single test would notice: who may import whom, and whose names are whose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("backbones", "benchmarks", "tasks")


def test_imports_point_one_way():
    """The contracts are in pyproject.toml."""
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


# Runs as where the system has neither file locks of this kind nor Unix sockets: Windows, and in part macOS.
WITHOUT = """
import socket, sys
import psutil  # on Linux its own code names AF_UNIX
sys.modules["fcntl"] = None
for name in ("AF_UNIX", "SOCK_SEQPACKET"):
    delattr(socket, name)
import mixerzoo.backbones, mixerzoo.benchmarks
from mixerzoo.benchmarks.timing.process import context
from mixerzoo.tasks.cli import main
from click.testing import CliRunner

if __name__ == "__main__":
    for command in (["list", "mambaout_femto_gatedcnn"], ["analyze", "test_vit", "--input", "64"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        assert "GMACs" in result.output
    assert context("cpu").get_start_method() == "spawn"
"""


def test_list_and_analyze_need_no_file_locks_and_no_unix_sockets():
    result = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_we_shadow_no_name_of_timm():
    script = (
        "import warnings; warnings.simplefilter('error')\n"
        "import timm; before = {n: timm.model_entrypoint(n) for n in timm.list_models()}\n"
        "import mixerzoo.backbones\n"
        "changed = [n for n, entry in before.items() if timm.model_entrypoint(n) is not entry]\n"
        "assert not changed, changed\n"
        "assert len(timm.list_models()) > len(before)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_help_needs_no_torch():
    script = (
        "import sys; from click.testing import CliRunner; from mixerzoo.tasks.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'numpy', 'mmengine'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_package_is_in_pyproject():
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        "mixerzoo." + ".".join(path.parent.relative_to(ROOT).parts)
        for room in (*ROOMS, "configs")
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert there == listed
