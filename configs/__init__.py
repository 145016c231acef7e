"""Packaged mmengine configs: one file per recipe, in one folder per task, and `experiments/` with grids of them.

`mixerzoo configs` lists them. A recipe has a table of its backbones (`mixerzoo.tasks.recipes`); what several share is
in `_base_/`."""

from __future__ import annotations
