"""Checks segmentation data before a training would trip over it hours later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmseg.registry import DATASETS

from ..pictures import open_upright, turned

__all__ = ["check_data", "check_pair"]

IGNORED = 255
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def check_data(cfg: Config, thorough: bool = False) -> int:
    """Checks all data sets of a config: folders, pairs of image and label file, sizes, and label values.

    Args:
        cfg: of `engine.load_config`.
        thorough: read every pair of files, not only the first of each data set.

    Returns:
        Number of images whose names were checked.

    Raises:
        FileNotFoundError: a folder or a label file is missing.
        ValueError: no images, a file that cannot be read, sizes that differ, or labels beyond the model's classes.
    """
    classes = cfg.model.decode_head.num_classes
    checked: dict[Path, int] = {}
    for key in LOADERS:
        if key in cfg and _folder(cfg[key].dataset) not in checked:
            checked[_folder(cfg[key].dataset)] = _check_dataset(cfg[key].dataset, key, classes, thorough)
    return sum(checked.values())


def _folder(dataset: dict[str, Any]) -> Path:
    return Path(dataset.get("data_root") or ".") / dataset["data_prefix"]["img_path"]


def _check_dataset(dataset: dict[str, Any], key: str, classes: int, thorough: bool) -> int:
    root = Path(dataset.get("data_root") or ".")
    for prefix, folder in dataset["data_prefix"].items():
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{key}.dataset.data_prefix.{prefix}: {root / folder}: no such folder; put the data there or give its "
                "place as --data"
            )
    built = DATASETS.build({**dataset, "pipeline": [], "lazy_init": True, "_scope_": "mmseg"})
    named = len(built.metainfo.get("classes", ()))
    if named != classes:
        raise ValueError(
            f"model.decode_head.num_classes is {classes}, but {key}.dataset has {named} classes; set it to {named}"
        )
    pairs = [(Path(info["img_path"]), Path(info["seg_map_path"])) for info in built.load_data_list()]
    if not pairs:
        raise ValueError(f"{_folder(dataset)}: no image that ends in {built.img_suffix}; expected {key}'s images there")
    missing = [labels for _, labels in pairs if not labels.is_file()]
    if missing:
        more = f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]}: no such label file{more}; every image needs one of the same name")
    for image, labels in pairs if thorough else pairs[:1]:
        check_pair(image, labels, classes, built.reduce_zero_label)
    return len(pairs)


def check_pair(image: Path, labels: Path, classes: int, reduce_zero_label: bool) -> None:
    """One image against its label file.

    Args:
        image: picture.
        labels: one channel of 8 bits: the class of every pixel, 255 where it is ignored.
        classes: number of classes of the model.
        reduce_zero_label: labels begin with 1, and 0 is ignored too (ADE20K).

    Raises:
        ValueError: a file cannot be read, sizes differ, or a label is beyond the classes.
    """
    pixels = _read(labels)
    picture = open_upright(image)
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(f"{labels}: expected one channel of 8 bits, got {pixels.dtype} {pixels.shape}; save class ids")
    if pixels.shape[::-1] != picture.size:
        size = f"{picture.width}×{picture.height}{turned(picture)}"
        raise ValueError(f"{labels}: {pixels.shape[1]}×{pixels.shape[0]} pixels, but its image {size}; draw it on that")
    largest = classes if reduce_zero_label else classes - 1
    beyond = sorted(set(_beyond(pixels, largest)))
    if beyond:
        raise ValueError(
            f"{labels}: label {beyond[0]}, but with {classes} classes the largest is {largest} ({IGNORED} is ignored); "
            "change the labels or the config's num_classes"
        )


def _beyond(pixels: np.ndarray, largest: int) -> Iterator[int]:
    return (int(value) for value in np.unique(pixels) if largest < value < IGNORED)


def _read(path: Path) -> np.ndarray:
    labels = open_upright(path)
    turn = labels.info["orientation"]
    if turn != 1:
        raise ValueError(f"{path}: its EXIF orientation is {turn}, which label files must not have; save it upright")
    return np.asarray(labels)
