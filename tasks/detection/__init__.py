"""Object detection and instance segmentation."""

from __future__ import annotations
