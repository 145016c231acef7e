"""timm's models, ours among them, inside mmengine: by name, with errors that help."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from .. import backbones  # noqa: F401  (registers our models with timm)

__all__ = ["TimmBackbone", "create_network"]


def create_network(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` whose errors name what was wrong and what would be right.

    Args:
        name: any model registered with timm.
        **kwargs: of the model; ``pretrained=True`` loads published weights.

    Raises:
        ValueError: no model of that name, or it does not take one of ``kwargs``.
    """
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`mixerzoo list '*'` shows all."
        raise ValueError(f"no model is called {name!r}; {hint}")
    try:
        return timm.create_model(name, **kwargs)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built with {', '.join(kwargs) or 'no arguments'}: {error}") from error


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Any timm model with ``forward_intermediates`` as a backbone of mmengine, mmdet or mmseg.

    Maps ``(B, C, H, W)`` to a tuple of NCHW maps, one per entry of ``out_indices``, fine to coarse.

    Args:
        name: timm's name of the model.
        out_indices: blocks (plain models) or stages (hierarchical ones) to give out.
        norm_outputs: a LayerNorm over the channels of every output, as the dense recipes of MambaOut, Swin, ConvNeXt
            and VMamba have.
        pretrained: published weights, loaded by timm.
        **kwargs: of the model, e.g. ``drop_path_rate``.

    Raises:
        ValueError: unknown model or argument, or the model gives no intermediate maps.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_outputs: bool = False,
        pretrained: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.net = create_network(name, pretrained=pretrained, num_classes=0, **kwargs)
        if not hasattr(self.net, "forward_intermediates"):
            raise ValueError(f"{name} has no forward_intermediates; only models that have it can be backbones")
        self.out_indices = list(out_indices)
        infos = self.net.feature_info
        self.out_channels = [infos[i]["num_chs"] for i in self.out_indices]
        if hasattr(self.net, "prune_intermediate_layers"):
            self.net.prune_intermediate_layers(self.out_indices, prune_norm=True, prune_head=True)
        self.norms = nn.ModuleList(
            nn.LayerNorm(c, eps=1e-6) if norm_outputs else nn.Identity() for c in self.out_channels
        )

    def init_weights(self) -> None:
        """Nothing: timm has initialised or loaded the network, and mmengine would call its initialiser again."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.net.forward_intermediates(x, indices=self.out_indices, intermediates_only=True, output_fmt="NCHW")
        return tuple(norm(y.movedim(1, -1)).movedim(-1, 1) for norm, y in zip(self.norms, maps, strict=True))
