"""Fashion-MNIST's items on photographs, with exact masks and boxes, written as COCO and ADE20K lie on disk.

    python -m mixerzoo.tasks.synthetic.composed --out data/composed --images 2000 --size 192

Items of Fashion-MNIST (arXiv 1708.07747) are resized, turned, tinted and drawn onto crops of the photographs that
scikit-image carries, over each other where they are many: each takes that of a few places where it hides least.
Training pictures take items of its training set, validation pictures those of its test set, and the photographs are
split too. Every picture follows from (seed, split, its number) alone.

COCO's layout (arXiv 1405.0312) holds the visible part of every item as run lengths; ADE20K's (Zhou et al., CVPR 2017)
holds label images: 0 other (what is left of an item that is nearly hidden, which nobody could name), 1 background,
2 to 11 the ten items. COCO has no annotation where ADE20K has 0.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.ndimage import binary_fill_holes

from ..classification.data import FASHION_CLASSES, FASHION_MNIST, FashionMNIST

__all__ = ["ADE_CLASSES", "ITEM_CLASSES", "Drawn", "Painter", "coco_annotation", "compose", "run_lengths"]

ITEM_CLASSES = FASHION_CLASSES  # COCO's categories 1 to 10
ADE_CLASSES = ("background", *FASHION_CLASSES)  # labels 1 to 11 of the PNG files
PHOTOS = {
    "train": ("astronaut", "brick", "camera", "coffee", "gravel", "hubble_deep_field", "retina", "rocket",
              "stereo_motorcycle"),
    "val": ("cat", "coins", "grass", "immunohistochemistry"),
}  # fmt: skip
SEEN = 0.2  # an item of which less is visible counts as other
LEAST = 16  # pixels; as above
PLACES = 8  # that are drawn for an item, to take the one where it hides the fewest pixels of the others
FOREGROUND = 16  # grey value from which a pixel of Fashion-MNIST belongs to the item


@dataclass
class Drawn:
    """A picture and what is on it.

    Attributes:
        picture: RGB uint8 (H, W, 3).
        owner: int32 (H, W); the number of the item that is visible there, from 1 on, or 0.
        labels: class of every item, 0 to 9.
        seen: for every item the share of it that is visible.
    """

    picture: NDArray[np.uint8]
    owner: NDArray[np.int32]
    labels: list[int] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)

    def visible(self) -> list[tuple[int, NDArray[np.bool_]]]:
        """Class and mask (H, W) of every item that is not (nearly) hidden."""
        masks = [(label, self.owner == i + 1) for i, label in enumerate(self.labels)]
        return [
            (label, mask)
            for (label, mask), seen in zip(masks, self.seen, strict=True)
            if seen >= SEEN and mask.sum() >= LEAST
        ]

    def ade_labels(self) -> NDArray[np.uint8]:
        """(H, W): 0 other, 1 background, 2 to 11 the items."""
        labels = (self.owner == 0).astype(np.uint8)
        for label, mask in self.visible():
            labels[mask] = label + 2
        return labels


class Painter:
    """Draws pictures of one split.

    Args:
        split: ``train`` or ``val``.
        size: side of the square canvas in pixels.
        items: least and largest number of items.
        sides: least and largest side of an item in pixels; drawn log-uniformly, so that small ones are as frequent.
        seed: of everything.
        root: folder of Fashion-MNIST.

    Raises:
        FileNotFoundError: Fashion-MNIST is not there; the message says how to get it.
        ValueError: an unknown split, or numbers that no picture can have.
    """

    def __init__(
        self, split: str, size: int, items: tuple[int, int], sides: tuple[int, int], seed: int, root: str | Path
    ) -> None:
        if split not in PHOTOS:
            raise ValueError(f"split: expected train or val, got {split!r}")
        if not 32 <= size <= 4096:
            raise ValueError(f"size: expected a canvas of 32 to 4096 pixels, got {size}")
        if not 1 <= items[0] <= items[1]:
            raise ValueError(f"items: expected 1 ≤ least ≤ largest number of items, got {items[0]} {items[1]}")
        if not 8 <= sides[0] <= sides[1] <= size:
            raise ValueError(f"sides: expected 8 ≤ least ≤ largest ≤ canvas ({size}) pixels, got {sides[0]} {sides[1]}")
        self.split, self.size, self.items, self.sides, self.seed = split, size, items, sides, seed
        fashion = FashionMNIST(root, "train" if split == "train" else "test", transform={"input_size": (1, 28, 28)})
        self.images, self.labels = fashion.images, fashion.labels  # (N, 28, 28), (N,)
        self.photos = [photo for name in PHOTOS[split] for photo in _photos(name)]

    def draw(self, number: int) -> Drawn:
        """Picture ``number``, the same whichever others are drawn."""
        rng = np.random.default_rng([self.seed, sorted(PHOTOS).index(self.split), number])
        drawn = Drawn(self.background(rng), np.zeros((self.size, self.size), np.int32))
        areas = []
        for i in range(rng.integers(self.items[0], self.items[1] + 1)):
            chosen = int(rng.integers(len(self.images)))
            areas.append(self._put(drawn, self.images[chosen], i + 1, rng))
            drawn.labels.append(int(self.labels[chosen]))
        counts = np.bincount(drawn.owner.ravel(), minlength=len(areas) + 1)[1:]
        drawn.seen = [float(count / area) for count, area in zip(counts, areas, strict=True)]
        return drawn

    def background(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A crop of a photograph, resized to the canvas, mirrored, turned and recoloured: (size, size, 3)."""
        photo = self.photos[rng.integers(len(self.photos))]
        side = round(min(photo.size) * rng.uniform(0.3, 1))
        left, top = (int(rng.integers(extent - side + 1)) for extent in photo.size)
        crop = photo.crop((left, top, left + side, top + side)).resize((self.size, self.size), Image.Resampling.BICUBIC)
        for enhance in (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness):
            crop = enhance(crop).enhance(rng.uniform(0.6, 1.4))
        pixels = np.rot90(np.asarray(crop), rng.integers(4))
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        return pixels[..., rng.permutation(3)].copy()

    def _put(self, drawn: Drawn, grey: NDArray[np.uint8], number: int, rng: np.random.Generator) -> int:
        """Draws one item (28, 28) over what is there; returns its whole area in pixels, hidden or off canvas or not."""
        side = round(float(np.exp(rng.uniform(*np.log(self.sides)))))
        body = Image.fromarray(binary_fill_holes(grey >= FOREGROUND).astype(np.uint8) * 255)
        angle, mirrored = rng.uniform(-30, 30), rng.random() < 0.5
        # (S, S) each, with the same geometry, so that the mask is exactly what is drawn
        shade, alpha = (_transformed(image, side, angle, mirrored) for image in (Image.fromarray(grey), body))
        mask = alpha >= 128
        tint, contrast, floor = rng.uniform(0.35, 1, 3), rng.uniform(0.5, 1), rng.uniform(0, 0.3)
        color = 255 * np.clip(floor + contrast * shade[..., None] / 255.0, 0, 1) * tint  # (S, S, 3)
        middles = rng.integers(side // 2, self.size - side // 2 + 1, size=(PLACES, 2))
        places = [self._place(middle, mask.shape) for middle in middles]
        rows, columns, inside = min(places, key=lambda place: np.count_nonzero(drawn.owner[place[:2]][mask[place[2]]]))
        drawn.picture[rows, columns][mask[inside]] = color[inside][mask[inside]].round().astype(np.uint8)
        drawn.owner[rows, columns][mask[inside]] = number
        return int(mask.sum())

    def _place(self, middle: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[slice, slice, tuple[slice, slice]]:
        """Rows and columns of the canvas that something (S, S) around a pixel covers, and its own part on them."""
        top, left = (int(m - extent // 2) for m, extent in zip(middle, shape, strict=True))
        rows = slice(max(top, 0), min(top + shape[0], self.size))
        columns = slice(max(left, 0), min(left + shape[1], self.size))
        inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        return rows, columns, inside


def _photos(name: str) -> list[Image.Image]:
    """The photographs of a function of `skimage.data`; a stereo pair has two."""
    loaded = getattr(skimage.data, name)()
    views = loaded[:2] if isinstance(loaded, tuple) else (loaded,)
    return [Image.fromarray(view).convert("RGB") for view in views]


def _transformed(image: Image.Image, side: int, angle: float, mirrored: bool) -> NDArray[np.uint8]:
    image = image.resize((side, side), Image.Resampling.BILINEAR).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return np.asarray(image)[:, ::-1] if mirrored else np.asarray(image)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as COCO's uncompressed run lengths: column by column, first those of 0."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    starts = np.flatnonzero(flat[1:] != flat[:-1])  # where the value changes, seen from a leading 0
    counts = np.diff(np.concatenate([[0], starts, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def coco_annotation(number: int, image: int, label: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """One entry of COCO's ``annotations``.

    Args:
        number: ``id``, unique in the file.
        image: ``image_id``.
        label: 0 to 9.
        mask: (H, W), not empty.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": run_lengths(mask),
    }


def compose(
    out: str | Path,
    images: int,
    val_images: int,
    size: int,
    items: tuple[int, int] = (2, 8),
    sides: tuple[int, int] | None = None,
    seed: int = 0,
    root: str | Path = FASHION_MNIST,
) -> Path:
    """Writes both layouts, whole or not at all: ``out/coco`` and ``out/ade/ADEChallengeData2016``.

    Args:
        out: a folder that does not exist yet.
        images: for training.
        val_images: for validation.
        size: side of the square pictures in pixels.
        items: least and largest number of items in a picture.
        sides: least and largest side of an item in pixels; default: an eighth and a half of ``size``.
        seed: of everything.
        root: folder of Fashion-MNIST.

    Returns:
        ``out``.

    Raises:
        FileExistsError: ``out`` exists.
        FileNotFoundError: Fashion-MNIST is not there.
        ValueError: numbers that no set of pictures can have.
    """
    out = Path(out)
    sides = sides or (size // 8, size // 2)
    if out.exists():
        raise FileExistsError(f"{out}: exists already; choose another --out, or remove it")
    if min(images, val_images) < 1:
        raise ValueError(f"images: expected at least 1 for each split, got {images} and {val_images}")
    painters = {split: Painter(split, size, items, sides, seed, root) for split in PHOTOS}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        for split, count in (("train", images), ("val", val_images)):
            _write_split(partial, painters[split], count)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _write_split(out: Path, painter: Painter, count: int) -> None:
    year, ade_split = f"{painter.split}2017", {"train": "training", "val": "validation"}[painter.split]
    coco, ade = out / "coco", out / "ade" / "ADEChallengeData2016"
    for folder in (coco / year, coco / "annotations", ade / "images" / ade_split, ade / "annotations" / ade_split):
        folder.mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for number in range(1, count + 1):
        drawn = painter.draw(number)
        file, ade_name = f"{number:012d}.jpg", f"ADE_{painter.split}_{number:08d}"
        entries.append({"id": number, "file_name": file, "height": painter.size, "width": painter.size, "license": 1})
        annotations += [
            coco_annotation(len(annotations) + i, number, label, mask)
            for i, (label, mask) in enumerate(drawn.visible(), start=1)
        ]
        Image.fromarray(drawn.picture).save(coco / year / file, quality=95)
        os.link(coco / year / file, ade / "images" / ade_split / f"{ade_name}.jpg")
        Image.fromarray(drawn.ade_labels()).save(ade / "annotations" / ade_split / f"{ade_name}.png")
    (coco / "annotations" / f"instances_{year}.json").write_text(json.dumps(_coco(painter, entries, annotations)))


def _coco(painter: Painter, entries: Sequence[Any], annotations: Sequence[Any]) -> dict[str, Any]:
    numbers = f"items {painter.items}, sides {painter.sides}, seed {painter.seed}"
    return {
        "info": {"description": f"Fashion-MNIST's items on scikit-image's photographs: {numbers}", "version": "1.0"},
        "licenses": [{"id": 1, "name": "MIT (Fashion-MNIST); scikit-image's data/README.txt (photographs)", "url": ""}],
        "images": entries,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": "fashion"} for i, name in enumerate(ITEM_CLASSES, start=1)
        ],
    }


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to make.")
@click.option("--images", default=2000, show_default=True, help="Pictures for training.")
@click.option("--val-images", default=None, type=int, help="Pictures for validation; default: a tenth of --images.")
@click.option("--size", default=192, show_default=True, help="Side of the square pictures in pixels.")
@click.option("--items", nargs=2, type=int, default=(2, 8), show_default=True, help="Fewest and most items.")
@click.option("--sides", nargs=2, type=int, help="Smallest and largest item in pixels; default: size/8 and size/2.")
@click.option("--seed", default=0, show_default=True, help="Of everything.")
@click.option("--data", default=FASHION_MNIST, show_default=True, metavar="DIR", help="Folder of Fashion-MNIST.")
def main(
    out: Path,
    images: int,
    val_images: int | None,
    size: int,
    items: tuple[int, int],
    sides: tuple[int, int] | None,
    seed: int,
    data: str,
) -> None:
    """Writes pictures of Fashion-MNIST's items in COCO's and in ADE20K's layout."""
    try:
        compose(out, images, val_images or max(1, images // 10), size, items, sides, seed, data)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: coco/ and ade/ADEChallengeData2016/")


if __name__ == "__main__":
    main()
