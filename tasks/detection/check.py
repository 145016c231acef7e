"""Is a data set in COCO's format what it says? Read before training, so that a slip costs seconds and not hours."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from os import scandir
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..engine import say
from ..pictures import read_picture, turned

__all__ = ["DataError", "check_data"]

NEEDED = {  # keys that mmdet or pycocotools read, and would miss hours later
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}
SLACK = 0.02  # of a side, plus 2 pixels: how far a mask or box may reach over the edge (annotators' clicks do)


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file, the entry and the remedy."""


def check_data(cfg: Config, thorough: bool = False) -> int:
    """Checks every data set of a detection config against its files and against the model.

    Keys and ids of the JSON file, its categories against the data set's classes and the model's, boxes and masks
    against the size of their picture, and that every picture is there.

    Args:
        cfg: of `engine.load_config`.
        thorough: also open every picture, and compare its size with the JSON file's.

    Returns:
        Number of pictures checked.

    Raises:
        DataError: something is wrong; the message is one line.
    """
    total, done = 0, set()
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        dataset = cfg.get(key, {}).get("dataset")
        while dataset is not None and "ann_file" not in dataset and "dataset" in dataset:  # RepeatDataset and the like
            dataset = dataset["dataset"]
        if dataset is None or "ann_file" not in dataset:
            continue
        root = Path(dataset.get("data_root") or "")
        path, folder = root / dataset.ann_file, root / dataset.get("data_prefix", {}).get("img", "")
        if (path, folder) not in done:
            done.add((path, folder))
            content = _read(path)
            labelled = key != "test_dataloader" or bool(content.get("annotations"))
            _check_entries(content, path, [part for part in NEEDED if labelled or part != "annotations"])
            classes = _check_classes(content, path, cfg, dataset.get("metainfo", {}).get("classes"))
            if labelled:
                _check_shapes(content, path, masks=bool(_find(cfg.model, "mask_head")))
                say(f"{path}: {_statistics(content, classes)}")
            _check_pictures(content["images"], path, folder, thorough)
            total += len(content["images"])
    return total


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        if raw.startswith(BOM_UTF8):
            raise DataError(f"{path}: begins with a byte-order mark, which pycocotools does not read; save it without")
        content = json.loads(raw)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; put the annotations there, or give their folder by --data") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON file that can be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected COCO's object with {', '.join(NEEDED)}, found a {type(content).__name__}")
    return content


def _fail(path: Path, wrong: Sequence[str], remedy: str) -> None:
    """One line for all that is wrong in one way; nothing if nothing is."""
    if wrong:
        more = f" (and {len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        raise DataError(f"{path}: {wrong[0]}{more}; {remedy}")


