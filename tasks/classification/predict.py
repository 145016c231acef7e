"""Labelling pictures: an annotated copy of each, and one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from PIL import Image, ImageDraw, ImageFont, ImageOps
from timm.data import create_transform
from torch import nn

from ..checkpoints import write_atomically
from ..pictures import open_picture, unused_name, write_picture

__all__ = ["annotate", "networks", "predict"]

WIDTH = 320  # pixels that an annotated picture has at least, so that the labels can be read


def predict(
    model: nn.Module, cfg: Config, meta: Mapping[str, Any], images: Sequence[str | Path], out: Path
) -> list[dict[str, Any]]:
    """Classifies pictures through the test set's transform.

    Args:
        model: `model.Classifier` in evaluation mode.
        cfg: its config.
        meta: of the checkpoint; its ``dataset_meta`` has the names of the classes.
        images: picture files.
        out: folder for ``NAME_labelled.png`` and ``predictions.json``.

    Raises:
        ValueError: a file is no picture; nothing is written then.
        OSError: a file cannot be read or written.
    """
    classes = (meta.get("dataset_meta") or {}).get("classes") or [str(i) for i in range(model.num_classes)]
    transform = create_transform(**cfg.test_dataloader.dataset.transform)
    mode = "L" if cfg.model.net.get("in_chans", 3) == 1 else "RGB"
    pictures = [ImageOps.exif_transpose(open_picture(path)) for path in images]  # as a viewer shows them
    out.mkdir(parents=True, exist_ok=True)
    records, names = [], set()
    for path, picture in zip(images, pictures, strict=True):
        x = transform(picture.convert(mode))[None]  # (1, channels, H, W)
        with torch.inference_mode():
            share = model(x)[0].softmax(0)  # (C,)
        best = share.argsort(descending=True)[:5].tolist()
        found = [{"class": classes[i], "probability": round(float(share[i]), 4)} for i in best]
        name = unused_name(f"{Path(path).stem}_labelled", names)
        write_picture(annotate(picture, found[:3]), out / f"{name}.png")
        summary = f"{found[0]['class']} ({found[0]['probability']:.1%})"
        records.append({"image": str(path), "picture": f"{name}.png", "summary": summary, "top5": found})
    write_atomically(json.dumps(records, indent=1).encode(), out / "predictions.json")
    return records


def networks(model: nn.Module) -> dict[str, nn.Module]:
    """What `mixerzoo analyze config:NAME` counts: the network (B, C, H, W) → (B, classes)."""
    return {"network": model.net}


def annotate(picture: Image.Image, found: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The picture, at least `WIDTH` pixels wide, with a strip below that names the classes found."""
    picture = picture.convert("RGB")
    if picture.width < WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.NEAREST)
    size = max(14, picture.width // 24)
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (picture.width, picture.height + len(found) * round(1.5 * size)), "white")
    strip.paste(picture)
    draw = ImageDraw.Draw(strip)
    for line, item in enumerate(found):
        y = picture.height + line * round(1.5 * size)
        draw.rectangle((0, y, round(item["probability"] * strip.width), y + round(1.5 * size)), fill="#c9dcf2")
        draw.text((size // 2, y + size // 5), f"{item['class']}  {item['probability']:.1%}", "black", font)
    return strip
