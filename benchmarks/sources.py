"""Any network, by name, at any image size, on any device including ``meta``.

A name is one that timm knows, this package's included, or ``PREFIX:TEXT`` for what another package reads: the entry
points of group ``mixerzoo.sources``, such as the tasks' ``config:detection/mask_rcnn_1x_coco``.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn
from torch.overrides import TorchFunctionMode

from .. import backbones  # noqa: F401  (registers our models with timm)

GROUP = "mixerzoo.sources"  # of entry points, each a `Reader`; its name is the prefix


@dataclass(frozen=True)
class Network:
    """A network that exists already.

    Attributes:
        name: what to call it.
        model: takes images (B, C, H, W) of any size; in eval mode.
        image_sizes: each (H, W) in pixels, what it is counted at unless somebody asks for others; the first of them is
            its default.
    """

    name: str
    model: nn.Module
    image_sizes: Sequence[tuple[int, int]]

    @property
    def default_image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image_sizes[0]

    def at(self, image_size: tuple[int, int]) -> nn.Module:
        """The network, whatever the size."""
        return self.model


Reader = Callable[[str, torch.device], Sequence[Network]]
"""Gives the networks of a ``TEXT`` on a device, the whole one before its parts; ValueError or OSError for a bad one."""


def has_prefix(model: str) -> bool:
    """Whether a name is one of another package: ``PREFIX:TEXT``."""
    return ":" in model


@functools.lru_cache(maxsize=4)
def networks_on_meta(model: str) -> tuple[Network, ...]:
    """The networks of a ``PREFIX:TEXT`` on the meta device, the whole one before its parts.

    Raises:
        ValueError: no source has this prefix, or it cannot read the text.
        OSError: it cannot find what the text names.
        ImportError: it needs something that is not installed.
    """
    return tuple(_reader(model)(model.partition(":")[2], torch.device("meta")))


def _reader(model: str) -> Reader:
    prefix = model.partition(":")[0]
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if prefix not in found:
        there = ", ".join(f"{name}:…" for name in sorted(found)) or "none"
        raise ValueError(f"model {model!r}: no source reads {prefix!r}; expected a timm name or one of: {there}")
    return found[prefix].load()


def parse_image_size(text: str) -> tuple[int, int]:
    """``"224"`` or ``"480x640"`` as (H, W) in pixels.

    Raises:
        ValueError: neither form, or a side of zero.
    """
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip().lower())
    if not match:
        raise ValueError(f"input size: expected H or HxW in pixels such as 224 or 480x640, got {text!r}")
    height, width = int(match[1]), int(match[2] or match[1])
    if min(height, width) < 1:
        raise ValueError(f"input size: expected at least 1 pixel a side, got {text!r}")
    return height, width


def parse_model(model: str) -> tuple[str, dict[str, Any]]:
    """``"NAME@key=value,key=value"`` as timm's name and keyword arguments for the constructor.

    Values are Python literals, or text where they are none: ``vim_tiny_patch16_224@backend=reference,depth=4``.

    Raises:
        ValueError: something behind the ``@`` is not of that form.
    """
    name, at, text = model.partition("@")
    kwargs = {}
    for part in re.split(r",(?=\w+=)", text) if at else ():
        key, equals, value = part.partition("=")
        if not (key.isidentifier() and equals and value):
            raise ValueError(f"model {model!r}: expected key=value[,key=value...] behind the @, got {part!r}")
        try:
            kwargs[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            kwargs[key] = value
    return name, kwargs


def check_name(model: str) -> None:
    """Raises ValueError, naming close matches, if no model (or pretrained tag) is called so; see `networks_on_meta`."""
    if has_prefix(model):
        networks_on_meta(model)
        return
    name, _ = parse_model(model)
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        return
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "; `mixerzoo list '*'` names all"
    raise ValueError(f"unknown model {name!r}{hint}")


def matching(pattern: str | None) -> list[str]:
    """Names of the models that match.

    Args:
        pattern: part of a name, or a pattern with ``*`` and ``?``; ``None`` for this package's own models.

    Raises:
        ValueError: no model matches.
    """
    if pattern is None:
        return [name for name in timm.list_models() if is_ours(name)]
    wild = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    names = timm.list_models(wild)
    if not names:
        near = difflib.get_close_matches(pattern, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"no model matches {pattern!r}{hint}")
    return names


def is_ours(name: str) -> bool:
    """Whether this package registered the model."""
    return timm.model_entrypoint(name).__module__.startswith("mixerzoo.")


def entry_module(model: str) -> str:
    """The Python module that defines a timm model.

    Raises:
        ValueError: unknown name.
    """
    check_name(model)
    return timm.model_entrypoint(parse_model(model)[0].partition(".")[0]).__module__


def default_image_size(name: str) -> tuple[int, int]:
    """(H, W) in pixels that the model's own pretrained configuration asks for, or that its source says."""
    if has_prefix(name):
        return networks_on_meta(name)[0].default_image_size
    cfg = pretrained_cfg(name)
    return tuple(cfg.input_size[1:]) if cfg is not None else (224, 224)


