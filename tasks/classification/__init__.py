"""Image classification."""

from __future__ import annotations
