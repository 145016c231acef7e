"""From an image file to depth files."""

from __future__ import annotations

from pathlib import Path

import torch

from .dpt import DPT
from .images import UNITS, read_image, write_depth_png, write_picture, write_point_cloud
from .metrics import flip_average


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
    if point_cloud and model.unit != "metre":
        raise ValueError(f"point cloud: needs a model that predicts metres, this one predicts {model.unit} depth")
    path, folder = Path(path), Path(folder)
    image = read_image(path)
    depth = predict_depth(model, image, flip)
    files = [folder / f"{path.stem}_depth.png", folder / f"{path.stem}_picture.png"]
    write_depth_png(files[0], depth, model.unit)
    write_picture(files[1], image, depth, model.unit)
    if point_cloud:
        files.append(folder / f"{path.stem}.ply")
        write_point_cloud(files[-1], image, depth, model.unit, focal)
    return files
