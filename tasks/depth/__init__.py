"""Monocular depth: DPT as published and on any backbone, data, losses, metrics, and pictures of the result."""

from __future__ import annotations

from .models import create_depth_model, list_depth_models

__all__ = ["create_depth_model", "list_depth_models"]
