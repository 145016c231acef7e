"""The backbones. Importing this package registers every family with timm; ``timm.create_model(name)`` builds it."""

from __future__ import annotations

from . import dpt, isotropic, mambaout, vim, vit, vmamba

__all__ = ["dpt", "isotropic", "mambaout", "vim", "vit", "vmamba"]
