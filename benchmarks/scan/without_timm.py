"""Imports the ops on a machine without timm, for which the backbones register their models when they are imported."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path


def open_backbones() -> None:
    """If timm is missing, puts an empty ``mixerzoo.backbones`` in place, whose ``ops`` can then be imported."""
    name = "mixerzoo.backbones"
    if importlib.util.find_spec("timm") is not None or name in sys.modules:
        return
    folder = Path(__file__).resolve().parents[1] / "backbones"
    package = types.ModuleType(name)
    package.__path__, package.__file__ = [str(folder)], str(folder / "__init__.py")
    package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = package
    importlib.import_module("mixerzoo").backbones = package
