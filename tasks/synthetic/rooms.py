"""Pictures with exact depth: textured rooms and streets, rendered by casting one ray per pixel in NumPy.

Everything follows from a seed. Depth is along the optical axis, from closed formulas in float64, and the sets are
written as NYU Depth v2 and KITTI lie on disk, so that whatever reads those reads these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..depth.datasets import KITTI_COUNTS, NYU_COUNTS
from ..depth.images import replacing, write_counts

Array = NDArray[np.float64]
UP = np.array([0.0, 0.0, 1.0])  # of the world; x and y span the ground
LIGHT = np.array([0.4, -0.5, 0.77])
SKY = np.array([0.62, 0.75, 0.92])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; lengths in pixels, pixel (0, 0) seen through its centre (0, 0), as NYU and KITTI calibrate."""

    height: int
    width: int
    fx: float
    fy: float
    cx: float
    cy: float

    def scaled(self, factor: float) -> Camera:
        """The same view with ``factor`` times the pixels on each side."""
        height, width = round(self.height * factor), round(self.width * factor)
        cx, cy = (self.cx + 0.5) * factor - 0.5, (self.cy + 0.5) * factor - 0.5
        return Camera(height, width, self.fx * factor, self.fy * factor, cx, cy)


NYU_CAMERA = Camera(480, 640, 518.8579, 519.4696, 325.5824, 253.7362)
KITTI_CAMERA = Camera(375, 1242, 721.5377, 721.5377, 609.5593, 172.854)


@dataclass(frozen=True)
class Pose:
    """Where a camera stands and looks.

    Attributes:
        position: (3,) in metres.
        axes: (3, 3); rows are the camera's right, down and forward in the world.
    """

    position: Array
    axes: Array


@dataclass(frozen=True)
class Paint:
    """A colour that varies over a surface: bricks, stripes or a smooth noise in two tones, at a size in metres."""

    pattern: str
    light: Array
    dark: Array
    size: float
    phase: float

    def __call__(self, points: Array, normals: Array) -> Array:
        """``(M, 3), (M, 3) -> (M, 3)`` in [0, 1]."""
        # The two coordinates along the surface: those that are not the normal's largest.
        axis = np.abs(normals).argmax(1)
        u, v = (
            np.take_along_axis(points, ((axis + turn) % 3)[:, None], 1)[:, 0] / self.size + self.phase
            for turn in (1, 2)
        )
        if self.pattern == "bricks":
            share = (np.floor(u + 0.5 * (np.floor(v) % 2)) + np.floor(v)) % 2
        elif self.pattern == "stripes":
            share = (np.sin(2 * np.pi * u) > 0).astype(float)
        else:
            share = 0.5 + sum(np.sin(k * (u + 1.7 * v) + 3 * np.sin(k * 0.6 * v)) / (2 * k) for k in (1, 2, 5, 11)) / 2
        return self.dark + np.clip(share, 0, 1)[:, None] * (self.light - self.dark)


@dataclass(frozen=True)
class Sphere:
    """A ball."""

    center: Array
    radius: float
    paint: Paint

    def hit(self, origin: Array, rays: Array) -> Array:
        """How many ``rays`` (M, 3) it is from ``origin`` to the surface, (M,); infinity where it is missed."""
        offset = origin - self.center
        a, b, c = (rays**2).sum(1), rays @ offset, offset @ offset - self.radius**2
        root = np.sqrt(np.maximum(b**2 - a * c, 0))
        near = (-b - root) / a
        return np.where((b**2 > a * c) & (near > 0), near, np.inf)

    def normals(self, points: Array) -> Array:
        """(M, 3) of length 1."""
        return (points - self.center) / self.radius


