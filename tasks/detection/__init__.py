"""Object detection and instance segmentation with mmdet (the extra ``mm``).

Importing this package makes ``TimmBackbone`` known to mmdet, and where mmdet is installed also what `data` and `model`
add to it: ``custom_imports = dict(imports=['mixerzoo.tasks.detection'])`` is all that an mmdet config needs.
"""

from __future__ import annotations

from importlib.util import find_spec

from .. import backbone  # noqa: F401  (registers TimmBackbone)

if find_spec("mmdet") is not None:  # without it the composed data set can be made all the same
    from . import data, model  # noqa: F401
