"""NYU Depth v2, KITTI and any folder of RGB-D frames, as they lie on disk.

Each item is a dictionary: ``image``, RGB float32 (3, H, W) in [0, 1]; ``depth``, float32 (H, W) in metres, 0 where
there is none; ``name``. A transform (see `transforms`) may change it. What is missing is found when a data set is made,
not in the middle of an epoch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATASETS, TRANSFORMS
from torch.utils.data import Dataset

from ..engine.sampling import seeded
from ..pictures import open_upright, turned
from .images import read_depth, read_image
from .transforms import Sample, Transform

Recipe = Transform | dict[str, Any] | None

NYU_COUNTS, KITTI_COUNTS = 1000, 256  # per metre
NYU_SPLITS = {"train": 795, "test": 654}  # of the 1449 labelled frames
EIGEN_TEST = (697, 652)  # of KITTI: listed by Eigen et al., and those of them that have improved ground truth
_SIDES = {"l": "image_02", "r": "image_03"}


@dataclass(frozen=True)
class Frame:
    """An image file, and the 16-bit PNG of its depth."""

    image: Path
    depth: Path


class DepthFrames(Dataset, ABC):
    """What all data sets below share: samples as they are on disk, and a transform.

    Args:
        transform: from sample to sample, or the config of one of the recipes in `transforms`.
    """

    def __init__(self, transform: Recipe) -> None:
        self.transform = TRANSFORMS.build(transform) if isinstance(transform, dict) else transform
        self.metainfo: dict[str, Any] = {}  # mmengine asks for it

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> Sample:
        """A frame without the transform."""

    def __getitem__(self, key: int | tuple[int, ...]) -> Sample:
        sample = self.load(key[-1] if isinstance(key, tuple) else key)
        if self.transform is None:
            return sample
        with seeded(key):
            return self.transform(sample)


class RGBDFrames(DepthFrames):
    """Frames that each are an image and a depth PNG of the same size.

    Args:
        frames: the pairs of files.
        counts_per_metre: of the PNGs.
        transform: see `DepthFrames`.

    Raises:
        ValueError: no frames; when indexed, also image and depth of different sizes.
        FileNotFoundError: a file is missing; the message counts them and names the first.
    """

    def __init__(self, frames: Sequence[Frame], counts_per_metre: float, transform: Recipe = None) -> None:
        if not frames:
            raise ValueError(f"{type(self).__name__}: no frame with depth; is the list of files, or the folder, empty?")
        missing = [path for frame in frames for path in (frame.image, frame.depth) if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{type(self).__name__}: {len(missing)} of {2 * len(frames)} files are missing, first {missing[0]}"
            )
        self.frames, self.counts_per_metre = list(frames), counts_per_metre
        super().__init__(transform)

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, index: int) -> Sample:
        frame = self.frames[index]
        image, depth = read_image(frame.image), read_depth(frame.depth, self.counts_per_metre)
        if image.shape[1:] != depth.shape:
            picture = open_upright(frame.image)
            raise ValueError(
                f"{frame.image} has {picture.width}×{picture.height} pixels{turned(picture)}, its depth {frame.depth} "
                f"has {depth.shape[1]}×{depth.shape[0]}; resample one of them"
            )
        return {"image": image, "depth": depth, "name": str(frame.image)}


@DATASETS.register_module()
class NYU(RGBDFrames):
    """NYU Depth v2 as the BTS line of work lays it out: JPEG or PNG beside 16-bit PNG in millimetres, and a list.

    The usual lists name 24,231 frames for training and the official 654 for testing. For the official file itself see
    `NYULabeled`.

    Args:
        root: the folder that the list's paths start from.
        files: the list, from here or from ``root``; a line holds image, depth and (unused) the focal length, as
            ``/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579``.
        transform: see `DepthFrames`.

    Raises:
        FileNotFoundError: the list, or a file that it names.
        ValueError: a line that is not of this kind.
    """

    def __init__(self, root: str | Path, files: str | Path, transform: Recipe = None) -> None:
        frames = []
        for place, fields in _lines(_below(root, files)):
            if len(fields) not in (2, 3):
                raise ValueError(f"{place}: expected image, depth and focal length, got {' '.join(fields)!r}")
            image, depth = (Path(root) / field.lstrip("/") for field in fields[:2])
            frames.append(Frame(image, depth))
        super().__init__(frames, NYU_COUNTS, transform)


@DATASETS.register_module()
class NYULabeled(DepthFrames):
    """The official ``nyu_depth_v2_labeled.mat`` with the official split of its 1449 frames, 795 and 654.

    Args:
        mat: ``nyu_depth_v2_labeled.mat``, read with h5py.
        splits: ``splits.mat``.
        split: ``train`` or ``test``.
        raw: the measured depth, with holes, that published figures are on; otherwise the in-filled one.
        border: black out the frame outside rows 7:474 and columns 7:632, as the BTS line of work does in its test set.
        transform: see `DepthFrames`.
        root: where the files are looked for.

    Raises:
        FileNotFoundError: one of the files.
        ImportError: h5py is not installed.
        ValueError: unknown split, or files that are not these.
    """

    def __init__(
        self,
        mat: str | Path,
        splits: str | Path,
        split: str,
        raw: bool = True,
        border: bool = False,
        transform: Recipe = None,
        root: str | Path = ".",
    ) -> None:
        from scipy.io import loadmat  # comes with scikit-image; a quarter of a second

        if split not in NYU_SPLITS:
            raise ValueError(f"split: expected one of {', '.join(NYU_SPLITS)}, got {split!r}")
        mat, splits = (_below(root, path) for path in (mat, splits))
        for path in (mat, splits):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: expected a file of NYU Depth v2, found nothing")
        key = f"{split}Ndxs"
        try:
            numbers = loadmat(splits)[key]
        except (ValueError, KeyError, NotImplementedError) as error:  # scipy's for MATLAB 7.3, which the other file is
            raise ValueError(f"{splits}: expected NYU's splits.mat, with {key}: {error}") from error
        self.indices = [int(number) - 1 for number in numbers.ravel()]  # MATLAB counts from 1
        super().__init__(transform)
        self.mat, self.border = mat, border
        self.depths = "rawDepths" if raw else "depths"
        with self._open() as file:
            have = {name: file[name].shape for name in ("images", self.depths) if name in file}
        if len(have) < 2 or have["images"][0] <= max(self.indices):
            raise ValueError(
                f"{mat}: expected images and {self.depths} of {max(self.indices) + 1} frames, found {have}"
            )

    def _open(self) -> Any:
        try:
            import h5py
        except ImportError as error:
            raise ImportError(f"{self.mat} is an HDF5 file: pip install h5py") from error
        try:
            return h5py.File(self.mat)
        except OSError as error:
            raise ValueError(f"{self.mat}: expected NYU's labelled set, an HDF5 file: {error}") from error

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Sample:
        number = self.indices[index]
        with self._open() as file:  # for each frame: an open HDF5 file does not survive a worker's fork
            image = torch.from_numpy(file["images"][number]).mT.float() / 255  # (3, W, H) on disk
            depth = torch.from_numpy(file[self.depths][number]).mT.float()
        if self.border:
            inside = torch.zeros_like(image)
            inside[:, 7:474, 7:632] = image[:, 7:474, 7:632]
            image = inside
        return {"image": image.contiguous(), "depth": depth.contiguous(), "name": f"{number + 1:04d}"}


@DATASETS.register_module()
class KITTI(RGBDFrames):
    """KITTI raw images with the improved, sparse ground truth of its depth benchmark (16-bit PNG, 256 per metre).

    Two kinds of list are in use. Those of the BTS line name both files, or ``None`` for no depth::

        2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png
        2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png 721.5377

    (on one line). Those of the Monodepth line name drive, frame and camera: ``2011_09_26/2011_09_26_drive_0002_sync 69
    l``; there a frame whose depth is not on disk has none. Of Eigen's 697 test frames 652 have one, and the list of 697
    is refused if they are not all found.

    Args:
        root: the folder of the raw data (``2011_09_26`` ...).
        depth_root: the folder of the ground truth, from here or from ``root``: that holds the drives, or ``train`` and
            ``val`` with the drives.
        files: the list, from here or from ``root``.
        transform: see `DepthFrames`.

    Attributes:
        listed: how many frames the list names.

    Raises:
        FileNotFoundError: the list, or a file that it names.
        ValueError: a line that is not of either kind, or not 652 of Eigen's 697 frames with depth.
    """

    def __init__(self, root: str | Path, depth_root: str | Path, files: str | Path, transform: Recipe = None) -> None:
        frames = []
        self.listed = 0
        depth_root = _below(root, depth_root)
        for place, fields in _lines(_below(root, files)):
            self.listed += 1
            by_frame = len(fields) == 3 and fields[2] in _SIDES
            if not by_frame and len(fields) not in (2, 3):
                raise ValueError(
                    f"{place}: expected 'image depth focal-length' or 'drive frame l|r', got {' '.join(fields)!r}"
                )
            image, depth = _kitti_frame(*fields) if by_frame else (fields[0], fields[1])
            if depth == "None":
                continue
            found = _under(Path(depth_root), depth)
            if found.is_file() or not by_frame:
                frames.append(Frame(_png_or_jpg(Path(root) / image.lstrip("/")), found))
        if self.listed == EIGEN_TEST[0] and len(frames) != EIGEN_TEST[1]:
            raise ValueError(
                f"{files}: of the Eigen split's 697 frames 652 have improved ground truth, found {len(frames)} under "
                f"{depth_root}; unpack both train and val of data_depth_annotated there"
            )
        super().__init__(frames, KITTI_COUNTS, transform)


@DATASETS.register_module()
class RGBDFolder(RGBDFrames):
    """A folder of frames: ``rgb/NAME.png`` (or any other image format), ``depth/NAME.png`` (16 bits) and ``rgbd.json``.

    ``rgbd.json`` holds ``counts_per_metre`` and may hold ``camera`` (``fx fy cx cy`` in pixels), ``registered``
    (``false``: depth is seen from another point than the image) and ``source``; `sources` writes such folders.

    Args:
        root: the folder.
        names: which frames, in order; default all that have depth, sorted.
        part: only so many of them, from the first number up to and without the second.
        transform: see `DepthFrames`.

    Attributes:
        info: what ``rgbd.json`` holds.

    Raises:
        FileNotFoundError: ``rgbd.json`` or a named frame is missing.
        ValueError: ``rgbd.json`` is not as above, two images share a name, or there are no frames.
    """

    def __init__(
        self,
        root: str | Path,
        names: Sequence[str] | None = None,
        transform: Recipe = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        root = Path(root)
        self.info = _folder_info(root / "rgbd.json")
        images: dict[str, Path] = {}
        for path in sorted((root / "rgb").glob("*")):
            if path.stem in images:
                raise ValueError(f"{root}: {images[path.stem].name} and {path.name} have the same name; remove one")
            images[path.stem] = path
        if names is None:
            names = sorted(path.stem for path in (root / "depth").glob("*.png"))
        frames = [
            Frame(images.get(name, root / "rgb" / f"{name}.png"), root / "depth" / f"{name}.png")
            for name in (names if part is None else names[slice(*part)])
        ]
        super().__init__(frames, self.info["counts_per_metre"], transform)


def _folder_info(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f'{path}: an RGB-D folder says its unit there, as {{"counts_per_metre": 1000}}')
    try:
        info = json.loads(path.read_text(encoding="utf-8-sig"))
        counts = info["counts_per_metre"]
        if isinstance(counts, bool) or not counts > 0:
            raise ValueError(f"counts_per_metre is {counts}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON with counts_per_metre, a number above 0: {error!r}") from error
    return info


def _lines(files: str | Path) -> list[tuple[str, list[str]]]:
    """``file:line`` and the fields of every line of a list that is not empty."""
    files = Path(files)
    if not files.is_file():
        raise FileNotFoundError(f"{files}: expected a text file that lists frames, found nothing")
    lines = files.read_text(encoding="utf-8-sig").splitlines()
    return [(f"{files}:{number}", line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _kitti_frame(drive: str, number: str, side: str) -> tuple[str, str]:
    """Image and depth paths of a frame, by KITTI's own naming."""
    camera, file = _SIDES[side], f"{number.zfill(10)}.png"
    return f"{drive}/{camera}/data/{file}", f"{Path(drive).name}/proj_depth/groundtruth/{camera}/{file}"


def _below(root: str | Path, path: str | Path) -> Path:
    """A path as it is, if something is there, otherwise from ``root``."""
    return Path(path) if Path(path).exists() else Path(root) / path


def _under(root: Path, path: str) -> Path:
    """Below ``root``, or its folders ``train`` or ``val``, where there is such a file."""
    candidates = [root / part / path.lstrip("/") for part in ("", "train", "val")]
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])


def _png_or_jpg(path: Path) -> Path:
    """The JPEG that many keep instead of KITTI's PNG."""
    jpeg = path.with_suffix(".jpg")
    return jpeg if not path.is_file() and jpeg.is_file() else path