def _statistics(content: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Pictures, and boxes per class: a set whose labels are not what they should be shows here."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    boxes = Counter(names[annotation["category_id"]] for annotation in content["annotations"])
    counts = ", ".join(f"{name} {boxes[name]:,}" for name in classes)
    others = sum(count for name, count in boxes.items() if name not in classes)
    unused = f"; {others:,} of other categories are not used" if others else ""
    return f"{len(content['images']):,} pictures; boxes per class: {counts}{unused}"


def _check_entries(content: Mapping[str, Any], path: Path, parts: Sequence[str]) -> None:
    for part in parts:
        keys = NEEDED[part]
        if part not in content:
            raise DataError(f"{path}: lacks the key {part!r}; COCO's format has {', '.join(NEEDED)}")
        if not content[part]:
            raise DataError(f"{path}: {part!r} is empty; there must be at least one entry")
        lacking = [
            f"entry {number} of {part!r} lacks {key!r}"
            for number, entry in enumerate(content[part])
            for key in keys
            if key not in entry
        ]
        _fail(path, lacking, f"every entry needs {', '.join(keys)}")
        ids: set[Any] = set()
        twice = [f"{part!r} has the id {e['id']!r} twice" for e in content[part] if e["id"] in ids or ids.add(e["id"])]
        _fail(path, twice, "ids must be unique")
    names: dict[str, Any] = {}
    same = [
        f"the categories with the ids {names[c['name']]!r} and {c['id']!r} are both called {c['name']!r}"
        for c in content["categories"]
        if names.setdefault(c["name"], c["id"]) != c["id"]
    ]
    _fail(path, same, "rename or merge them: labels are found by name")
    sizes = [
        f"image {image['id']} has {key} {image[key]!r}"
        for image in content["images"]
        for key in ("height", "width")
        if not _is_number(image[key]) or image[key] <= 0
    ]
    _fail(path, sizes, "expected a number of pixels above 0")
    if "annotations" not in parts:
        return
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    lost = [
        f"annotation {a['id']} is of image {a['image_id']!r}, which is not listed"
        for a in content["annotations"]
        if a["image_id"] not in images
    ]
    _fail(path, lost, "list the image or remove the annotation")
    unknown = [
        f"annotation {a['id']} has category_id {a['category_id']!r}, which is not among the categories' ids "
        f"({', '.join(map(str, sorted(categories, key=str)[:5]))} …)"
        for a in content["annotations"]
        if a["category_id"] not in categories
    ]
    _fail(path, unknown, "add the category or correct the annotation")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_classes(content: Mapping[str, Any], path: Path, cfg: Config, classes: Sequence[str] | None) -> Sequence[str]:
    """Names of the config's classes (COCO's own, if it has none) against the file, and their number in the model."""
    if isinstance(classes, str):
        raise DataError(
            f"{cfg.filename}: metainfo.classes is the text {classes!r}, not a list of names; a list of one is "
            f"({classes!r},), with a comma"
        )
    if classes is None:
        from mmdet.datasets import CocoDataset

        classes = CocoDataset.METAINFO["classes"]
    names = {category["name"] for category in content["categories"]}
    missing = [f"has no category {name!r}, which the config's classes have" for name in classes if name not in names]
    some = ", ".join(sorted(names)[:5])
    _fail(path, missing, f"set metainfo.classes of the data set; the file's categories are {some} …")
    for head in ("bbox_head", "mask_head"):
        for found in _find(cfg.model, head):
            if "num_classes" in found and found["num_classes"] != len(classes):
                raise DataError(
                    f"{cfg.filename}: {head}.num_classes is {found['num_classes']}, but {path} is read with "
                    f"{len(classes)} classes; set it to {len(classes)}"
                )
    return classes


def _find(node: Any, key: str) -> list[Mapping[str, Any]]:
    """All dictionaries under ``key``, at any depth; a cascade has a list of heads."""
    found: list[Mapping[str, Any]] = []
    for name, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        if name == key:
            found += [value] if isinstance(value, Mapping) else [head for head in value or () if head]
        elif isinstance(value, Mapping | list | tuple):
            found += _find(value, key)
    return found


def _check_shapes(content: Mapping[str, Any], path: Path, masks: bool) -> None:
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    wrong = []
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        fault = _fault(annotation, height, width, masks)
        if fault:
            wrong.append(f"annotation {annotation['id']} of image {annotation['image_id']} ({width}×{height}): {fault}")
    _fail(path, wrong, "correct or remove it")


def _fault(annotation: Mapping[str, Any], height: int, width: int, masks: bool) -> str | None:
    """What is wrong with the geometry of an annotation, if anything."""
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"its bbox must be the four numbers x, y, width, height, got {box}"
    over_x, over_y = SLACK * width + 2, SLACK * height + 2
    x, y, w, h = box
    if x < -over_x or y < -over_y or x + w > width + over_x or y + h > height + over_y:
        return f"its bbox {[round(v, 1) for v in box]} lies outside the image"
    mask = annotation.get("segmentation")
    if not mask:
        return "it has no segmentation, which this model learns" if masks else None
    if isinstance(mask, Mapping):
        size = list(mask.get("size", ()))
        return None if size == [height, width] else f"its mask is made for size {size}, not [{height}, {width}]"
    for polygon in mask:
        if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
            return f"its polygon must be a list of numbers x, y, x, y …, got {str(polygon)[:60]}"
        if len(polygon) < 6 or len(polygon) % 2:
            return f"its polygon needs at least three points x, y, got {len(polygon)} numbers"
        if min(polygon[::2]) < -over_x or max(polygon[::2]) > width + over_x:
            return f"its mask reaches from x = {min(polygon[::2])} to {max(polygon[::2])}, outside the image"
        if min(polygon[1::2]) < -over_y or max(polygon[1::2]) > height + over_y:
            return f"its mask reaches from y = {min(polygon[1::2])} to {max(polygon[1::2])}, outside the image"
    return None


def _check_pictures(images: Sequence[Mapping[str, Any]], path: Path, folder: Path, thorough: bool) -> None:
    listed: dict[Path, set[str]] = {}  # one listing per folder: asking for every file takes minutes on a network disk
    missing = []
    for image in images:
        place = folder / image["file_name"]
        if place.parent not in listed:
            listed[place.parent] = {e.name for e in scandir(place.parent)} if place.parent.is_dir() else set()
        if place.name not in listed[place.parent]:
            missing.append(f"{place} is missing")
    _fail(path, missing, "put the picture there or remove it from the file")
    if thorough:
        faults = [fault for image in images if (fault := _unfit(image, folder))]
        _fail(path, faults, "repair or remove the picture, or state the size that viewers show")


def _unfit(image: Mapping[str, Any], folder: Path) -> str | None:
    """What is wrong with a picture file, if anything."""
    try:
        picture = read_picture(folder / image["file_name"])
    except ValueError as error:
        return str(error)
    if picture.size != (image["width"], image["height"]):
        stated = f"{image['width']}×{image['height']}"
        size = f"{picture.width}×{picture.height}{turned(picture)}"
        return f"{folder / image['file_name']} is {size}, not {stated} as stated"
    return None