@dataclass(frozen=True)
class Box:
    """A box along the axes, seen from outside, or (``inside``) a room seen from within."""

    low: Array
    high: Array
    paint: Paint
    inside: bool = False

    def hit(self, origin: Array, rays: Array) -> Array:
        """As `Sphere.hit`: where a ray has passed the last of the three slabs' entries, or the first of their exits."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(self.low - origin) / rays, (self.high - origin) / rays])  # (2, M, 3)
        entry, exit_ = np.nanmax(ends.min(0), 1), np.nanmin(ends.max(0), 1)
        if self.inside:
            return np.where(exit_ > 0, exit_, np.inf)
        return np.where((entry <= exit_) & (entry > 0), entry, np.inf)

    def normals(self, points: Array) -> Array:
        """(M, 3) of length 1, along the face that a point is nearest to."""
        distances = np.stack([np.abs(points - self.low), np.abs(points - self.high)])  # (2, M, 3)
        face = distances.min(0).argmin(1)
        sides = distances[:, np.arange(len(points)), face].argmin(0)
        normals = np.zeros_like(points)
        normals[np.arange(len(points)), face] = 2 * sides - 1
        return -normals if self.inside else normals


Solid = Sphere | Box


def look(position: Sequence[float], target: Sequence[float], roll: float = 0.0) -> Pose:
    """A camera at ``position`` that sees ``target`` in the middle, upright but for ``roll`` in radians."""
    position = np.asarray(position, dtype=float)
    forward = np.asarray(target, dtype=float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, UP)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    turned = np.cos(roll) * right + np.sin(roll) * down
    return Pose(position, np.stack([turned, np.cross(forward, turned), forward]))


def render(solids: Sequence[Solid], camera: Camera, pose: Pose) -> tuple[NDArray[np.uint8], Array]:
    """What a camera sees.

    Returns:
        RGB uint8 (H, W, 3), and depth along the optical axis in metres, (H, W); 0 where nothing is hit, the sky.
    """
    v, u = np.mgrid[: camera.height, : camera.width].reshape(2, -1)
    # Camera rays with z = 1: the multiple of one that reaches a surface is the depth itself.
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.size)], 1) @ pose.axes
    hits = np.stack([solid.hit(pose.position, rays) for solid in solids])  # (solids, H·W)
    nearest, depth = hits.argmin(0), hits.min(0)
    color = np.tile(SKY, (u.size, 1))
    for i, solid in enumerate(solids):
        seen = (nearest == i) & np.isfinite(depth)
        points = pose.position + depth[seen, None] * rays[seen]
        normals = solid.normals(points)
        shade = 0.45 + 0.55 * np.abs(normals @ LIGHT)
        color[seen] = solid.paint(points, normals) * shade[:, None]
    shape = (camera.height, camera.width)
    picture = (color.clip(0, 1) * 255).round().astype(np.uint8).reshape(*shape, 3)
    return picture, np.where(np.isfinite(depth), depth, 0).reshape(shape)


def _paint(rng: np.random.Generator, size: float, contrast: float = 1.0) -> Paint:
    light, dark = rng.uniform(0.45, 1, 3), rng.uniform(0.05, 0.5, 3)
    dark = light + contrast * (dark - light)
    return Paint(
        str(rng.choice(["bricks", "stripes", "noise"])), light, dark, size * rng.uniform(0.5, 1.5), rng.random()
    )


def room(rng: np.random.Generator) -> tuple[list[Solid], Pose]:
    """A room of 3 to 8 m with balls and boxes on its floor, and a camera at eye level at one end; all within 9.5 m.

    A picture does not tell a room from one twice as large. Eye level does, as on KITTI's car: 1.5 to 1.7 m.
    """
    width, length, height = size = np.array([rng.uniform(3, 5), rng.uniform(3.5, 8), rng.uniform(2.3, 3.2)])
    thin = 1e-3  # metres that floor and ceiling stand before the walls' box
    solids: list[Solid] = [
        Box(np.zeros(3), size, _paint(rng, 0.6, 0.3), inside=True),
        Box(np.array([0, 0, -1]), np.array([width, length, thin]), _paint(rng, 0.6)),
        Box(np.array([0, 0, height - thin]), np.array([width, length, height + 1]), _paint(rng, 0.6, 0.15)),
    ]
    for _ in range(rng.integers(2, 7)):
        extent = rng.uniform(0.1, 0.45, 3)
        # The camera's end of the room is left free, so that no object holds the camera.
        place = np.array([rng.uniform(0.5, width - 0.5), rng.uniform(1.6, length - 0.5), 0])
        if rng.random() < 0.5:
            solids.append(Sphere(place + [0, 0, extent[0]], float(extent[0]), _paint(rng, 0.15)))
        else:
            solids.append(Box(place - [*extent[:2], 0], place + [*extent[:2], 3 * extent[2]], _paint(rng, 0.2)))
    position = [rng.uniform(0.6, width - 0.6), rng.uniform(0.3, 0.9), rng.uniform(1.5, 1.7)]
    target = [rng.uniform(0.3, 0.7) * width, length, rng.uniform(0.5, 1.5)]
    return solids, look(position, target, rng.normal(0, 0.05))


def street(rng: np.random.Generator) -> tuple[list[Solid], Pose]:
    """A road with houses and cars, and a camera 1.65 m above it as on KITTI's car; the sky has no depth."""
    solids: list[Solid] = [Box(np.array([-500.0, -500, -1]), np.array([500.0, 500, 0]), _paint(rng, 1.5))]
    for side in (-1, 1):
        y = rng.uniform(4, 12)
        while y < 110:
            length, gap, away, depth = rng.uniform(5, 15), rng.uniform(0, 6), rng.uniform(6, 14), rng.uniform(4, 9)
            ends = sorted((side * away, side * (away + depth)))
            low, high = np.array([ends[0], y, 0]), np.array([ends[1], y + length, rng.uniform(3, 9)])
            solids.append(Box(low, high, _paint(rng, 1.2)))
            y += length + gap
    for _ in range(rng.integers(2, 7)):
        middle = np.array([rng.choice([-1, 1]) * rng.uniform(2, 4.5), rng.uniform(7, 60), 0])
        solids.append(Box(middle - [0.85, 2, 0], middle + [0.85, 2, rng.uniform(1.4, 1.9)], _paint(rng, 0.5)))
    position = np.array([rng.uniform(-0.5, 0.5), 0, 1.65])
    ahead = position + [rng.normal(0, 0.03), 1, rng.normal(0, 0.01)]
    return solids, look(position, ahead, rng.normal(0, 0.005))


