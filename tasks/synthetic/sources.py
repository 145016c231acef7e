"""Small real data that anyone can have, as RGB-D folders (see `depth.datasets.RGBDFolder`).

Debian's visp-images-data and mrpt-common, and the stereo pair in scikit-image's wheel. The formats are read here; the
data stays where its licence has put it.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..depth.images import replacing, write_counts

CASTEL_COUNTS = 8000  # per metre: the RealSense SR300's unit is 1.25e-4 m
KINECT_COUNTS = 1000
MOTORCYCLE_COUNTS = 10000
# Middlebury 2014, a quarter of the size; scikit-image documents the numbers.
MOTORCYCLE_CAMERA = {"fx": 994.978, "fy": 994.978, "cx": 311.193, "cy": 254.877}
_BASELINE, _OFFSET = 0.193001, 31.086  # metres, and pixels between the two principal points
_KINECT_SHAPE = (480, 640)
_KINECT_GAP = 30  # bytes between the last range and the first colour

PACKAGED = {  # where Debian puts them
    "castel": Path("/usr/share/visp-images-data/ViSP-images/mbt-depth/castel/castel"),
    "kinect": Path("/usr/share/mrpt/datasets/tests_rgbd.rawlog"),
}

Counts = NDArray[np.uint16]
Pixels = NDArray[np.uint8]


def write_folder(root: str | Path, frames: Iterable[tuple[str, Pixels, Counts]], info: dict[str, Any]) -> Path:
    """Writes an RGB-D folder.

    Args:
        root: is made if missing.
        frames: name, image uint8 (H, W) or (H, W, 3), and depth counts (H, W), 0 for none.
        info: of ``rgbd.json``, with ``counts_per_metre``.

    Returns:
        ``root``.

    Raises:
        ValueError: no ``counts_per_metre``, or image and depth of different sizes.
    """
    root = Path(root)
    if "counts_per_metre" not in info:
        raise ValueError("info: expected counts_per_metre, without which depth has no unit")
    for name, image, counts in frames:
        if image.shape[:2] != counts.shape:
            raise ValueError(f"{name}: image of {image.shape[:2]} and depth of {counts.shape} pixels")
        with replacing(root / "rgb" / f"{name}.png") as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
        write_counts(root / "depth" / f"{name}.png", counts)
    with replacing(root / "rgbd.json") as temporary:
        temporary.write_text(json.dumps(info, indent=2) + "\n")
    return root


def convert_castel(source: str | Path, root: str | Path) -> Path:
    """The 30 RealSense frames of a model castle in visp-images-data, ``mbt-depth/castel/castel``.

    Grey images; the depth camera sits 2.5 cm beside and is not registered to them.

    Args:
        source: the folder with ``image_0000.pgm`` and ``depth_image_0000.bin`` (height and width as little-endian
            uint32, then uint16).
        root: the RGB-D folder to write.

    Raises:
        FileNotFoundError: no frames, or a frame without depth.
        ValueError: a depth file whose length is not what its header says.
    """
    source = Path(source)
    images = sorted(source.glob("image_*.pgm"))
    if not images:
        raise FileNotFoundError(f"{source}: expected image_0000.pgm and so on, from Debian's visp-images-data")

    def frames() -> Iterable[tuple[str, Pixels, Counts]]:
        for path in images:
            with Image.open(path) as image:
                yield path.stem, np.array(image.convert("L")), read_bin(source / f"depth_{path.stem}.bin")

    info = {"counts_per_metre": CASTEL_COUNTS, "registered": False, "source": "visp-images-data mbt-depth/castel"}
    return write_folder(root, frames(), info)


def read_bin(path: Path) -> Counts:
    """ViSP's depth file: height and width as little-endian uint32, then (H, W) uint16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its length is not what its header says.
    """
    data = path.read_bytes()
    height, width = struct.unpack_from("<II", data) if len(data) >= 8 else (0, 0)
    if not height * width or len(data) != 8 + 2 * height * width:
        raise ValueError(f"{path}: expected 8 bytes and {height}×{width} uint16, found {len(data)} bytes")
    return np.frombuffer(data, "<u2", offset=8).reshape(height, width)


def convert_kinect(rawlog: str | Path, root: str | Path) -> Path:
    """The Kinect frame of a bookshelf in mrpt-common, ``tests_rgbd.rawlog``; its depth is not registered.

    Args:
        rawlog: the file, compressed with gzip or not. The ranges are found by what precedes them in MRPT's own
            serialisation: the unit (float32 0.001), 480 and 640.
        root: the RGB-D folder to write.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no such frame in it.
    """
    rawlog = Path(rawlog)
    data = rawlog.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    pixels = _KINECT_SHAPE[0] * _KINECT_SHAPE[1]
    header = struct.pack("<fII", 1 / KINECT_COUNTS, *_KINECT_SHAPE)
    start = data.find(header) + len(header)
    colors = start + 2 * pixels + _KINECT_GAP
    if start < len(header) or len(data) < colors + 3 * pixels:
        raise ValueError(f"{rawlog}: no 480×640 range image in millimetres with its colour image; expected "
                         "tests_rgbd.rawlog from Debian's mrpt-common")  # fmt: skip
    counts = np.frombuffer(data, "<u2", pixels, start).reshape(_KINECT_SHAPE)
    # MRPT stores OpenCV's order, blue first: the bookshelf is of wood.
    image = np.frombuffer(data, "u1", 3 * pixels, colors).reshape(*_KINECT_SHAPE, 3)[..., ::-1].copy()
    info = {"counts_per_metre": KINECT_COUNTS, "registered": False, "source": "mrpt-common tests_rgbd.rawlog"}
    return write_folder(root, [("bookshelf", image, counts)], info)


def convert_motorcycle(root: str | Path) -> Path:
    """The motorcycle of Middlebury 2014, from scikit-image's wheel: left image and depth from measured disparity.

    ``depth = baseline · f / (disparity + offset)``, 2.1 to 5.0 m; 92.7 % of the pixels have one.
    """
    import skimage.data  # loads its fetchers, which nothing else here needs

    image, _, disparity = skimage.data.stereo_motorcycle()
    return write_folder(
        root,
        [("motorcycle", image, depth_counts(disparity))],
        {
            "counts_per_metre": MOTORCYCLE_COUNTS,
            "camera": MOTORCYCLE_CAMERA,
            "registered": True,
            "source": "scikit-image stereo_motorcycle (Middlebury 2014, Scharstein et al., GCPR 2014)",
        },
    )


def depth_counts(disparity: NDArray[np.floating]) -> Counts:
    """Disparity in pixels (H, W) to depth in tenths of a millimetre, 0 where it is infinite or NaN."""
    valid = np.isfinite(disparity)
    metres = _BASELINE * MOTORCYCLE_CAMERA["fx"] / (np.where(valid, disparity, 0).astype(np.float64) + _OFFSET)
    return np.where(valid, np.round(metres * MOTORCYCLE_COUNTS), 0).astype(np.uint16)


@click.command()
@click.argument("source", type=click.Choice(["castel", "kinect", "motorcycle"]))
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--files", type=click.Path(path_type=Path), help="Where the package put them, if not at Debian's place.")
def main(source: str, root: Path, files: Path | None) -> None:
    """Writes SOURCE as an RGB-D folder ROOT; castel needs Debian's visp-images-data, kinect its mrpt-common."""
    if source == "motorcycle":
        convert_motorcycle(root)
    else:
        convert = {"castel": convert_castel, "kinect": convert_kinect}[source]
        convert(files or PACKAGED[source], root)
    click.echo(root)


if __name__ == "__main__":
    main()
