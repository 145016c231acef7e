"""Weights from a file into a network, strictly, in the way that timm adapts them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models import adapt_input_conv
from torch import nn

from .reading import read_checkpoint
from .unwrapping import unwrap

__all__ = ["WeightFile", "load_state", "load_weights", "through_our_reader"]

_log = logging.getLogger("mixerzoo")

State = dict[str, torch.Tensor]
Filter = Callable[[State, nn.Module], State]


class WeightFile(NamedTuple):
    """What a network's ``load_pretrained`` gets: a file, and whether its averaged weights are meant."""

    path: str | Path
    ema: bool = False


def through_our_reader(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model's entry point, changed so that a file goes through the model's ``load_pretrained``.

    ``pretrained_cfg_overlay=dict(file=PATH)`` names the file, ``ema=True`` beside it its averaged weights; timm takes a
    file given that way for one of its own. With ``features_only`` the network gets no classifier: it would be cut off.
    """
    if kwargs.get("features_only"):
        kwargs = {"num_classes": 0, **kwargs}
    overlay = dict(kwargs.get("pretrained_cfg_overlay") or {})
    if not overlay.get("file"):
        return kwargs
    overlay["file"] = WeightFile(overlay["file"], overlay.pop("ema", False))
    return {**kwargs, "pretrained_cfg_overlay": {"custom_load": True, **overlay}}


def load_weights(model: nn.Module, source: str | Path | WeightFile, filter_fn: Filter) -> None:
    """Loads a file; nothing in it is executed.

    A first convolution for other channels is adapted as timm does. A classifier for other classes is left out and named
    in a warning: the network keeps its own.

    Args:
        model: a network with a ``pretrained_cfg`` that names ``classifier`` and ``first_conv``.
        source: the file.
        filter_fn: the family's ``checkpoint_filter_fn``.

    Raises:
        ValueError: the file cannot be read safely, or is of another family.
        RuntimeError: keys are missing, unexpected or misshapen; the message names them.
        OSError: the file cannot be read.
    """
    path, ema = source if isinstance(source, WeightFile) else WeightFile(source)
    content = read_checkpoint(path)
    try:
        state = filter_fn(unwrap(content, ema, own=top_names(model)), model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    load_state(model, state, path)


def top_names(model: nn.Module) -> set[str]:
    """What the names of a network's weights begin with."""
    return {name for name, _ in (*model.named_children(), *model.named_parameters(recurse=False))}


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], name: str | Path, assign: bool = False) -> None:
    """Loads weights under the network's own names; see `load_weights`.

    Args:
        name: what messages call the weights.
        assign: make the tensors themselves the network's (see ``torch.nn.Module.load_state_dict``).

    Raises:
        RuntimeError: they do not fit.
    """
    wanted = model.state_dict()
    state = _fit_first_conv(model, _fit_classifier(model, dict(state), wanted, name))
    faults = {
        "Missing keys": [key for key in wanted if key not in state],
        "Unexpected keys": [key for key in state if key not in wanted],
        "Other shapes": [key for key in wanted if key in state and state[key].shape != wanted[key].shape],
    }
    if any(faults.values()):
        said = "; ".join(f"{what}: {_few(keys)}" for what, keys in faults.items() if keys)
        raise RuntimeError(f"{name}: the weights do not fit this {type(model).__name__}. {said}")
    model.load_state_dict(state, assign=assign)


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _fit_classifier(model: nn.Module, state: State, wanted: Mapping[str, torch.Tensor], name: str | Path) -> State:
    """Without a classifier for other classes; a network's own in its place."""
    classifiers = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    for classifier in (classifiers,) if isinstance(classifiers, str) else classifiers:
        given, own = state.get(f"{classifier}.weight"), wanted.get(f"{classifier}.weight")
        if given is None or (own is not None and (given.shape[0] == own.shape[0] or given.shape[1:] != own.shape[1:])):
            continue
        keys = [key for key in state if key.startswith(f"{classifier}.")]
        state = {key: value for key, value in state.items() if key not in keys}
        if own is not None:
            _log.warning(
                "%s: its classifier (%s) is for %d classes, the network for %d: left out, the network keeps its own",
                name,
                ", ".join(keys),
                given.shape[0],
                own.shape[0],
            )
            state |= {key: value for key, value in wanted.items() if key.startswith(f"{classifier}.")}
    return state


def _fit_first_conv(model: nn.Module, state: State) -> State:
    first = f"{getattr(model, 'pretrained_cfg', {}).get('first_conv')}.weight"
    if first in state and state[first].shape[1] != model.in_chans:
        state[first] = adapt_input_conv(model.in_chans, state[first])
    return state
