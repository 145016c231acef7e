"""Finding objects on pictures: a copy of each with boxes and masks drawn in, and one JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from ..checkpoints import write_atomically
from ..pictures import open_picture, unused_name, write_picture
from .flops import WholeDetector

__all__ = ["draw", "networks", "predict"]

LEAST_SCORE = 0.3  # of what is drawn and listed
WIDTH = 512  # pixels that a drawn picture has at least, so that the labels can be read
COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")


def predict(
    model: nn.Module, cfg: Config, meta: Mapping[str, Any], images: Sequence[str | Path], out: Path
) -> list[dict[str, Any]]:
    """Detects objects through the test set's pipeline.

    Args:
        model: a detector of mmdet in evaluation mode.
        cfg: its config.
        meta: of the checkpoint; its ``dataset_meta`` has the names of the classes.
        images: picture files.
        out: folder for ``NAME_detected.png`` and ``predictions.json``; boxes there are x1, y1, x2, y2 in pixels.

    Raises:
        ValueError: a file is no picture; nothing is written then.
        OSError: a file cannot be read or written.
    """
    classes = (meta.get("dataset_meta") or {}).get("classes")
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if step["type"] != "LoadAnnotations"]
    pipeline = Compose(steps)
    pictures = [open_picture(path).convert("RGB") for path in images]
    out.mkdir(parents=True, exist_ok=True)
    records, names = [], set()
    for path, picture in zip(images, pictures, strict=True):
        batch = pseudo_collate([pipeline({"img_path": str(path), "img_id": 0})])
        with torch.inference_mode():
            found = model.test_step(batch)[0].pred_instances.cpu()
        found = found[found.scores >= LEAST_SCORE]
        labels = [classes[i] if classes else str(i) for i in found.labels.tolist()]
        objects = [
            {"class": label, "score": round(score, 4), "box": [round(x, 1) for x in box]}
            for label, score, box in zip(labels, found.scores.tolist(), found.bboxes.tolist(), strict=True)
        ]
        name = unused_name(f"{Path(path).stem}_detected", names)
        masks = found.masks if "masks" in found else None
        write_picture(draw(picture, objects, found.labels, masks), out / f"{name}.png")
        counts = ", ".join(f"{number} × {label}" for label, number in Counter(labels).most_common()) or "nothing"
        records.append({"image": str(path), "picture": f"{name}.png", "summary": counts, "objects": objects})
    write_atomically(json.dumps(records, indent=1).encode(), out / "predictions.json")
    return records


def networks(model: nn.Module) -> dict[str, nn.Module]:
    """What `mixerzoo analyze config:NAME` counts: the whole detector, and the backbone by itself."""
    return {"detector": WholeDetector(model), "backbone": model.backbone}


def draw(
    picture: Image.Image, objects: Sequence[Mapping[str, Any]], labels: torch.Tensor, masks: torch.Tensor | None
) -> Image.Image:
    """The picture, at least `WIDTH` pixels wide, with a box, a label and (if given) a mask per object.

    Args:
        picture: RGB.
        objects: with ``class``, ``score`` and ``box`` (pixels of ``picture``).
        labels: (N,) class indices, which choose the colours.
        masks: bool (N, H, W).
    """
    factor = max(1, -(-WIDTH // picture.width))
    size = (factor * picture.width, factor * picture.height)
    canvas = pil_to_tensor(picture.resize(size, Image.Resampling.NEAREST))  # uint8 (3, H, W)
    if not objects:
        return to_pil_image(canvas)
    colors = [COLORS[i % len(COLORS)] for i in labels.tolist()]
    if masks is not None:
        large = masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        canvas = draw_segmentation_masks(canvas, large, alpha=0.45, colors=colors)
    boxes = factor * torch.tensor([item["box"] for item in objects])
    boxes = boxes.clamp(min=0).minimum(torch.tensor([*size, *size]) - 1)
    texts = [f"{item['class']} {item['score']:.0%}" for item in objects]
    return to_pil_image(draw_bounding_boxes(canvas, boxes, texts, colors, width=2))
