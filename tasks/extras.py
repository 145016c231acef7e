"""What the optional extra ``mm`` brings, or one error that says how to get it."""

from __future__ import annotations

import importlib
import io
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec

__all__ = ["require_mm"]

REMEDY = 'run `pip install "mixerzoo[mm]"` (or `uv sync --extra mm`), which compiles mmcv in about ten minutes'


def require_mm() -> None:
    """Makes sure of mmcv with its compiled operators, mmdet and mmseg.

    Raises:
        ImportError: one of them is missing, or mmcv was built without PyTorch at hand and so lacks its operators.
    """
    for name in ("mmcv", "mmdet", "mmseg"):
        if find_spec(name) is None:
            raise ImportError(f"detection and segmentation need {name}: {REMEDY}")
    try:
        importlib.import_module("mmcv.ops")
    except ImportError as error:
        raise ImportError(
            f"mmcv was built without its compiled operators ({error}): uninstall onedl-mmcv, then {REMEDY}"
        ) from error
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mmdet tells of optional packages that nothing here needs
        importlib.import_module("mmdet.evaluation")
