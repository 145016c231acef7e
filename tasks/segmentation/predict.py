"""The colour map of the classes, drawn onto pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from ..checkpoints import write_atomically
from ..pictures import open_picture, unused_name, write_picture

__all__ = ["networks", "overlay", "predict"]

WIDTH = 320  # pixels that an overlay has at least, so that the legend can be read
SHOWN = 8  # classes in the legend, the largest first
OPACITY = 0.6


def predict(
    model: nn.Module, cfg: Config, meta: Mapping[str, Any], images: Sequence[str | Path], out: Path
) -> list[dict[str, Any]]:
    """Segments pictures through the test set's transform.

    Args:
        model: mmseg's segmentor in evaluation mode.
        cfg: its config.
        meta: of the checkpoint; its ``dataset_meta`` has names and colours of the classes.
        images: picture files.
        out: folder for ``NAME_segmented.png``, ``NAME_labels.png`` (one channel, numbered as the data set's own label
            files are) and ``predictions.json`` (shares of the pixels per class).

    Raises:
        FileNotFoundError: there is no such picture.
        ValueError: a file is no picture, or the checkpoint does not name its classes; nothing is written then.
    """
    data = meta.get("dataset_meta") or {}
    if "classes" not in data:
        raise ValueError("the checkpoint's meta has no dataset_meta; expected a file that `mixerzoo train` wrote")
    init_default_scope(cfg.get("default_scope", "mmseg"))
    pipeline = Compose(_without_files(cfg.test_dataloader.dataset.pipeline))
    pictures = [np.array(open_picture(path).convert("RGB")) for path in images]  # each (H, W, 3)
    out.mkdir(parents=True, exist_ok=True)
    records, names = [], set()
    for path, picture in zip(images, pictures, strict=True):
        labels = _segment(model, pipeline, picture)  # (H, W)
        shares = np.bincount(labels.ravel(), minlength=len(data["classes"])) / labels.size
        found = [
            {"class": data["classes"][i], "color": list(data["palette"][i]), "share": round(float(shares[i]), 4)}
            for i in np.argsort(-shares)
            if shares[i]
        ]
        name = unused_name(Path(path).stem, names)
        drawn = overlay(picture, np.array(data["palette"], np.uint8)[labels], found[:SHOWN])
        write_picture(drawn, out / f"{name}_segmented.png")
        first = 1 if data.get("reduce_zero_label") else 0
        write_picture(Image.fromarray((labels + first).astype(np.uint8)), out / f"{name}_labels.png")
        summary = ", ".join(f"{item['class']} {item['share']:.1%}" for item in found[:3])
        records.append({"image": str(path), "picture": f"{name}_segmented.png", "labels": f"{name}_labels.png",
                        "summary": summary, "classes": found})  # fmt: skip
    write_atomically(json.dumps(records, indent=1).encode(), out / "predictions.json")
    return records


def networks(model: nn.Module) -> dict[str, nn.Module]:
    """What `mixerzoo analyze config:…` counts: the segmentor (B, 3, H, W) → (B, classes, H/4, W/4), and its backbone.

    That is backbone, neck and decode head, as papers count. The auxiliary head is among the parameters but not in the
    pass: it works in training only.
    """
    return {"network": model, "backbone": model.backbone}


def _without_files(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The test pipeline for pixels instead of file names, and without labels."""
    steps = [dict(step) for step in pipeline if step["type"] != "LoadAnnotations"]
    return [{"type": "LoadImageFromNDArray"}, *(step for step in steps if step["type"] != "LoadImageFromFile")]


def _segment(model: nn.Module, pipeline: Compose, picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Classes (H, W) of an RGB picture; mmseg's pipelines take BGR."""
    packed = pipeline({"img": np.ascontiguousarray(picture[..., ::-1])})
    with torch.inference_mode():
        sample = model.test_step({"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]})[0]
    return sample.pred_sem_seg.data[0].cpu().numpy()


def overlay(picture: NDArray[np.uint8], colors: NDArray[np.uint8], found: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The picture under its colour map, at least `WIDTH` pixels wide, with a legend below.

    Args:
        picture: RGB (H, W, 3).
        colors: of every pixel's class, (H, W, 3).
        found: ``class``, ``color`` and ``share`` of what the legend names.
    """
    mixed = Image.fromarray((picture * (1 - OPACITY) + colors * OPACITY).round().astype(np.uint8))
    if mixed.width < WIDTH:
        mixed = mixed.resize((WIDTH, round(mixed.height * WIDTH / mixed.width)), Image.Resampling.NEAREST)
    size = max(14, mixed.width // 40)
    font, row = ImageFont.load_default(size), round(1.5 * size)
    sheet = Image.new("RGB", (mixed.width, mixed.height + len(found) * row), "white")
    sheet.paste(mixed)
    draw = ImageDraw.Draw(sheet)
    for line, item in enumerate(found):
        y = mixed.height + line * row
        draw.rectangle((size // 2, y + size // 4, 2 * size, y + row - size // 4), fill=tuple(item["color"]))
        draw.text((5 * size // 2, y + size // 6), f"{item['class']}  {item['share']:.1%}", "black", font)
    return sheet
