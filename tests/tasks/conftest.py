"""A training that takes seconds: a small MambaOut on 512 real images of Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data" / "fashion_mnist"
CONFIG = "classification/mambaout_femto_gatedcnn_fashion_mnist"
SMALL = {
    "model.net.depths": (1, 1, 1, 1),
    "model.net.dims": (16, 24, 32, 48),
    "train_cfg.max_epochs": 2,
    "train_dataloader.batch_size": 32,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.limit": 128,
    "val_dataloader.num_workers": 0,
    "val_dataloader.dataset.limit": 64,
    "test_dataloader.num_workers": 0,
    "param_scheduler.0.end": 4,
}


@pytest.fixture
def data() -> Path:
    return DATA


@pytest.fixture
def small() -> dict[str, Any]:
    """Options that make the packaged config small."""
    return dict(SMALL)


def as_arguments(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    return [part for key, value in options.items() for part in ("--cfg-options", f"{key}={value}")]