def pretrained_cfg(model: str) -> PretrainedCfg | None:
    """What timm knows of the model's weights and images; ``None`` if nothing.

    Raises:
        ValueError: unknown name.
    """
    check_name(model)
    return None if has_prefix(model) else timm.get_pretrained_cfg(parse_model(model)[0])


def build_model(
    name: str,
    image_size: tuple[int, int] | None = None,
    *,
    device: torch.device | str = "cpu",
    pretrained: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Builds a network for images of one size, a timm or zoo model in training mode as constructors leave it.

    Args:
        name: architecture, optionally with a pretrained tag, optionally with arguments (`parse_model`); or
            ``PREFIX:TEXT``, whose whole network is built, and to which only ``device`` applies.
        image_size: (H, W) in pixels; ``None`` for the model's own. Architectures with a fixed grid (position
            embeddings, windows) are built for it, the others take any size anyway.
        device: ``meta`` allocates nothing.
        pretrained: load weights (from a file or hub, as timm resolves them).
        kwargs: passed on to the constructor.

    Raises:
        ValueError: unknown name, or an argument that the constructor does not have.
    """
    if has_prefix(name):
        return _reader(name)(name.partition(":")[2], torch.device(device))[0].model
    check_name(name)
    return _build(name, image_size, torch.device(device), pretrained=pretrained, **kwargs)[0]


class MetaModels:
    """One architecture on the meta device at any image size; built once if its constructor does not ask for the size.

    Args:
        name: architecture, optionally with a pretrained tag, optionally with arguments (`parse_model`).

    Raises:
        ValueError: unknown name, or an argument that the constructor does not have.
    """

    def __init__(self, name: str) -> None:
        check_name(name)
        self.name = name
        self._any_size = False
        self._latest: tuple[tuple[int, int], nn.Module] | None = None

    @property
    def default_image_size(self) -> tuple[int, int]:
        """(H, W) in pixels; see the function of this name."""
        return default_image_size(self.name)

    def at(self, image_size: tuple[int, int]) -> nn.Module:
        """The network for images of (H, W) pixels, in eval mode, its parameters without gradients."""
        if self._latest is not None and (self._any_size or self._latest[0] == image_size):
            return self._latest[1]
        with _Uninitialized():
            model, sized = _build(self.name, image_size, torch.device("meta"))
        model.eval().requires_grad_(False)
        self._any_size, self._latest = not sized, (image_size, model)
        return model


def on_meta(model: str | Network) -> MetaModels | Network:
    """A network by name, the whole one of a ``PREFIX:TEXT``, or one that exists, to be counted at any image size."""
    if isinstance(model, Network):
        return model
    return networks_on_meta(model)[0] if has_prefix(model) else MetaModels(model)


def parts(model: str) -> list[str | Network]:
    """What there is to count under a name: itself, or each network of a ``PREFIX:TEXT``."""
    return list(networks_on_meta(model)) if has_prefix(model) else [model]


class _Uninitialized(TorchFunctionMode):
    """Leaves meta tensors as they are where a constructor would fill them: most of its time, and to no effect."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


_FILLS = {
    getattr(torch.Tensor, name)
    for name in ("__setitem__", "add_", "clamp_", "copy_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_")
} | {nn.init.constant_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_}


def _build(
    name: str, image_size: tuple[int, int] | None, device: torch.device, **kwargs: Any
) -> tuple[nn.Module, bool]:
    """The network, and whether it was built for ``image_size``."""
    if image_size is not None:
        try:
            return _create(name, device, img_size=image_size, **kwargs), True
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        except AssertionError:  # a fixed grid that this shape does not fit; some such models still take it as it comes
            return _create(name, device, **kwargs), True
    return _create(name, device, **kwargs), False


def _create(model: str, device: torch.device, **kwargs: Any) -> nn.Module:
    name, arguments = parse_model(model)
    try:
        return _create_on(name, device, {**kwargs, **arguments})
    except TypeError as error:
        if not any(f"'{key}'" in str(error) for key in arguments):
            raise
        raise ValueError(f"model {model!r}: expected arguments of its constructor behind the @: {error}") from error


def _create_on(name: str, device: torch.device, kwargs: dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no-op when.*meta.*")
        if device.type != "meta":
            return timm.create_model(name, **kwargs).to(device)
        try:
            with device:
                return timm.create_model(name, **kwargs)
        except RuntimeError:  # the constructor reads a tensor's values; a real mistake is raised again, on the CPU
            return timm.create_model(name, **kwargs).to(device)
