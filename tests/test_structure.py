"""The house rules that no single test would notice: who may import whom, and whose names are whose."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("backbones", "benchmarks", "tasks")
# For each folder, the folders (and outside packages) its files must not import.
FORBIDDEN = {
    "backbones/ops": {"backbones/mixers", "backbones", "benchmarks", "tasks"},
    "backbones/mixers": {"backbones", "benchmarks", "tasks"},
    "backbones": {"benchmarks", "tasks"},
    "benchmarks": {"tasks"},
    "tasks": {"benchmarks"},
}
EXCEPTIONS = {
    ("tasks/cli.py", "benchmarks/cli"),  # one `mixerzoo` command: the tasks' commands join the benchmarks' group
    ("tasks/experiments/train.py", "benchmarks/flops"),  # a run records its multiply-adds
}
NOT_IN_BACKBONES = {"mmengine", "mmcv", "mmdet", "mmseg", "rich", "click", "matplotlib"}


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def room_of(path: Path) -> str:
    """The most specific folder of FORBIDDEN that holds ``path`` (relative to the root)."""
    parts = path.parts
    return next(room for room in FORBIDDEN if parts[: len(Path(room).parts)] == Path(room).parts)


def imported(path: Path) -> set[tuple[str, ...]]:
    """Every module a file imports, also inside functions; ours as their path below the root."""
    modules = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            modules.add(base)
            modules |= {(*base, alias.name) for alias in node.names}
    return {parts[1:] if parts[0] == "mixerzoo" else parts for parts in modules if parts}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    room = room_of(path.relative_to(ROOT))
    for parts in imported(path):
        if parts[0] in ROOMS and (ROOT.joinpath(*parts).exists() or ROOT.joinpath(*parts).with_suffix(".py").exists()):
            target = room_of(Path(*parts))
            if (path.relative_to(ROOT).as_posix(), "/".join(parts[:2])) in EXCEPTIONS:
                continue
            assert target not in FORBIDDEN[room] or target == room, f"{path.name} imports {'.'.join(parts)}"
    if room.startswith("backbones"):
        outside = {parts[0] for parts in imported(path)}
        assert not outside & NOT_IN_BACKBONES, f"{path.name} imports {outside & NOT_IN_BACKBONES}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_annotations_are_postponed(path):
    assert "from __future__ import annotations" in path.read_text()


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
