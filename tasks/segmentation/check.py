"""Checks segmentation data before a training would trip over it hours later."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmseg.registry import DATASETS
from numpy.typing import NDArray

from ..engine import say
from ..pictures import open_upright, turned

__all__ = ["check_data", "check_pair"]

IGNORED = 255
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
SAMPLE = 20  # label files of a data set that are read in any case


def check_data(cfg: Config, thorough: bool = False) -> int:
    """Checks all data sets of a config: folders, pairs of image and label file, sizes, and label values.

    Prints the pixels of every class in the label files read: labels that are not what they should be show there.

    Args:
        cfg: of `engine.load_config`.
        thorough: read every pair of files, not only the first of each data set (and the labels of twenty).

    Returns:
        Number of images whose names were checked.

    Raises:
        FileNotFoundError: a folder or a label file is missing.
        ValueError: no images, a file that cannot be read, sizes that differ, labels beyond the model's classes, or
            labels from which nothing can be learnt.
    """
    head = cfg.model.decode_head
    if head.num_classes == 1 and not head.get("loss_decode", {}).get("use_sigmoid"):
        raise ValueError(
            "model.decode_head.num_classes is 1: a softmax over one class has the loss 0; name two classes, such as "
            "background and the other, or set loss_decode.use_sigmoid"
        )
    checked: dict[Path, int] = {}
    for key in LOADERS:
        if key in cfg and _folder(cfg[key].dataset) not in checked:
            checked[_folder(cfg[key].dataset)] = _check_dataset(cfg[key].dataset, key, head.num_classes, thorough)
    return sum(checked.values())


def _folder(dataset: dict[str, Any]) -> Path:
    return Path(dataset.get("data_root") or ".") / dataset["data_prefix"]["img_path"]


def _check_dataset(dataset: dict[str, Any], key: str, classes: int, thorough: bool) -> int:
    root = Path(dataset.get("data_root") or ".")
    for prefix, folder in dataset["data_prefix"].items():
        if folder is not None and not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{key}.dataset.data_prefix.{prefix}: {root / folder}: no such folder; put the data there or give its "
                "place as --data"
            )
    _check_names(dataset, key, root)
    built = DATASETS.build({**dataset, "pipeline": [], "lazy_init": True, "_scope_": "mmseg"})
    names = built.metainfo.get("classes", ())
    if len(names) != classes:
        raise ValueError(
            f"model.decode_head.num_classes is {classes}, but {key}.dataset has {len(names)} classes; set it to "
            f"{len(names)}"
        )
    infos = built.load_data_list()
    if not infos:
        raise ValueError(f"{_folder(dataset)}: no image that ends in {built.img_suffix}; expected {key}'s images there")
    if key == "test_dataloader" and "seg_map_path" not in infos[0]:
        return len(infos)  # a test set without labels
    pairs = [(Path(info["img_path"]), Path(info["seg_map_path"])) for info in infos]
    missing = [labels for _, labels in pairs if not labels.is_file()]
    if missing:
        more = f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]}: no such label file{more}; every image needs one of the same name")
    largest = len(built.METAINFO.get("classes", names)) if built.label_map else classes
    chosen = pairs if thorough else [pairs[i * len(pairs) // SAMPLE] for i in range(min(SAMPLE, len(pairs)))]
    read = 0
    pixels = np.zeros(256, np.int64)
    for image, labels in dict.fromkeys([*chosen, *pairs]):
        if read >= len(set(chosen)) and len(_learnt(pixels, names, built)) > 1:
            break  # all are read where a part shows one class alone
        if thorough or read == 0:
            check_pair(image, labels, largest, built.reduce_zero_label)
        pixels += _count(labels)
        read += 1
    _report(pixels, names, built, f"{key}: {read} of {len(pairs)} label files", refuse=key == "train_dataloader")
    return len(pairs)


def _check_names(dataset: dict[str, Any], key: str, root: Path) -> None:
    names = (dataset.get("metainfo") or {}).get("classes", ())
    if isinstance(names, str):
        raise ValueError(
            f"{key}.dataset.metainfo.classes is the text {names!r}, not a list of names; a list of one is "
            f"({names!r},), with a comma"
        )
    listed = root / dataset.get("ann_file", "")
    if listed.is_file() and listed.read_bytes().startswith(BOM_UTF8):
        raise ValueError(f"{listed}: begins with a byte-order mark, which mmseg takes for a name; save it without")


def _count(labels: Path) -> NDArray[np.int64]:
    """Pixels of each value in a label file."""
    values = _read(labels)
    return np.bincount(values.ravel(), minlength=256) if values.dtype == np.uint8 else np.zeros(256, np.int64)


def _learnt(pixels: NDArray[np.int64], names: Sequence[str], built: Any) -> dict[str, int]:
    """Pixels of every class that there is; ``pixels`` are those of every value in the files."""
    counts: dict[str, int] = {}
    for value in np.flatnonzero(pixels[:IGNORED]):
        stored = int(value) - (1 if built.reduce_zero_label else 0)
        number = (built.label_map or {}).get(stored, stored)
        if 0 <= number < len(names):
            counts[names[number]] = counts.get(names[number], 0) + int(pixels[value])
    return counts


def _report(pixels: NDArray[np.int64], names: Sequence[str], built: Any, where: str, refuse: bool) -> None:
    """Prints how many pixels there are of each class; refuses labels of which one class alone, or none, is learnt."""
    counts, first = _learnt(pixels, names, built), 1 if built.reduce_zero_label else 0
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "nothing"
    none = [name for name in names if name not in counts]
    absent = f"; no pixel of {', '.join(none[:5])}{' …' if len(none) > 5 else ''}" if none else ""
    ignored = pixels[IGNORED] + (pixels[0] if first else 0)
    if refuse and len(counts) < min(2, len(names)):
        rule = f"{IGNORED} means ignore" + (", and with reduce_zero_label so does 0" if first else "")
        values = ", ".join(map(str, np.flatnonzero(pixels)[:10]))
        raise ValueError(
            f"{where} hold the values {values}, where {rule}: of the classes there is {said}{absent}; save {first} for "
            f"{names[0]}, {first + 1} for the next class and so on"
        )
    say(f"{where}: pixels per class: {said}; ignored {ignored:,}{absent}")


def check_pair(image: Path, labels: Path, classes: int, reduce_zero_label: bool) -> None:
    """One image against its label file.

    Args:
        image: picture.
        labels: one channel of 8 bits: the class of every pixel, 255 where it is ignored.
        classes: number of classes in the label files; that of the model, unless it learns a part of them.
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
    beyond = [int(value) for value in np.unique(pixels) if largest < value < IGNORED]
    if beyond:
        raise ValueError(
            f"{labels}: label {beyond[0]}, but with {classes} classes the largest is {largest} ({IGNORED} is ignored); "
            "change the labels or the config's num_classes"
        )


def _read(path: Path) -> NDArray[Any]:
    labels = open_upright(path)
    turn = labels.info["orientation"]
    if turn != 1:
        raise ValueError(f"{path}: its EXIF orientation is {turn}, which label files must not have; save it upright")
    return np.asarray(labels)
