"""Semantic segmentation with mmsegmentation (the extra ``mm``).

Importing this package makes ``TimmBackbone`` and the data sets of `data` known to mmseg:
``custom_imports = dict(imports=['mixerzoo.tasks.segmentation'])`` is all that an mmseg config needs.

Raises:
    ImportError: the extra is not installed; the message says how to get it.
"""

from __future__ import annotations

from .. import backbone
from . import data

__all__ = ["backbone", "data"]
