"""Image classification: model, data and metrics, registered with mmengine on import."""

from __future__ import annotations

from . import data, metrics, model

__all__ = ["data", "metrics", "model"]
