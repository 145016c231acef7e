"""Semantic segmentation on mmsegmentation: data sets, data check, prediction. Importing it registers what configs name.

Raises:
    ImportError: mmsegmentation or mmcv's compiled operations are not installed; the message says how to get them.
"""

from __future__ import annotations

from . import _requirement  # noqa: F401  isort: skip
from .. import backbone
from . import data

__all__ = ["backbone", "data"]
