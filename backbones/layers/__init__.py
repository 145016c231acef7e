"""Blocks that several families share."""

from __future__ import annotations

from .hierarchical import HierarchicalBackbone, Stage
from .norm import RMSNorm, StateLayerNorm
from .reset import reset_parameters
from .selective_ssm import SelectiveSSM, refuse_torchscript
from .stem import ConvDownsample, ConvStem, StridedConv

__all__ = [
    "ConvDownsample",
    "ConvStem",
    "HierarchicalBackbone",
    "RMSNorm",
    "SelectiveSSM",
    "Stage",
    "StateLayerNorm",
    "StridedConv",
    "refuse_torchscript",
    "reset_parameters",
]
