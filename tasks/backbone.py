"""timm's models, ours among them, inside mmengine, mmdet and mmseg: by name, with errors that help."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.models import group_parameters
from torch import nn

from .. import backbones  # noqa: F401  (registers our models with timm)
from ..backbones.checkpoints import bare_names, top_names, unwrap
from ..backbones.layers.any_size import create_dense_network, create_network
from .engine.checkpoints import read_checkpoint

__all__ = ["SimplePyramid", "TimmBackbone", "create_dense_network", "create_network", "load_backbone"]

STRIDES = (4, 8, 16, 32)  # what necks and heads for dense tasks expect


class SimplePyramid(nn.ModuleList):
    """Maps at strides 4, 8, 16 and 32 from maps at stride 16 (ViTDet, arXiv 2203.16527, section 3 and figure 2c).

    Two transposed convolutions with a norm and a GELU between them, one, none, and a max-pooling of 2; channels D/4,
    D/2, D, D. What ViTDet puts behind each (convolutions to 256 channels) is the detector's neck.

    Args:
        dim: channels D of the map(s).
    """

    def __init__(self, dim: int) -> None:
        self.out_channels = [dim // 4, dim // 2, dim, dim]
        finest = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, 2, stride=2),
            timm.layers.LayerNorm2d(dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2),
        )
        super().__init__([finest, nn.ConvTranspose2d(dim, dim // 2, 2, stride=2), nn.Identity(), nn.MaxPool2d(2)])

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One map (B, D, h, w) for all levels, or one per level, to four of 4h, 2h, h and h/2 rows."""
        maps = list(maps) * 4 if len(maps) == 1 else maps
        return [level(x) for level, x in zip(self, maps, strict=True)]


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Any timm model with ``forward_intermediates`` as a backbone of mmengine, mmdet or mmseg.

    Maps ``(B, C, H, W)`` to a tuple of NCHW maps, one per entry of ``out_indices`` (or four, with ``pyramid``), fine to
    coarse; ``out_channels`` says how many channels each has, ``out_strides`` at which stride it is.

    Args:
        name: timm's name of the model, with ``.tag`` for one of several published weights.
        out_indices: blocks (isotropic models) or stages (hierarchical ones) to give out, as timm counts them. Default:
            the last at each of the strides 4, 8, 16 and 32, or the last block.
        pyramid: `SimplePyramid` over an isotropic model at stride 16: all levels from one block, or from four one each.
        norm_outputs: a LayerNorm over the channels of every output, as the dense recipes of MambaOut, Swin, ConvNeXt
            and VMamba have.
        frozen_stages: -1: everything trains; 0: the stem is fixed; n: stem and the first n stages (blocks) are fixed,
            and stay in evaluation mode.
        grad_checkpointing: recompute blocks in the backward pass instead of storing their activations.
        pretrained: published weights, loaded by timm.
        checkpoint: file to load instead (`load_backbone`).
        ema: load the averaged weights of ``checkpoint``.
        init_cfg: mmengine's ``dict(type='Pretrained', checkpoint=FILE)``: like ``checkpoint`` (with ``'timm'`` for FILE
            like ``pretrained``), but loaded when training starts, so that testing does not need the weights.
        **kwargs: of the model, e.g. ``drop_path_rate``.

    Raises:
        ValueError: unknown model or argument, the model gives no intermediate maps, a pyramid over a model that does
            not stay at stride 16, too large ``frozen_stages``, or another ``init_cfg``.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        pyramid: bool = False,
        norm_outputs: bool = False,
        frozen_stages: int = -1,
        grad_checkpointing: bool = False,
        pretrained: bool = False,
        checkpoint: str | Path | None = None,
        ema: bool = False,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        if init_cfg and (init_cfg.get("type") != "Pretrained" or "checkpoint" not in init_cfg):
            raise ValueError(f"init_cfg: expected dict(type='Pretrained', checkpoint=FILE), got {dict(init_cfg)}")
        self._create = partial(create_dense_network, name, **kwargs)
        self.net = self._create(pretrained=pretrained)
        strides = [info["reduction"] for info in self.net.feature_info]
        isotropic = len(set(strides)) == 1
        if pyramid and set(strides) != {16}:
            raise ValueError(f"pyramid: needs a model that stays at stride 16; {name} has {sorted(set(strides))}")
        self.out_indices = list(out_indices) if out_indices is not None else _default_indices(strides)
        if pyramid and len(self.out_indices) not in (1, 4):
            raise ValueError(f"pyramid: out_indices must be one block or four, got {self.out_indices}")
        channels = [self.net.feature_info[i]["num_chs"] for i in self.out_indices]
        self._dropped = set(self.net.state_dict())
        self.net.prune_intermediate_layers(self.out_indices, prune_norm=True, prune_head=True)
        self._dropped -= set(self.net.state_dict())
        self.pyramid = SimplePyramid(channels[0]) if pyramid else None
        self.out_channels = self.pyramid.out_channels if pyramid else channels
        self.out_strides = list(STRIDES) if pyramid else [strides[i] for i in self.out_indices]
        self.norms = nn.ModuleList(
            nn.LayerNorm(c, eps=1e-6) if norm_outputs else nn.Identity() for c in self.out_channels
        )
        self.net.set_grad_checkpointing(grad_checkpointing)
        self._frozen = _freeze(self.net, frozen_stages, coarse=not isotropic)
        if checkpoint is not None:
            load_backbone(self, checkpoint, ema)

    def init_weights(self) -> None:
        """Loads what ``init_cfg`` says. Else nothing: timm has initialised the network; mmengine would do it again."""
        if self.init_cfg and not self._is_init:
            if self.init_cfg["checkpoint"] == "timm":
                published = self._create(pretrained=True).state_dict()
                self.net.load_state_dict({key: published[key] for key in self.net.state_dict()})
            else:
                load_backbone(self, self.init_cfg["checkpoint"])
        self._is_init = True

    def train(self, mode: bool = True) -> TimmBackbone:
        """Training mode for all but the frozen stages."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.net.forward_intermediates(x, indices=self.out_indices, intermediates_only=True, output_fmt="NCHW")
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        # Contiguous, because mmcv's operators (RoIAlign) read the memory of channels_last maps as if it were NCHW.
        return tuple(
            norm(y.movedim(1, -1)).movedim(-1, 1).contiguous() for norm, y in zip(self.norms, maps, strict=True)
        )


def _default_indices(strides: Sequence[int]) -> list[int]:
    """The last of each of the strides 4 … 32 that there are, or the last block."""
    if len(set(strides)) == 1:
        return [len(strides) - 1]
    return [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES if stride in strides]


def _freeze(net: nn.Module, stages: int, coarse: bool) -> list[nn.Module]:
    """Fixes stem and first stages; returns the modules all of whose parameters are fixed."""
    if stages < 0:
        return []
    groups = group_parameters(net, net.group_matcher(coarse=coarse))  # layer → names of parameters, 0 is the stem
    if stages >= len(groups):
        raise ValueError(f"frozen_stages: {type(net).__name__} has {len(groups) - 1} stages, got {stages}")
    names = {name for layer in range(stages + 1) for name in groups[layer]}
    for name, parameter in net.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    kept = [(module, list(module.parameters())) for module in net.modules()]
    return [module for module, own in kept if own and not any(p.requires_grad for p in own)]


# Output norms in a detector's or segmentor's backbone: VMamba's outnorm0, Swin's and ConvNeXt's norm0, our norms.0.
_OUTPUT_NORM = re.compile(r"(?:outnorm|norm|norms\.)(\d)\.(weight|bias)")


def load_backbone(backbone: TimmBackbone, path: str | Path, ema: bool = False) -> None:
    """Loads the backbone's part of a checkpoint, strictly and without executing anything in it.

    Takes what the model's family releases for classification (through its ``checkpoint_filter_fn``), and detectors'
    and segmentors' files, whose keys begin with ``backbone.``: the official ones of VMamba and Swin (``outnorm0``,
    ``norm0``) and those that ``mixerzoo train`` writes.

    Args:
        backbone: to load into.
        path: the file.
        ema: load its averaged weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read safely, lacks weights, or has ones that are not the network's.
    """
    content = read_checkpoint(path)
    try:
        state = unwrap(content, ema, own=("backbone", "net"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    whole = any(key.startswith("backbone.") for key in state)
    if whole:
        state = bare_names(state, own=("net",))
    own = {key: x for key, x in state.items() if key.startswith(("norms.", "pyramid."))}
    for key in [key for key in state if whole and _OUTPUT_NORM.fullmatch(key)]:
        own["norms.{}.{}".format(*_OUTPUT_NORM.fullmatch(key).groups())] = state.pop(key)
    state = bare_names({key: x for key, x in state.items() if key not in own}, top_names(backbone.net))
    try:
        state = _family_filter(backbone.net)(state, backbone.net)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    classifier = backbone.net.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    dropped = {key for key in state if key in backbone._dropped or key.startswith((*heads, "head."))}
    state = {f"net.{key}": x for key, x in state.items() if key not in dropped}
    expected = backbone.state_dict()
    if not own:  # a classifier's file: the output norms start as they are
        expected = {key: x for key, x in expected.items() if key.startswith("net.")}
    _check_keys({**state, **own}, expected, path)
    backbone.load_state_dict({**state, **own}, strict=False)


def _family_filter(net: nn.Module) -> Any:
    """The function with which timm turns official key names of a family into its own."""
    return getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", lambda state, model: state)


def _check_keys(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: str | Path) -> None:
    shapes = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    for what, keys in (
        ("lacks", [key for key in expected if key not in state]),
        ("has unknown", [key for key in state if key not in expected]),
        ("has another shape of", shapes),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"{path}: not of this backbone: it {what} {keys[0].removeprefix('net.')}{more}")
