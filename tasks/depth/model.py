"""The depth model of the engine: a network of `create_depth_model` under a loss of `losses`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from . import losses
from .check import check_range
from .images import UNITS
from .metrics import flip_average
from .models import create_depth_model
from .transforms import Convention, KBCrop, as_convention

__all__ = ["DepthModel"]

# Loss → the unit that it is made for.
LOSSES = {
    "silog": (losses.silog_loss, "metre"),
    "berhu": (losses.berhu_loss, "metre"),
    "scale_shift_invariant": (losses.scale_shift_invariant_loss, "relative"),
    "least_squares": (losses.least_squares_loss, "relative"),
}


@MODELS.register_module()
class DepthModel(BaseModel):
    """A depth network under a loss.

    Args:
        net: arguments of `create_depth_model`: ``name``, and what that takes (``max_depth``, ``features`` …).
        loss: ``name``, a key of `LOSSES`, and the arguments of that loss. A network of metres is compared with depth,
            one of relative inverse depth with inverse depth.
        convention: how pictures are resized and normalised, `transforms.Convention` or its fields; default: the
            network's own. Data sets have to be told the same.
        depth_range: metres; ground truth is learnt from strictly between them.
        flip_test: predict the mean with the mirrored picture's prediction.

    Raises:
        ValueError: unknown network or loss, or a loss of another unit.
        TypeError: an argument that the network does not take.
    """

    def __init__(
        self,
        net: dict[str, Any],
        loss: Mapping[str, Any],
        convention: Convention | Mapping[str, Any] | None = None,
        depth_range: Sequence[float] = (1e-3, 10.0),
        flip_test: bool = False,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.net = create_depth_model(**net)
        if convention is not None:
            self.net.convention = as_convention(convention)
        self.loss = _loss(loss, self.net.unit)
        self.depth_range = tuple(depth_range)
        self.max_depth = net.get("max_depth")
        self._checked = False  # whether a first batch's depth was in metres
        self.flip_test = flip_test

    def init_weights(self) -> None:
        """Nothing: the network is initialised or loaded, and mmengine would call its backbone's initialiser again."""

    def context(self) -> dict[str, Any]:
        """What the weights do not show, and a checkpoint notes: metres of the largest depth, and the normalisation."""
        convention = self.net.convention
        return {
            "net.max_depth": self.max_depth,
            "convention.mean": list(convention.mean),
            "convention.std": list(convention.std),
        }

    def forward(
        self,
        image: torch.Tensor,
        depth: torch.Tensor | None = None,
        name: Sequence[str] | None = None,
        mode: str = "tensor",
    ) -> torch.Tensor | list[torch.Tensor] | dict[str, torch.Tensor]:
        """Prediction, or in mode ``loss`` the loss.

        Args:
            image: (B, 3, h, w), resized and normalised by the convention.
            depth: (B, H, W) in metres, 0 where there is none; (h, w) for mode ``loss``.
            name: of the pictures; not used.
            mode: ``loss``; ``predict`` for a list of B maps at the size of ``depth``, or at that of KITTI's KB crop if
                the convention has it; ``tensor`` for (B, h, w).
        """
        if mode == "loss":
            if not self._checked:
                check_range(depth, self.depth_range, "the first batch")
                self._checked = True
            return {"loss": self._loss(self.net(image).float(), depth)}
        if mode == "tensor":
            return self.net(image)
        prediction = flip_average(self.net, image) if self.flip_test else self.net(image)
        convention = self.net.convention
        size = (KBCrop.height, KBCrop.width) if convention.kb_crop else depth.shape[-2:]
        return list(convention.restore(prediction.float(), size))

    def _loss(self, prediction: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        low, high = self.depth_range
        mask = (depth > low) & (depth < high)  # (B, h, w)
        target = depth if self.net.unit == "metre" else 1 / depth.clamp(min=low)
        return self.loss(prediction, target, mask)


def _loss(given: Mapping[str, Any], unit: str) -> partial[torch.Tensor]:
    arguments = dict(given)
    name = arguments.pop("name", None)
    if name not in LOSSES:
        raise ValueError(f"loss: expected a name of {', '.join(LOSSES)}, got {name!r}")
    function, wanted = LOSSES[name]
    if wanted != unit:
        fitting = [name for name, (_, wanted) in LOSSES.items() if wanted == unit]
        remedy = f"choose {' or '.join(fitting)}" if unit in UNITS else "choose a model of depth"
        raise ValueError(f"loss: {name} is for predictions of the unit {wanted}, the network's is {unit}; {remedy}")
    return partial(function, **arguments)
