"""Without the extra ``mm`` the rest works, and what needs it says how to get it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
from mixerzoo.tasks import extras

# Runs as if mmcv, mmdet and mmseg were not installed.
WITHOUT = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mmcv", "mmdet", "mmseg"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("mmcv", "mmdet", "mmseg") else find(name)

import mixerzoo.tasks.backbone, mixerzoo.tasks.detection, mixerzoo.tasks.synthetic.composed, mixerzoo.tasks.engine
from click.testing import CliRunner
from mixerzoo.tasks.cli import main

result = CliRunner().invoke(main, ["train", "detection/mask_rcnn_mambaout_femto_gatedcnn_composed"])
assert result.exit_code == 1
print(result.stderr, end="")
"""


@pytest.mark.slow
def test_without_it_the_error_names_the_extra():
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1
    assert "detection and segmentation need mmcv: run `uv sync --extra mm` in a checkout" in run.stdout


# Runs as if nothing but the base dependencies were installed.
BARE = """
import sys
gone = ("mmengine", "cv2", "tensorboard", "mmcv", "mmdet", "mmseg")
for name in gone:
    sys.modules[name] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in gone else find(name, package)
from click.testing import CliRunner
from mixerzoo.tasks.cli import main

for command in (["train", "x"], ["bench", "config:classification/mambaout_femto_gatedcnn_fashion_mnist"]):
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1, result.output
    print(result.stderr, end="")
result = CliRunner().invoke(main, ["analyze", "test_vit", "--input", "64"])
assert result.exit_code == 0, result.output
import mixerzoo.benchmarks.commands.phases, mixerzoo.benchmarks.timing.sweep
"""


def test_without_the_extra_train_the_benchmarks_work_and_the_rest_names_it():
    run = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    expected = "mixerzoo: training needs mmengine: run `uv sync --extra train` in a checkout, or `pip install"
    assert [line.startswith(expected) for line in run.stdout.splitlines()] == [True, True]


@pytest.mark.skipif(find_spec("mmdet") is None, reason="mmdet comes with the mm extra")
def test_an_mmcv_without_operators_is_named(monkeypatch):
    """What an isolated build makes, without a word (docs/detection.md)."""
    imported = extras.importlib.import_module

    def without_operators(name):
        if name == "mmcv.ops":
            raise ModuleNotFoundError("No module named 'mmcv._ext'")
        return imported(name)

    monkeypatch.setattr(extras.importlib, "import_module", without_operators)
    with pytest.raises(ImportError, match=r"built without its compiled operators \(.*mmcv\._ext.*\): uninstall onedl"):
        extras.require_mm()
