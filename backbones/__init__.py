"""The backbones. Importing this package registers every family with timm; ``timm.create_model(name)`` builds it."""

from __future__ import annotations

from . import efficientvmamba, localvim, localvmamba, mambaout, plainmamba, vim, vit, vmamba

__all__ = ["efficientvmamba", "localvim", "localvmamba", "mambaout", "plainmamba", "vim", "vit", "vmamba"]
