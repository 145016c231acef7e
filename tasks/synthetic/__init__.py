"""Data sets that are made here, from a seed: `legend` (map legends) and `pixels` (autoregressive pixels)."""

from __future__ import annotations
