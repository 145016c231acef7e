"""Optimizers from timm's factory with timm's parameter groups, and mixed precision on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

__all__ = ["AutocastOptimWrapper", "TimmOptimWrapperConstructor", "param_groups"]

DTYPES = ("bfloat16", "float16")


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Mixed precision through ``torch.autocast``, on CPUs too (mmengine's own wrapper asserts an accelerator).

    Args:
        dtype: ``bfloat16``, or ``float16`` with dynamic loss scaling.
        **kwargs: of `mmengine.optim.OptimWrapper`.

    Raises:
        ValueError: another dtype.
    """

    def __init__(self, dtype: str = "bfloat16", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dtype not in DTYPES:
            raise ValueError(f"optim_wrapper.dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        self.device_type = get_device()
        self.dtype = getattr(torch, dtype)
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=dtype == "float16")

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(self.device_type, self.dtype):
            yield

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = dict(state_dict)
        scaler = state_dict.pop("scaler", None)  # None: of a run without mixed precision, to which it is added
        if scaler:
            self.scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float | None = None,
    network_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameter groups of a task model: those of every timm network in it as timm makes them, then the rest.

    Args:
        model: a module that holds timm networks.
        lr: learning rate of the last layers.
        weight_decay: of all parameters but one-dimensional ones and what a network's ``no_weight_decay()`` names.
        layer_decay: factor on the learning rate from one layer of a network to the one before (BEiT, arXiv 2106.08254);
            layers are those of the network's ``group_matcher``. Where a detector, a segmentor or any other head follows
            the networks, that is the last layer, as in BEiT's and ViTDet's recipes.
        network_scale: factor on the learning rate of all networks, e.g. 0.1 where they are pre-trained and the head is
            not.
    """
    groups: list[dict[str, Any]] = []
    networks = list(_timm_networks(model))
    grouped = {id(parameter) for net in networks for parameter in net.parameters()}
    rest = [p for p in model.parameters() if id(p) not in grouped and p.requires_grad]
    behind = network_scale * (layer_decay if rest and layer_decay is not None else 1.0)
    for net in networks:
        exempt = net.no_weight_decay() if hasattr(net, "no_weight_decay") else set()
        if layer_decay is None:
            own = param_groups_weight_decay(net, weight_decay, no_weight_decay_list=exempt)
        else:
            own = param_groups_layer_decay(net, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay)
        groups += [{**group, "lr_scale": behind * group.get("lr_scale", 1.0)} for group in own]
    groups.append({"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay})
    groups.append({"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0})
    # mmengine's schedulers multiply what a group starts from, so timm's lr_scale goes into that.
    return [
        {"params": group["params"], "weight_decay": group["weight_decay"], "lr": lr * group.get("lr_scale", 1.0)}
        for group in groups
        if group["params"]
    ]


def _timm_networks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that are timm models; of a dense network those inside, its head is new."""
    if hasattr(module, "group_matcher") and not getattr(module, "holds_networks", False):
        yield module
    else:
        for child in module.children():
            yield from _timm_networks(child)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimWrapperConstructor:
    """Builds ``optim_wrapper`` of a config: any optimizer that timm knows, over `param_groups`.

    Args:
        optim_wrapper_cfg: ``type`` and arguments of the wrapper; ``optimizer`` holds ``opt`` (timm's name), ``lr``,
            ``weight_decay``, optionally ``layer_decay`` and ``network_scale`` (see `param_groups`), and what else that
            optimizer takes.
        paramwise_cfg: not taken (the groups are timm's).

    Raises:
        ValueError: ``paramwise_cfg`` is given, or ``opt`` or ``lr`` is missing.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        if paramwise_cfg:
            raise ValueError("optim_wrapper.paramwise_cfg: parameter groups are timm's here; remove it")
        self.cfg = dict(optim_wrapper_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = model.module if is_model_wrapper(model) else model
        optimizer = dict(self.cfg.pop("optimizer"))
        missing = [key for key in ("lr", "opt") if optimizer.get(key) is None]
        if missing:
            raise ValueError(f"optim_wrapper.optimizer: {' and '.join(missing)} must be given")
        lr, weight_decay = optimizer.pop("lr"), optimizer.pop("weight_decay", 0.0)
        for key, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not isinstance(value, Real) or value < 0:
                raise ValueError(f"optim_wrapper.optimizer.{key}: expected a number of at least 0, got {value!r}")
        scales = {key: optimizer.pop(key) for key in ("layer_decay", "network_scale") if key in optimizer}
        groups = param_groups(model, lr, weight_decay, **scales)
        built = create_optimizer_v2(groups, optimizer.pop("opt"), lr=lr, weight_decay=weight_decay, **optimizer)
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **self.cfg, "optimizer": built})
