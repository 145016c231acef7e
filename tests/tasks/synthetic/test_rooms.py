"""Rendered depth is exact, follows from its seed, and passes through the readers of real data."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from mixerzoo.tasks.depth import create_depth_model
from mixerzoo.tasks.depth.datasets import KITTI, NYU, RGBDFolder
from mixerzoo.tasks.depth.losses import silog_loss
from mixerzoo.tasks.depth.metrics import Protocol, image_metrics, mean_metrics
from mixerzoo.tasks.depth.transforms import Compose, Convention, Normalize, Resize
from mixerzoo.tasks.synthetic.rooms import (
    KITTI_CAMERA,
    NYU_CAMERA,
    Box,
    Camera,
    Paint,
    Sphere,
    lidar,
    look,
    render,
    room,
    street,
    write_kitti,
    write_nyu,
)
from mixerzoo.tasks.synthetic.sources import (
    convert_castel,
    convert_kinect,
    convert_motorcycle,
    depth_counts,
    read_bin,
    write_folder,
)
from PIL import Image
from torch.utils.data import default_collate

PAINT = Paint("bricks", np.ones(3), np.zeros(3), 0.5, 0.0)
CAMERA = Camera(33, 41, 40.0, 42.0, 20.0, 16.0)


def test_a_wall_is_at_its_distance():
    walls = Box(np.array([-5.0, -5, -5]), np.array([5.0, 3, 5]), PAINT, inside=True)
    _, depth = render([walls], CAMERA, look([0, -1, 0], [0, 3, 0]))
    np.testing.assert_allclose(depth, 4.0, rtol=1e-12)  # along the axis, not along the ray
    outside = Box(np.array([-5.0, 3, -5]), np.array([5.0, 4, 5]), PAINT)
    _, depth = render([outside], CAMERA, look([0, -1, 0], [0, 3, 0]))
    np.testing.assert_allclose(depth, 4.0, rtol=1e-12)


def test_a_ball_is_round():
    ball = Sphere(np.array([0.3, 5.0, -0.2]), 1.0, PAINT)
    pose = look([0, 0, 0], [0, 5, 0])
    picture, depth = render([ball], CAMERA, pose)
    seen = 0
    for row in range(CAMERA.height):
        for column in range(CAMERA.width):
            ray = np.array([(column - 20) / 40, (row - 16) / 42, 1])
            center = pose.axes @ ball.center
            roots = np.roots([ray @ ray, -2 * ray @ center, center @ center - 1])
            expected = roots.real.min() if np.isreal(roots).all() else 0
            assert depth[row, column] == pytest.approx(expected, abs=1e-9)
            seen += expected > 0
    assert seen > 100
    assert np.array_equal((depth == 0), (picture == picture[0, 0]).all(2))  # the sky, and nothing else


def test_a_camera_sees_right_down_and_forward():
    pose = look([1, 2, 3], [1, 9, 3])
    np.testing.assert_allclose(pose.axes, [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)
    rolled = look([1, 2, 3], [4, 9, 2], roll=0.3).axes
    np.testing.assert_allclose(rolled @ rolled.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rolled) == pytest.approx(1)


@pytest.mark.parametrize(("make", "camera"), [(room, NYU_CAMERA), (street, KITTI_CAMERA)])
@pytest.mark.parametrize("seed", range(3))
def test_every_point_lies_on_a_surface_and_nothing_before_it(make, camera, seed):
    """By another way than ray casting: signed distances to the solids along every ray."""
    solids, pose = make(np.random.default_rng(seed))
    camera = camera.scaled(0.1)
    _, depth = render(solids, camera, pose)

    def distance(solid, points):
        if isinstance(solid, Sphere):
            return np.linalg.norm(points - solid.center, axis=-1) - solid.radius
        q = np.maximum(solid.low - points, points - solid.high)
        outside = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)
        return -outside if solid.inside else outside

    v, u = np.mgrid[: camera.height, : camera.width]
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], -1) @ pose.axes
    hit = depth > 0
    for share in (0.1, 0.5, 0.9, 0.999):
        points = pose.position + share * depth[..., None] * rays
        assert min(distance(solid, points)[hit].min() for solid in solids) > 0
    surface = pose.position + depth[..., None] * rays
    nearest = np.min([np.abs(distance(solid, surface)) for solid in solids], axis=0)
    assert nearest[hit].max() < 1e-9
    if make is room:
        assert hit.all()
        assert depth.max() < 9.5
    else:
        assert 0.3 < hit.mean() < 1
        assert depth[-1].max() < 10  # the road


def test_scenes_follow_from_their_seed_and_differ():
    first, again, other = (render(*_scene(seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 20 for picture, _ in (first, other))


def _scene(seed):
    solids, pose = room(np.random.default_rng(seed))
    return solids, NYU_CAMERA.scaled(0.1), pose


def test_smaller_cameras_see_the_same():
    solids, pose = room(np.random.default_rng(0))
    whole, half = (render(solids, NYU_CAMERA.scaled(factor), pose)[1] for factor in (0.3, 0.1))
    # A pixel of the small one is the middle of three by three of the large one.
    np.testing.assert_allclose(whole[1::3, 1::3], half, rtol=1e-9)


def test_lidar_is_sparse_and_true():
    depth = np.linspace(1, 100, 400).reshape(20, 20)
    sparse = lidar(depth, np.random.default_rng(0))
    kept = sparse > 0
    assert np.array_equal(sparse[kept], depth[kept])
    assert not kept[:6].any()
    assert set(np.where(kept)[0] % 4) == {0}
    assert sparse.max() < 80


def test_nyu_on_disk(tmp_path):
    train, test = write_nyu(tmp_path / "a", 2, 1, seed=3, scale=0.1)
    data = NYU(tmp_path / "a", train)
    assert len(data) == 2
    sample = data[1]
    assert sample["image"].shape == (3, 48, 64)
    assert 0.5 < sample["depth"].min() < sample["depth"].max() < 10
    write_nyu(tmp_path / "b", 0, 3, seed=3, scale=0.1)
    again = NYU(tmp_path / "b", tmp_path / "b" / test.name)
    assert torch.equal(again[1]["depth"], sample["depth"])  # whichever split it is in
    assert torch.equal(again[2]["image"], NYU(tmp_path / "a", test)[0]["image"])
    small = Protocol("small")
    values = mean_metrics([image_metrics(item["depth"], item["depth"], small) for item in again], small)
    assert (values["images"], values["abs_rel"], values["delta1"]) == (3, 0, 1)


def test_kitti_on_disk(tmp_path):
    train, test = write_kitti(tmp_path / "raw", tmp_path / "depth", 1, 1, scale=0.1)
    for split, files in (("train", train), ("val", test)):
        data = KITTI(tmp_path / "raw", tmp_path / "depth", files)
        assert len(data) == 1
        assert f"/{split}/" in str(data.frames[0].depth)
        sample = data[0]
        assert sample["image"].shape == (3, 38, 124)
        filled = (sample["depth"] > 0).float().mean()
        assert 0.03 < filled < 0.2
        assert sample["depth"].max() < 80


def test_a_small_model_learns_from_it(tmp_path):
    train, _ = write_nyu(tmp_path, 2, 0, scale=0.2)
    model = create_depth_model("mambaout_femto_gatedcnn", features=32, depths=(1, 1, 1, 1), max_depth=10.0)
    data = NYU(tmp_path, train, Compose([Resize(Convention(96, 128)), Normalize(model.convention)]))
    batch = default_collate([data[0], data[1]])
    valid = batch["depth"] > 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step():
        loss = silog_loss(model(batch["image"]), batch["depth"], valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step() for _ in range(30)]
    assert min(losses[-3:]) < 0.5 * losses[0]


# Small real data


def test_castel(tmp_path):
    source = tmp_path / "castel"
    source.mkdir()
    counts = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    for i in range(2):
        (source / f"image_{i:04d}.pgm").write_bytes(b"P5\n4 3\n255\n" + grey.tobytes())
        (source / f"depth_image_{i:04d}.bin").write_bytes(struct.pack("<II", 3, 4) + counts.tobytes())
    data = RGBDFolder(convert_castel(source, tmp_path / "out"))
    assert len(data) == 2
    assert data.info["registered"] is False
    torch.testing.assert_close(data[1]["depth"], torch.from_numpy(counts * 1.25e-4).float())
    torch.testing.assert_close(data[1]["image"][2], torch.from_numpy(grey / 255).float())
    (source / "depth_image_0001.bin").write_bytes(struct.pack("<II", 3, 4) + counts.tobytes()[:-1])
    with pytest.raises(ValueError, match="expected 8 bytes and 3×4 uint16, found 31 bytes"):
        convert_castel(source, tmp_path / "half")
    assert not (tmp_path / "half" / "rgbd.json").exists()
    (source / "depth_image_0001.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="found 0 bytes"):
        read_bin(source / "depth_image_0001.bin")
    with pytest.raises(FileNotFoundError, match="visp-images-data"):
        convert_castel(tmp_path, tmp_path / "none")


@pytest.mark.parametrize("compressed", [True, False])
def test_kinect(compressed, tmp_path):
    rng = np.random.default_rng(0)
    counts = np.repeat(rng.integers(0, 3000, (480, 20), np.uint16), 32, axis=1)
    image = np.repeat(rng.integers(0, 256, (480, 20, 3), np.uint8), 32, axis=1)
    header = struct.pack("<fII", 0.001, 480, 640)
    content = b"rawlog" * 50 + header + counts.tobytes() + bytes(30) + image[..., ::-1].tobytes() + b"camera"
    path = tmp_path / "tests_rgbd.rawlog"
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    sample = RGBDFolder(convert_kinect(path, tmp_path / "out"))[0]
    torch.testing.assert_close(sample["depth"], torch.from_numpy(counts / 1000).float())
    assert np.array_equal(sample["image"].mul(255).round().byte().movedim(0, -1).numpy(), image)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="no 480×640 range image in millimetres"):
        convert_kinect(path, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_motorcycle(tmp_path):
    data = RGBDFolder(convert_motorcycle(tmp_path))
    sample = data[0]
    valid = sample["depth"] > 0
    assert sample["image"].shape == (3, 500, 741)
    assert valid.double().mean() == pytest.approx(0.927, abs=5e-4)
    assert sample["depth"][valid].min() == pytest.approx(2.11, abs=0.005)
    assert sample["depth"].max() == pytest.approx(5.02, abs=0.005)
    assert sample["depth"][valid].median() == pytest.approx(2.75, abs=0.005)
    assert data.info["camera"]["fx"] == 994.978


def test_disparity_to_depth():
    counts = depth_counts(np.array([[0.0, 31.086, np.inf, np.nan]]))
    assert counts.tolist() == [
        [round(0.193001 * 994.978 / 31.086 * 1e4), round(0.193001 * 994.978 / 62.172 * 1e4), 0, 0]
    ]


def test_folders_say_their_unit_and_fit(tmp_path):
    frame = ("a", np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint16))
    with pytest.raises(ValueError, match="without which depth has no unit"):
        write_folder(tmp_path, [frame], {})
    with pytest.raises(ValueError, match=r"a: image of \(2, 3\) and depth of \(3, 3\) pixels"):
        write_folder(tmp_path, [(*frame[:2], np.zeros((3, 3), np.uint16))], {"counts_per_metre": 1})
    assert not list(tmp_path.iterdir())
    write_folder(tmp_path, [frame], {"counts_per_metre": 1000, "source": "here"})
    assert json.loads((tmp_path / "rgbd.json").read_text()) == {"counts_per_metre": 1000, "source": "here"}
    with Image.open(tmp_path / "depth" / "a.png") as image:
        assert image.mode == "I;16"
