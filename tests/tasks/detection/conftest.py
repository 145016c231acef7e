"""Eight composed pictures, and options that make the packaged detector small enough for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mixerzoo.tasks.synthetic.composed import compose

from ..conftest import DATA

CONFIG = "detection/mask_rcnn_mambaout_femto_gatedcnn_composed"
SMALL: dict[str, Any] = {
    "model.backbone.dims": (8, 16, 24, 32),
    "model.backbone.depths": (1, 1, 1, 1),
    "model.neck.in_channels": [8, 16, 24, 32],
    "model.roi_head.bbox_head.fc_out_channels": 32,
    "model.train_cfg.rpn_proposal.max_per_img": 40,
    "model.train_cfg.rcnn.sampler.num": 16,
    "model.test_cfg.rpn.max_per_img": 20,
    "model.test_cfg.rcnn.score_thr": 0.0,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "param_scheduler.0.end": 1,
}


@pytest.fixture(scope="session")
def coco(tmp_path_factory) -> Path:
    """Folder in COCO's layout: 8 pictures for training and 4 for validation, of 64×64."""
    out = tmp_path_factory.mktemp("composed") / "set"
    return compose(out, images=8, val_images=4, size=64, items=(2, 3), sides=(20, 40), root=DATA) / "coco"


@pytest.fixture
def small() -> dict[str, Any]:
    return dict(SMALL)
