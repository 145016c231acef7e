"""Depth models by name: the published ones, and the DPT head on any backbone."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from ...backbones.checkpoints import load_state, read_checkpoint, top_names, unwrap
from ...backbones.dpt import DPT, PRESETS, checkpoint_filter_fn, on_backbone
from .transforms import DEPTH_ANYTHING, DPT_384, DPT_480, DPT_KITTI, DPT_NYU, GENERIC, Convention

CONVENTIONS = {"nyu": DPT_NYU, "kitti": DPT_KITTI, "ade20k": DPT_480, "384": DPT_384}  # by the name's last word


def list_depth_models() -> list[str]:
    """The published models; beside them every timm and zoo model that hands out intermediate maps is a name."""
    return sorted(PRESETS)


def create_depth_model(name: str, checkpoint: str | Path | dict[str, Any] | None = None, **kwargs: Any) -> DPT:
    """Builds a depth model of `mixerzoo.backbones.dpt`, and says how its images are made.

    Args:
        name: a published model (`list_depth_models`): ``dpt_{base,large,hybrid}_384`` give inverse depth up to scale
            and shift, ``dpt_hybrid_384_{nyu,kitti}`` metres, ``dpt_{large,hybrid}_384_ade20k`` scores of 150 classes,
            ``depth_anything_v2_{small,base,large}`` inverse depth, with ``_hypersim`` or ``_vkitti`` metres. Or any
            backbone of the zoo or of timm, which gets a new DPT head.
        checkpoint: file of weights, or its content, in the official layout, Hugging Face's, or the one
            this model saves.
        kwargs: of ``timm.create_model``, or of `mixerzoo.backbones.dpt.on_backbone`.

    Returns:
        The model, in training mode as constructors leave it; ``model.unit`` says what it predicts and
        ``model.convention`` how its images are made. ``model(images)`` maps (B, 3, H, W) to (B, H, W), or to
        (B, 150, H, W).

    Raises:
        ValueError: unknown name, or a checkpoint that is not one.
        TypeError: an argument that a published model does not take.
        RuntimeError: keys of the checkpoint are missing, unexpected or misshapen.
        OSError: the checkpoint cannot be read.
    """
    if name in PRESETS:
        # With weights at hand a random initialisation would be thrown away: half the time of loading.
        with torch.device("meta") if checkpoint is not None else nullcontext():
            model = timm.create_model(name, **kwargs)
        anything = name.startswith("depth_anything")
        model.convention = DEPTH_ANYTHING if anything else CONVENTIONS[name.rpartition("_")[2]]
    elif timm.is_model(name.partition(".")[0]):
        model = on_backbone(name, **kwargs)
        model.convention = _convention_of(model.backbone)
    else:
        near = difflib.get_close_matches(name, [*PRESETS, *timm.list_models()], n=3, cutoff=0.5)
        raise ValueError(f"unknown depth model {name!r}; did you mean {' or '.join(near) or 'dpt_hybrid_384'}?")
    if checkpoint is not None:
        load_depth_checkpoint(model, checkpoint)
    return model


def load_depth_checkpoint(model: nn.Module, checkpoint: str | Path | dict[str, Any]) -> None:
    """Loads a checkpoint strictly, executing nothing in it.

    Args:
        model: a `DPT`; one on the meta device takes the checkpoint's tensors as its own, in float32.
        checkpoint: a file, or the content of one (`mixerzoo.backbones.dpt.checkpoint_filter_fn`).

    Raises:
        ValueError: not a DPT checkpoint, or not readable safely.
        RuntimeError: keys are missing, unexpected or misshapen; the message names them.
        OSError: the file cannot be read.
    """
    given = isinstance(checkpoint, dict)
    content = checkpoint if given else read_checkpoint(checkpoint)
    state = checkpoint_filter_fn(unwrap(content, own=top_names(model)), model)
    assign = next(model.parameters()).is_meta
    load_state(model, state, "checkpoint" if given else checkpoint, assign=assign)


def _convention_of(taps: nn.Module) -> Convention:
    """`GENERIC`, normalised as the backbone was pre-trained, in multiples that it can take as they are."""
    data = resolve_data_config(model=taps.model)
    multiple = GENERIC.multiple if GENERIC.multiple % taps.multiple == 0 else taps.multiple
    return replace(GENERIC, mean=tuple(data["mean"]), std=tuple(data["std"]), multiple=multiple)