def lidar(depth: Array, rng: np.random.Generator, keep: float = 0.5) -> Array:
    """Depth (H, W) as sparse as KITTI's: every fourth row of the lower two thirds, ``keep`` of its pixels, to 80 m."""
    height = len(depth)
    seen = rng.random(depth.shape) < keep
    seen[: height // 3] = False
    seen[np.arange(height) % 4 != 0] = False
    return np.where(seen & (depth < 80), depth, 0)


def _scenes(
    make: Callable[[np.random.Generator], tuple[list[Solid], Pose]], camera: Camera, seed: int, scenes: range
) -> Iterator[tuple[int, np.random.Generator, NDArray[np.uint8], Array]]:
    """Renders scenes one by one; number i is the same whichever others are asked for."""
    for i in scenes:
        rng = np.random.default_rng([seed, i])
        solids, pose = make(rng)
        zoom = rng.uniform(0.97, 1.03)
        picture, depth = render(solids, replace(camera, fx=camera.fx * zoom, fy=camera.fy * zoom), pose)
        yield i, rng, picture, depth


def write_nyu(root: str | Path, train: int, test: int, seed: int = 0, scale: float = 1.0) -> tuple[Path, Path]:
    """Writes rooms as NYU Depth v2 lies on disk in the BTS line of work.

    Args:
        root: a folder.
        train, test: how many frames.
        seed: of everything.
        scale: of 480×640 pixels.

    Returns:
        The lists of training and of test frames, for `datasets.NYU` with this ``root``.
    """
    root, camera = Path(root), NYU_CAMERA.scaled(scale)
    lines = []
    for i, _, picture, depth in _scenes(room, camera, seed, range(train + test)):
        folder = f"synthetic_{i // 100:04d}"
        image, target = f"{folder}/rgb_{i:05d}.jpg", f"{folder}/sync_depth_{i:05d}.png"
        with replacing(root / image) as temporary:
            Image.fromarray(picture).save(temporary, format="JPEG", quality=95)
        write_counts(root / target, np.round(depth * NYU_COUNTS))
        lines.append(f"/{image} /{target} {camera.fx:.4f}")
    return (
        _write_list(root / "nyudepthv2_train_files_with_gt.txt", lines[:train]),
        _write_list(root / "nyudepthv2_test_files_with_gt.txt", lines[train:]),
    )


def write_kitti(
    root: str | Path, depth_root: str | Path, train: int, test: int, seed: int = 0, scale: float = 1.0
) -> tuple[Path, Path]:
    """Writes streets as KITTI lies on disk: raw drives, and `lidar`'s sparse depth under ``train`` and ``val``.

    Args:
        root: a folder for the images, and the lists.
        depth_root: a folder for the depth.
        train, test: how many frames.
        seed: of everything.
        scale: of 375×1242 pixels.

    Returns:
        The lists of training and of test frames, for `datasets.KITTI` with these folders.
    """
    root, depth_root, camera = Path(root), Path(depth_root), KITTI_CAMERA.scaled(scale)
    lines = []
    for i, rng, picture, depth in _scenes(street, camera, seed, range(train + test)):
        split, number = ("train", 1) if i < train else ("val", 2)
        drive, file = f"2011_09_26_drive_{number:04d}_sync", f"{i:010d}.png"
        image = f"2011_09_26/{drive}/image_02/data/{file}"
        target = f"{drive}/proj_depth/groundtruth/image_02/{file}"
        with replacing(root / image) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
        write_counts(depth_root / split / target, np.round(lidar(depth, rng) * KITTI_COUNTS))
        lines.append(f"{image} {target} {camera.fx:.4f}")
    return (
        _write_list(root / "eigen_train_files_with_gt.txt", lines[:train]),
        _write_list(root / "eigen_test_files_with_gt.txt", lines[train:]),
    )


def _write_list(path: Path, lines: Sequence[str]) -> Path:
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))
    return path


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--train", default=4000, show_default=True, help="Frames for training.")
@click.option("--test", default=200, show_default=True, help="Frames for testing, of other scenes.")
@click.option("--seed", default=0, show_default=True)
@click.option("--scale", default=0.2, show_default=True, help="Of the real camera's pixels on each side.")
@click.option("--streets", is_flag=True, help="Streets in KITTI's format instead of rooms in NYU's.")
def main(root: Path, train: int, test: int, seed: int, scale: float, streets: bool) -> None:
    """Writes a rendered data set into ROOT; streets have their depth in ROOT/data_depth_annotated."""
    if streets:
        lists = write_kitti(root, root / "data_depth_annotated", train, test, seed, scale)
    else:
        lists = write_nyu(root, train, test, seed, scale)
    click.echo("\n".join(map(str, lists)))


if __name__ == "__main__":
    main()
