"""What the optional extra ``mm`` brings, or one error that says how to get it."""

from __future__ import annotations

import importlib

__all__ = ["require_mm"]

REMEDY = 'run `pip install "mixerzoo[mm]"` (or `uv sync --extra mm`), which compiles mmcv in about ten minutes'


def require_mm() -> None:
    """Imports mmcv with its compiled operators, mmdet and mmseg.

    Raises:
        ImportError: one of them is missing, or mmcv was built without PyTorch at hand and so lacks its operators.
    """
    for name in ("mmcv", "mmdet", "mmseg"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ImportError(f"detection and segmentation need {name}: {REMEDY}") from error
    try:
        importlib.import_module("mmcv.ops")
    except ImportError as error:
        raise ImportError(
            f"mmcv was built without its compiled operators ({error}): uninstall onedl-mmcv, then {REMEDY}"
        ) from error
