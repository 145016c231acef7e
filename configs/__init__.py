"""Packaged mmengine configs: one file per recipe, in one folder per task, and `experiments/` with grids of them.

`mixerzoo configs` lists them. A recipe has a table of its backbones (`mixerzoo.tasks.recipes`); `_base_/` holds what
several share.
"""

from __future__ import annotations
