"""Labelled images from folders, tar files and IDX files, augmented by timm.

A sample's augmentation is drawn from generators seeded by its place in the training (`engine.sampling`).
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import os
import struct
import tarfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from PIL import Image
from timm.data import create_transform
from timm.data.readers.img_extensions import add_img_extensions
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch.utils.data import Dataset

from ..engine.sampling import seeded
from ..pictures import EXTENSIONS, read_picture

__all__ = ["FashionMNIST", "ImageFolder", "WebDataset", "read_idx"]

add_img_extensions(EXTENSIONS)  # for timm's reader of tar files, which knows three
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # where Debian's package puts it
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class LabelledImages(Dataset, ABC):
    """Pairs of an image (channels, H, W) and its class; what all data sets below share.

    Args:
        transform: arguments of `timm.data.create_transform`.
        limit: use only so many images, evenly spaced; None: all.
        max_corrupt: images that may be unreadable before that is an error; each is named, and replaced by the next.
    """

    mode = "RGB"  # PIL's name of what images are converted to
    classes: tuple[str, ...]

    def __init__(self, transform: dict[str, Any], limit: int | None = None, max_corrupt: int = 10) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit: expected at least 1 image, got {limit}")
        self.transform = create_transform(**transform)
        total = self.total()
        chosen = min(limit or total, total)
        self.indices = [i * total // chosen for i in range(chosen)] if chosen else []
        self.max_corrupt = max_corrupt
        self.corrupt: set[int] = set()
        self.metainfo = {"classes": self.classes}

    @abstractmethod
    def total(self) -> int:
        """Number of images before ``limit``."""

    @abstractmethod
    def load(self, index: int) -> tuple[Image.Image, int]:
        """The image in ``mode``, and its class."""

    def name(self, index: int) -> str:
        """What to call an image in a message."""
        return f"image {index}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[torch.Tensor, int]:
        index = key[-1] if isinstance(key, tuple) else key
        image, label = self._readable(index)
        with seeded(key):
            return self.transform(image), label

    def _readable(self, index: int) -> tuple[Image.Image, int]:
        """The image, or the next one that can be read."""
        for step in range(len(self)):
            number = self.indices[(index + step) % len(self)]
            try:
                return self.load(number)
            except (OSError, ValueError) as error:
                self._note_corrupt(number, error)
        raise ValueError(f"none of {len(self)} images can be read")

    def _note_corrupt(self, number: int, error: Exception) -> None:
        if number not in self.corrupt:
            self.corrupt.add(number)
            print_log(f"{self.name(number)} cannot be read ({error}); the next is used", "current", logging.WARNING)
        if len(self.corrupt) > self.max_corrupt:
            raise ValueError(
                f"{len(self.corrupt)} images cannot be read, the last is {self.name(number)}; repair or remove them, "
                "or raise max_corrupt"
            )


@DATASETS.register_module()
class ImageFolder(LabelledImages):
    """Images in one folder per class, ImageNet in its usual layouts, or tar files (these through timm's reader).

    Args:
        root: a folder with a folder per class, or with ``train`` and ``val`` (``validation``, ``test``) that hold them;
            ImageNet as Kaggle packs it (``ILSVRC/Data/CLS-LOC``, labels of ``val`` in ``LOC_val_solution.csv``); a
            ``.tar`` file with a folder per class; or a folder with a ``.tar`` file per class.
        split: ``train`` or ``val``, where ``root`` has both.
        **kwargs: of `LabelledImages`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images, a class without any, or a flat folder whose labels are nowhere.
    """

    def __init__(self, root: str | Path, split: str = "train", **kwargs: Any) -> None:
        root = Path(root).expanduser()
        if not root.exists():
            raise FileNotFoundError(f"root: {root}: no such folder or tar file; put the images there or change it")
        self.folder, solution = _split_folder(root, split)
        if solution is not None:
            self.samples, names = _kaggle_samples(self.folder, solution)
        elif self.folder.is_file() or _holds_tars(self.folder):
            self.reader, self.samples = ReaderImageInTar(str(self.folder)), None
            names = sorted(self.reader.class_name_to_idx, key=self.reader.class_name_to_idx.get)
        else:
            self.samples, names = _folder_samples(self.folder)
        self.classes = tuple(names)
        super().__init__(**kwargs)
        if not len(self):
            raise ValueError(f"root: {self.folder}: no images; expected names that end in {', '.join(EXTENSIONS)}")

    def total(self) -> int:
        return len(self.reader if self.samples is None else self.samples)

    def load(self, index: int) -> tuple[Image.Image, int]:
        if self.samples is None:
            file, label = self.reader[index]
            return read_picture(file, self.mode, self.name(index)), label
        path, label = self.samples[index]
        return read_picture(path, self.mode), label

    def name(self, index: int) -> str:
        return self.reader.filename(index) if self.samples is None else str(self.samples[index][0])


def _split_folder(root: Path, split: str) -> tuple[Path, Path | None]:
    """The folder (or tar file) of a split, and the file with its labels if they are not the folders' names."""
    if root.is_file():
        return root, None
    kaggle = root / "ILSVRC" / "Data" / "CLS-LOC"
    if kaggle.is_dir():
        solution = root / "LOC_val_solution.csv"
        return kaggle / split, solution if split == "val" and solution.is_file() else None
    names = {"train": ("train",), "val": ("val", "validation", "valid", "test")}.get(split, (split,))
    for name in names:
        for candidate in (root / name, root / f"{name}.tar"):
            if candidate.exists():
                return candidate, None
    if any((root / name).exists() for name in ("train", "val", "validation", "test")):
        raise FileNotFoundError(f"root: {root}: no {' or '.join(names)} in it; put the {split} images there")
    return root, None


def _holds_tars(folder: Path) -> bool:
    """ImageNet as it is distributed: a tar file per class, and no folders."""
    return any(folder.glob("*.tar")) and not any(path.is_dir() for path in folder.iterdir())


def _folder_samples(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Paths and labels; classes are the names of the folders, sorted."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        there = "images without class folders" if any(folder.iterdir()) else "nothing"
        raise ValueError(f"root: {folder}: expected one folder per class, found {there}; sort the images into folders")
    samples, others = [], []
    for label, name in enumerate(names):
        for path in _files(folder / name):
            if path.suffix.lower() in EXTENSIONS:
                samples.append((path, label))
            else:
                others.append(path)
    counts = Counter(label for _, label in samples)
    empty = [name for label, name in enumerate(names) if not counts[label]]
    if empty:
        raise ValueError(f"root: {folder}: no images of class {', '.join(empty[:5])}; add some or remove the folder")
    if others:
        endings = Counter(path.suffix or "no ending" for path in others)
        kinds = ", ".join(f"{count} × {ending}" for ending, count in endings.items())
        print_log(
            f"root: {folder}: {len(others)} files are left out, as their names end in none of {', '.join(EXTENSIONS)}: "
            f"{kinds}; the first is {others[0]}",
            "current",
            logging.WARNING,
        )
    return samples, names


def _files(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones, sorted; links to folders are followed, though not in circles."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        folders[:] = [] if here in seen else [name for name in folders if not name.startswith(".")]
        if here not in seen:
            found += [Path(place) / name for name in names if not name.startswith(".")]
        seen.add(here)
    return sorted(found)


def _kaggle_samples(folder: Path, solution: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """The flat validation folder of ImageNet with the labels of ``LOC_val_solution.csv``."""
    with open(solution, newline="", encoding="utf-8-sig") as file:
        rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
    names = sorted({wnid for _, wnid in rows})
    label = {name: index for index, name in enumerate(names)}
    return [(folder / f"{image}.JPEG", label[wnid]) for image, wnid in rows], names


@DATASETS.register_module()
class WebDataset(LabelledImages):
    """Images in the shards of a WebDataset on disk: tar files in which ``KEY.jpg`` and ``KEY.cls`` belong together.

    Shards are indexed at the start and read at random, not streamed: so the sampler shuffles over all of them, and a
    run that was killed resumes with the image it would have had. Indexing reads a header per member.

    Args:
        root: folder of the shards.
        shards: pattern of their names, e.g. ``imagenet1k-train-*.tar``.
        num_classes: labels are 0 to ``num_classes`` - 1.
        **kwargs: of `LabelledImages`.

    Raises:
        FileNotFoundError: no such folder, or no shard in it.
        ValueError: a shard is no tar file or truncated, an image has no label, or a label is no such number.
    """

    def __init__(self, root: str | Path, shards: str, num_classes: int, **kwargs: Any) -> None:
        root = Path(root).expanduser()
        self.shards = sorted(root.glob(shards)) if root.is_dir() else []
        if not self.shards:
            raise FileNotFoundError(f"root: {root}: no shard called {shards}; put them there, or change root or shards")
        found = [(number, *row) for number, path in enumerate(self.shards) for row in _index_shard(path, num_classes)]
        if not found:
            raise ValueError(f"root: {root}: no images in {len(self.shards)} shards called {shards}")
        self.places = np.array(found, np.int64)  # (images, 4): shard, offset, size, label
        self.classes = tuple(map(str, range(num_classes)))
        super().__init__(**kwargs)

    def total(self) -> int:
        return len(self.places)

    def load(self, index: int) -> tuple[Image.Image, int]:
        shard, offset, size, label = self.places[index].tolist()
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return read_picture(io.BytesIO(file.read(size)), self.mode, self.name(index)), label

    def name(self, index: int) -> str:
        shard, offset, _, _ = self.places[index].tolist()
        return f"{self.shards[shard]}, image at byte {offset}"


def _index_shard(path: Path, num_classes: int) -> list[tuple[int, int, int]]:
    """(offset, size, label) of every image; a sample's key ends at the first dot of the file name."""
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                key = f"{folder}/{key}"
                if f".{extension.lower()}" in EXTENSIONS:
                    places[key] = member.offset_data, member.size
                elif extension == "cls":
                    text = tar.extractfile(member).read().strip()
                    if not text.isdigit() or int(text) >= num_classes:
                        raise ValueError(f"{path}: {member.name}: expected a label below {num_classes}, got {text!r}")
                    labels[key] = int(text)
                tar.members = []  # it would keep all of them
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a whole tar file ({error}); get it again") from error
    without = sorted(places.keys() - labels.keys())
    if without:
        raise ValueError(
            f"{path}: no label of image {without[0].lstrip('/')}; expected a member of that name with .cls"
        )
    return [(*places[key], labels[key]) for key in places]


@DATASETS.register_module()
class FashionMNIST(LabelledImages):
    """Fashion-MNIST (arXiv 1708.07747) from its IDX files: 60,000 and 10,000 grey images of 28×28 in 10 classes.

    Args:
        root: folder of the four files, gzipped or not; default: where Debian's ``dataset-fashion-mnist`` puts them.
        split: ``train`` or ``test``.
        **kwargs: of `LabelledImages`.

    Raises:
        FileNotFoundError: the files are not there; the message says how to get them.
        ValueError: a file is not IDX, or images and labels do not belong together.
    """

    mode = "L"
    classes = FASHION_CLASSES

    def __init__(self, root: str | Path = FASHION_MNIST, split: str = "train", **kwargs: Any) -> None:
        prefix = {"train": "train", "test": "t10k"}.get(split)
        if prefix is None:
            raise ValueError(f"split: expected train or test, got {split!r}")
        root = Path(root).expanduser()
        self.images = read_idx(_idx_file(root, f"{prefix}-images-idx3-ubyte"), 3)  # (N, 28, 28)
        self.labels = read_idx(_idx_file(root, f"{prefix}-labels-idx1-ubyte"), 1)  # (N,)
        if len(self.images) != len(self.labels):
            raise ValueError(f"root: {root}: {len(self.images)} images but {len(self.labels)} labels")
        if not len(self.images):
            raise ValueError(f"root: {root}: no images of split {split}; get the whole data set")
        super().__init__(**kwargs)

    def total(self) -> int:
        return len(self.images)

    def load(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.labels[index])


def _idx_file(root: Path, name: str) -> Path:
    for path in (root / f"{name}.gz", root / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"root: {root}: no {name}.gz; on Debian and Ubuntu `apt-get install dataset-fashion-mnist` puts the data set "
        f"into {FASHION_MNIST}; elsewhere download its four IDX files and give their folder as root"
    )


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """Reads unsigned bytes in IDX format, gzipped or not.

    Args:
        path: the file.
        ndim: expected number of dimensions.

    Raises:
        ValueError: not such a file, or truncated.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, struct.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); get it again") from error
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes((0, 0, 8, ndim)):
        raise ValueError(f"{path}: not an IDX file of bytes in {ndim} dimensions; get it again")
    shape: Sequence[int] = struct.unpack(f">{ndim}I", content[4:header])
    if len(content) != header + int(np.prod(shape)):
        raise ValueError(
            f"{path}: {len(content)} bytes, but its header says {header + int(np.prod(shape))}; get it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
