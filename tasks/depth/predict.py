"""A model at work: on one image, on an image file, on a data set under a protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from ...backbones.dpt import DPT
from ..engine.checkpoints import write_atomically
from ..pictures import shots, unused_name
from .images import UNITS, read_image, write_depth_png, write_picture, write_point_cloud
from .metrics import Protocol, as_protocol, flip_average, image_metrics, mean_metrics
from .model import DepthModel
from .transforms import KBCrop, Sample


def predict_depth(model: DPT, image: torch.Tensor, flip: bool = False) -> torch.Tensor:
    """Predicts one image as the model's authors do: resized and normalised by its convention, and resized back.

    Args:
        model: from `create_depth_model`; runs in evaluation mode, and is left in the mode it was in.
        image: RGB (3, H, W) in [0, 1].
        flip: average with the mirrored image's prediction (see `flip_average`).

    Returns:
        float32 (H, W) on the CPU, in ``model.unit``.

    Raises:
        ValueError: a segmentation model, or an image too narrow (see `Convention.prepare`).
    """
    if model.unit not in UNITS:
        raise ValueError(f"expected a model of depth, got one of {model.unit}")
    weight = next(model.parameters())
    batch = model.convention.prepare(image).to(weight)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            prediction = flip_average(model, batch) if flip else model(batch)
    finally:
        model.train(training)
    return model.convention.restore(prediction.float().cpu(), image.shape[-2:])[0]


def predict_file(
    model: DPT,
    path: str | Path,
    folder: str | Path,
    flip: bool = False,
    point_cloud: bool = False,
    focal: float | None = None,
) -> list[Path]:
    """Predicts an image file and writes ``NAME_depth.png`` (16 bits), ``NAME_picture.png`` and, if asked for,
    ``NAME.ply`` into ``folder``.

    Args:
        model: from `create_depth_model`.
        path: of the image.
        folder: is made if missing.
        flip: see `predict_depth`.
        point_cloud: write one; only of a model that predicts metres.
        focal: see `write_point_cloud`.

    Returns:
        The files, in the order above.

    Raises:
        FileNotFoundError: there is no such image.
        ValueError: the image cannot be read, or a point cloud of relative depth was asked for; nothing is written.
    """
    _check_point_cloud(model, point_cloud)
    path = Path(path)
    image = read_image(path)
    return _write(model, image, predict_depth(model, image, flip), Path(folder), path.stem, point_cloud, focal)


def _check_point_cloud(model: DPT, point_cloud: bool) -> None:
    if point_cloud and model.unit != "metre":
        raise ValueError(f"point cloud: needs a model that predicts metres, this one predicts {model.unit} depth")


def _write(
    model: DPT,
    image: torch.Tensor,
    depth: torch.Tensor,
    folder: Path,
    name: str,
    point_cloud: bool,
    focal: float | None,
) -> list[Path]:
    """The files of `predict_file` for an image (3, H, W) and its prediction (H, W)."""
    files = [folder / f"{name}_depth.png", folder / f"{name}_picture.png"]
    write_depth_png(files[0], depth, model.unit)
    write_picture(files[1], image, depth, model.unit)
    if point_cloud:
        files.append(folder / f"{name}.ply")
        write_point_cloud(files[-1], image, depth, model.unit, focal)
    return files


def predict(
    model: DepthModel, cfg: Config, meta: Mapping[str, Any], images: Sequence[str | Path], out: Path
) -> list[dict[str, Any]]:
    """`mixerzoo predict` for depth: the files of `predict_file` for every picture, and ``predictions.json``.

    Args:
        model: in evaluation mode.
        cfg: its config; ``predict_cfg`` may hold ``point_cloud`` (write one) and ``focal`` (see `write_point_cloud`).
        meta: of the checkpoint; not used.
        images: picture and video files (`pictures.find_pictures`).
        out: folder.

    Returns:
        A record per picture: ``image``, ``depth``, ``picture`` and perhaps ``point_cloud`` (file names), ``unit``,
        ``range`` (the 1st and the 99th percentile) and ``summary``.

    Raises:
        FileNotFoundError: there is no such picture; nothing is written then.
        ValueError: a picture cannot be read or a point cloud of relative depth was asked for; nothing is written then.
        OSError: a file cannot be written.
    """
    wanted = cfg.get("predict_cfg", {})
    point_cloud, focal = wanted.get("point_cloud", False), wanted.get("focal")
    _check_point_cloud(model.net, point_cloud)
    out.mkdir(parents=True, exist_ok=True)
    records, names = [], set()
    for shot in shots(images):
        image = read_image(shot.source) if isinstance(shot.source, Path) else pil_to_tensor(shot.source).float() / 255
        depth = predict_depth(model.net, image, model.flip_test)
        name = unused_name(shot.stem, names)
        files = _write(model.net, image, depth, out, name, point_cloud, focal)
        low, high = np.percentile(depth.numpy(), (1, 99)).tolist()
        unit = model.net.unit
        records.append(
            {
                "image": shot.name,
                **dict(zip(("depth", "picture", "point_cloud"), (file.name for file in files), strict=False)),
                "unit": unit,
                "range": [low, high],
                "summary": f"{low:.3g} to {high:.3g} {'m' if unit == 'metre' else '(relative inverse depth)'}",
            }
        )
    write_atomically(json.dumps(records, indent=1).encode(), out / "predictions.json")
    return records


def networks(model: DepthModel) -> dict[str, nn.Module]:
    """What `mixerzoo analyze config:NAME` counts: the whole network, and its backbone."""
    return {"network": model.net, "backbone": model.net.backbone}


def evaluate(model: DPT, data: Iterable[Sample], protocol: str | Protocol, flip: bool = False) -> dict[str, float]:
    """Scores a model on a data set.

    Args:
        model: from `create_depth_model`.
        data: samples without a transform (see `datasets`); predicting does what the model's convention asks for.
        protocol: a name of `metrics.PROTOCOLS`, or one of your own. One with a KB crop crops the images.
        flip: see `predict_depth`; a table has to say so.

    Returns:
        As `mean_metrics`.

    Raises:
        ValueError: unknown protocol, one that the model's unit does not fit, or no image with depth.
    """
    protocol = as_protocol(protocol)
    wanted = "metre" if protocol.alignment == "none" else "relative"
    if model.unit != wanted:
        raise ValueError(
            f"{protocol}: made for predictions of the unit {wanted}, this model's is {model.unit}; relative "
            "predictions need one that fits scale and shift (zero_shot_...), metres one that does not"
        )
    crop, values = KBCrop(depth=False), []
    for sample in data:
        seen = sample if protocol.kb_crop == "none" else crop(sample)
        values.append(image_metrics(predict_depth(model, seen["image"], flip), sample["depth"], protocol))
    return mean_metrics(values, protocol)
