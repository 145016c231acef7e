"""What four-stage networks share: stages of blocks on NHWC maps, and timm's contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

import torch
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import nn

from .reset import reset_parameters


class Stage(nn.Module):
    """Down-sampling (or none), then blocks of one width, ``(B, H, W, D_in) -> (B, h, w, D)``."""

    def __init__(self, downsample: nn.Module | None, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class HierarchicalBackbone(nn.Module):
    """Stem, stages at strides 4, 8, 16, 32, and a head; the methods that timm asks of a model.

    A family sets ``stem``, ``stages`` (of `Stage`), ``head`` (with ``fc`` and ``forward(x, pre_logits)``), the
    attributes of `set_dims`, and ``norm`` if its features end in one; it adds `init_module` (its initialisation of one
    module), `reset_classifier` and its parameters' `no_weight_decay`.
    """

    output_fmt = "NHWC"

    def set_dims(self, dims: Sequence[int], in_chans: int, num_classes: int) -> None:
        """Fills in what timm reads from a model: classes, channels, and one feature map per stage."""
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]
        self.norm: nn.Module = nn.Identity()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initialises every parameter, as the constructor does; for a network whose memory came from ``to_empty``."""
        reset_parameters(self)
        self.apply(self.init_module)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: stem, then each stage (coarse) or block."""
        if coarse:
            return {"stem": r"^stem", "blocks": [(r"^stages\.(\d+)", None), (r"^norm", (99999,))]}
        return {
            "stem": r"^stem",
            "blocks": [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The final linear layer."""
        return self.head.fc

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the network and collects the outputs of stages.

        Args:
            x: images (B, C, H, W).
            indices: the last n stages if an integer, all if ``None``, else those listed.
            norm: apply the final norm, where the family has one, to the last stage's output.
            stop_early: stop after the last stage asked for.
            output_fmt: layout of the intermediates, ``NCHW`` (channels_last in memory) or ``NHWC``.
            intermediates_only: leave out the final features.

        Returns:
            ``(features, intermediates)``, features (B, H/32, W/32, D) as `forward_features` gives them; stopped early,
            the last stage's output, to which no norm belongs.

        Raises:
            ValueError: unknown ``output_fmt``.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                y = self.norm(x) if norm and i == len(self.stages) - 1 else x
                intermediates.append(y.permute(0, 3, 1, 2) if output_fmt == "NCHW" else y)
        if intermediates_only:
            return intermediates
        return (x if stop_early and last < len(self.stages) - 1 else self.norm(x)), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages behind the last one asked for, with their norm and head; returns the indices kept."""
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.num_classes = 0
            self.head.reset(0, "", **self.pruned_head(self.num_features))
        return take

    @torch.jit.ignore
    def pruned_head(self, num_features: int) -> dict[str, Any]:
        """Arguments of ``head.reset`` for a network cut to ``num_features`` channels."""
        return {"in_features": num_features}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, H/32, W/32, D)``, each side rounded up at every halving."""
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """``(B, H, W, D) -> (B, num_classes)``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


# torch.fx copies annotations into the code of a traced network, where TorchScript cannot resolve a postponed one.
HierarchicalBackbone.forward.__annotations__ = get_type_hints(HierarchicalBackbone.forward)
