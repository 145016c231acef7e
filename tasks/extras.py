"""What the optional extras ``train`` and ``mm`` bring, or one error that says how to get it."""

from __future__ import annotations

import importlib
import io
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec

__all__ = ["remedy", "require", "require_mm"]

# What needs an extra, and the packages that come with it.
EXTRAS = {
    "train": ("training", ("mmengine", "cv2", "tensorboard")),
    "mm": ("detection and segmentation", ("mmcv", "mmdet", "mmseg")),
}


def remedy(extra: str) -> str:
    """How to install an extra, in a checkout and outside."""
    options = " --no-build-isolation" if extra == "mm" else ""  # else mmcv is built without its operators
    outside = f'pip install{options} "mixerzoo[{extra}] @ file:///PATH/TO/THE/CHECKOUT"'
    return f"run `uv sync --extra {extra}` in a checkout, or `{outside}` outside it"


def require(extra: str) -> None:
    """Makes sure of the packages of an extra, importing none.

    Raises:
        ImportError: one of them is missing.
    """
    what, packages = EXTRAS[extra]
    for name in packages:
        if find_spec(name) is None:
            raise ImportError(f"{what} need{'' if ' and ' in what else 's'} {name}: {remedy(extra)}")


def require_mm() -> None:
    """Makes sure of mmcv with its compiled operators, mmdet and mmseg.

    Raises:
        ImportError: one of them is missing, or mmcv was built without PyTorch at hand and so lacks its operators.
    """
    require("mm")
    try:
        importlib.import_module("mmcv.ops")
    except ImportError as error:
        raise ImportError(
            f"mmcv was built without its compiled operators ({error}): uninstall onedl-mmcv, then {remedy('mm')}"
        ) from error
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mmdet tells of optional packages that nothing here needs
        importlib.import_module("mmdet.evaluation")
