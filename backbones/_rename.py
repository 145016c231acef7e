"""Official checkpoint keys to ours by a table of regular expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ._checkpoint import unwrap

Rules = Sequence[tuple[str, str | None]]


def rename(
    state_dict: dict[str, Any], model: nn.Module, family: str, ours: str, official: str, rules: Rules
) -> dict[str, torch.Tensor]:
    """The weights of an official checkpoint under our keys; a file of ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`_checkpoint.unwrap`), and the prefix ``backbone.`` of
            detection and segmentation checkpoints or ``model.`` of Hugging Face's is taken off.
        model: the network to load into: 1×1 convolutions and scales (1, D, 1, 1) take
            its shapes.
        family: name for the error.
        ours: a key that only our layout has.
        official: a key that only the official layout has.
        rules: (pattern, replacement) as of `re.sub`; the first pattern that matches at a key's start renames it, and
            the replacement ``None`` drops the entry. Other keys stay as they are.

    Raises:
        ValueError: the checkpoint has neither key.
    """
    state_dict = unwrap(state_dict)
    for prefix in ("backbone.", "model."):
        if any(key.startswith(prefix) for key in state_dict):
            state_dict = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if ours in state_dict:
        return state_dict
    if official not in state_dict:
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(f"not a {family} checkpoint: expected keys such as {official!r}, found {some}")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    out = {}
    for key, value in state_dict.items():
        name = _renamed(key, rules)
        if name is not None:
            shape = shapes.get(name, value.shape)
            is_pointwise = value.ndim == 4 and len(shape) < 4 and value.numel() == shape.numel()
            out[name] = value.reshape(shape) if is_pointwise else value
    return out


def _renamed(key: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        if re.match(pattern, key):
            return None if replacement is None else re.sub(pattern, replacement, key)
    return key
