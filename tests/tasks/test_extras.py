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
    assert 'detection and segmentation need mmcv: run `pip install "mixerzoo[mm]"`' in run.stdout


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
