"""The classification model of the engine: a timm network, a loss, and mixup or cutmix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from torch import nn

from ..backbone import create_network

__all__ = ["Classifier"]


@MODELS.register_module()
class Classifier(BaseModel):
    """Any timm model under a classification loss.

    Args:
        net: arguments of ``timm.create_model``: ``name``, and what the model takes (``drop_path_rate`` …).
        num_classes: classes C.
        loss: ``cross_entropy``, or ``bce``: a binary cross-entropy per class ("ResNet strikes back", arXiv 2110.00476).
        label_smoothing: share of the target that is spread over all classes.
        mixup: arguments of `timm.data.Mixup` (``mixup_alpha``, ``cutmix_alpha``, ``switch_prob`` …); None: neither.

    Raises:
        ValueError: unknown network or loss.
    """

    def __init__(
        self,
        net: dict[str, Any],
        num_classes: int,
        loss: str = "cross_entropy",
        label_smoothing: float = 0.0,
        mixup: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if loss not in ("cross_entropy", "bce"):
            raise ValueError(f"loss: expected cross_entropy or bce, got {loss!r}")
        self.net = create_network(**{**net, "num_classes": num_classes})
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.binary = BinaryCrossEntropy(label_smoothing) if loss == "bce" else None
        self.mixup = Mixup(num_classes=num_classes, label_smoothing=label_smoothing, **mixup) if mixup else None

    def init_weights(self) -> None:
        """Nothing: timm has initialised or loaded the network, and mmengine would call its initialiser again."""

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor | None = None, mode: str = "tensor"
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Logits, or in mode ``loss`` the loss.

        Args:
            images: (B, channels, H, W), float; B even if there is mixup.
            labels: (B,) class indices, or (B, C) shares of classes.
            mode: ``loss``, or ``tensor`` and ``predict`` for logits (B, C).
        """
        if mode != "loss":
            return self.net(images)
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)  # labels: (B, C)
        return {"loss": self._loss(self.net(images).float(), labels)}

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.binary is not None:
            return self.binary(logits, labels)
        smoothing = 0.0 if labels.is_floating_point() else self.label_smoothing
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
