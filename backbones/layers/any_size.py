"""Any timm model by name, with errors that help, and without a classifier for images of any size."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import nn

# What makes a timm constructor accept images of any size, tried in this order.
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


def create_network(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` whose errors name what was wrong and what would be right.

    Args:
        name: any model registered with timm, with or without ``.tag`` of its weights.
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


def create_dense_network(name: str, **kwargs: Any) -> nn.Module:
    """`create_network` without a classifier, for images of any size.

    Raises:
        ValueError: as `create_network`, or the model gives no intermediate maps.
    """
    for option in ANY_SIZE:
        try:
            net = create_network(name, num_classes=0, **option, **kwargs)
            break
        except ValueError as error:
            if not option or f"'{next(iter(option))}'" not in str(error):
                raise
    if not hasattr(net, "forward_intermediates") or not hasattr(net, "prune_intermediate_layers"):
        raise ValueError(f"{name} has no forward_intermediates; only models that have it can be backbones")
    return net
