"""The backbones. Importing this package registers every family with timm; ``timm.create_model(name)`` builds it."""

from __future__ import annotations

from . import mambaout, mambavision, mila, ravlt, spatial_mamba, transnext, vim, vit, vmamba

__all__ = ["mambaout", "mambavision", "mila", "ravlt", "spatial_mamba", "transnext", "vim", "vit", "vmamba"]
