"""Importing this fails, with the remedy, where the extra ``mm`` is not installed."""

from __future__ import annotations

from importlib.util import find_spec

for _module in ("mmcv", "mmcv._ext", "mmseg"):  # an mmcv that was built without torch has no _ext
    if find_spec(_module) is None:
        raise ImportError(
            f'segmentation needs {_module}, which is not installed; `pip install "mixerzoo[mm]"` builds it'
        )
