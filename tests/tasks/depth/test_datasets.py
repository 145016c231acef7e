"""Data sets as they lie on disk: written here by hand, byte by byte where the format is not an image's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mixerzoo.tasks.depth.datasets import KITTI, NYU, NYULabeled, RGBDFolder
from mixerzoo.tasks.depth.transforms import GENERIC, RandomFlip, evaluation
from PIL import Image
from scipy.io import savemat


def write_frame(image_path, depth_path, seed: int, shape=(6, 8)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image, counts = rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, 65536, shape, np.uint16)
    for path, pixels in ((image_path, image), (depth_path, counts)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return image, counts


def agrees(sample: dict, image: np.ndarray, metres: np.ndarray) -> None:
    assert sample["image"].dtype == sample["depth"].dtype == torch.float32
    assert np.array_equal(sample["image"].mul(255).round().byte().movedim(0, -1).numpy(), image)
    np.testing.assert_allclose(sample["depth"].numpy(), metres, rtol=1e-6)


def test_nyu(tmp_path):
    image, counts = write_frame(tmp_path / "kitchen/rgb_00045.png", tmp_path / "kitchen/sync_depth_00045.png", 0)
    other, _ = write_frame(tmp_path / "office/rgb_00001.png", tmp_path / "office/sync_depth_00001.png", 1)
    (tmp_path / "list.txt").write_text(
        "/kitchen/rgb_00045.png /kitchen/sync_depth_00045.png 518.8579\n\n"
        "office/rgb_00001.png office/sync_depth_00001.png 518.8579\n"
    )
    data = NYU(tmp_path, tmp_path / "list.txt")
    assert len(data) == 2
    agrees(data[0], image, counts / 1000)
    assert data[0]["name"].endswith("kitchen/rgb_00045.png")
    mirrored = NYU(tmp_path, tmp_path / "list.txt", RandomFlip(p=1))[1]["image"]
    assert np.array_equal(mirrored[0].mul(255).round().byte().numpy(), other[:, ::-1, 0])


def test_nyu_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a text file that lists frames"):
        NYU(tmp_path, tmp_path / "list.txt")
    listed = tmp_path / "list.txt"
    listed.write_text("a.png b.png 518\nonly-one\n")
    with pytest.raises(ValueError, match=r"list\.txt:2: expected image, depth and focal length, got 'only-one'"):
        NYU(tmp_path, listed)
    listed.write_text("a.png b.png 518\n")
    with pytest.raises(FileNotFoundError, match=r"NYU: 2 of 2 files are missing, first .*a\.png"):
        NYU(tmp_path, listed)
    listed.write_text("\n")
    with pytest.raises(ValueError, match="no frame with depth"):
        NYU(tmp_path, listed)
    write_frame(tmp_path / "a.png", tmp_path / "b.png", 0)
    write_frame(tmp_path / "small.png", tmp_path / "c.png", 0, (3, 3))
    listed.write_text("a.png c.png 518\n")
    with pytest.raises(ValueError, match=r"a\.png has 8×6 pixels, its depth .*c\.png has 3×3"):
        NYU(tmp_path, listed)[0]


@pytest.fixture
def labeled(tmp_path):
    """NYU's labelled file and splits with six frames of the true size, transposed as MATLAB leaves them."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (6, 3, 640, 480), np.uint8),
        "depths": rng.random((6, 640, 480), np.float32) + 1,
        "rawDepths": rng.random((6, 640, 480), np.float32),
    }
    with h5py.File(tmp_path / "labeled.mat", "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array
    with open(tmp_path / "labeled.mat", "r+b") as file:  # before the HDF5 part, by which scipy knows MATLAB 7.3
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + bytes([0, 2]) + b"IM")
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1], [3], [4]], "testNdxs": [[2], [6]]})
    return tmp_path, arrays


def test_nyu_labeled(labeled):
    root, arrays = labeled
    data = NYULabeled(root / "labeled.mat", root / "splits.mat", "test")
    assert len(data) == 2
    agrees(data[1], arrays["images"][5].T, arrays["rawDepths"][5].T)
    assert data[1]["name"] == "0006"
    train = NYULabeled(root / "labeled.mat", root / "splits.mat", "train", raw=False, border=True)
    sample = train[2]
    framed = np.zeros((480, 640, 3), np.uint8)
    framed[7:474, 7:632] = arrays["images"][3].T[7:474, 7:632]
    agrees(sample, framed, arrays["depths"][3].T)


def test_nyu_labeled_errors(labeled):
    root, _ = labeled
    with pytest.raises(ValueError, match="split: expected one of train, test, got 'val'"):
        NYULabeled(root / "labeled.mat", root / "splits.mat", "val")
    with pytest.raises(FileNotFoundError, match=r"nothing\.mat"):
        NYULabeled(root / "nothing.mat", root / "splits.mat", "test")
    with pytest.raises(ValueError, match=r"expected NYU's splits\.mat, with testNdxs"):
        NYULabeled(root / "labeled.mat", root / "labeled.mat", "test")
    with pytest.raises(ValueError, match="expected NYU's labelled set, an HDF5 file"):
        NYULabeled(root / "splits.mat", root / "splits.mat", "test")
    savemat(root / "splits.mat", {"testNdxs": [[2], [1449]]})
    with pytest.raises(ValueError, match="of 1449 frames"):
        NYULabeled(root / "labeled.mat", root / "splits.mat", "test")


DRIVE = "2011_09_26_drive_0002_sync"


def kitti_frame(root, number: int, split: str = "val", image_suffix: str = "png", camera: str = "image_02"):
    return write_frame(
        root / f"raw/2011_09_26/{DRIVE}/{camera}/data/{number:010d}.{image_suffix}",
        root / f"depth/{split}/{DRIVE}/proj_depth/groundtruth/{camera}/{number:010d}.png",
        number,
    )


def test_kitti_lists_of_files(tmp_path):
    image, counts = kitti_frame(tmp_path, 69)
    kitti_frame(tmp_path, 70, "")
    folder = f"2011_09_26/{DRIVE}/image_02/data"
    lines = [
        f"{folder}/0000000069.png {DRIVE}/proj_depth/groundtruth/image_02/0000000069.png 721.5377",
        f"{folder}/0000000070.png {DRIVE}/proj_depth/groundtruth/image_02/0000000070.png 721.5377",
        f"{folder}/0000000071.png None 721.5377",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    data = KITTI(tmp_path / "raw", tmp_path / "depth", tmp_path / "list.txt")
    assert (data.listed, len(data)) == (3, 2)
    agrees(data[0], image, counts / 256)
    (tmp_path / "list.txt").write_text(lines[0].replace("0069.png 721", "0099.png 721"))
    with pytest.raises(FileNotFoundError, match=r"KITTI: 1 of 2 files are missing, first .*0000000099\.png"):
        KITTI(tmp_path / "raw", tmp_path / "depth", tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("one\n")
    with pytest.raises(ValueError, match=r"list\.txt:1: expected 'image depth focal-length' or 'drive frame l|r'"):
        KITTI(tmp_path / "raw", tmp_path / "depth", tmp_path / "list.txt")


def test_kitti_lists_of_frames(tmp_path):
    kitti_frame(tmp_path, 5, "train", "jpg")
    right, counts = kitti_frame(tmp_path, 6, "val", "png", "image_03")
    drive = f"2011_09_26/{DRIVE}"
    (tmp_path / "list.txt").write_text(f"{drive} 0000000005 l\n{drive} 6 r\n{drive} 7 l\n")
    data = KITTI(tmp_path / "raw", tmp_path / "depth", tmp_path / "list.txt")
    assert (data.listed, len(data)) == (3, 2)
    assert data[0]["name"].endswith("image_02/data/0000000005.jpg")
    agrees(data[1], right, counts / 256)


def test_eigens_split_has_652_frames(tmp_path):
    """Constructors only look whether files are there: empty ones will do."""
    lines = []
    for number in range(697):
        image = f"drive/image_02/data/{number:010d}.png"
        depth = f"drive/proj_depth/groundtruth/image_02/{number:010d}.png" if number < 652 else "None"
        lines.append(f"{image} {depth} 721.5377")
        for path in (tmp_path / "raw" / image, tmp_path / "depth" / depth):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "list.txt").write_text("\n".join(lines))
    data = KITTI(tmp_path / "raw", tmp_path / "depth", tmp_path / "list.txt")
    assert (data.listed, len(data)) == (697, 652)
    (tmp_path / "frames.txt").write_text("\n".join(f"drive {number} l" for number in range(697)))
    data = KITTI(tmp_path / "raw", tmp_path / "depth", tmp_path / "frames.txt")
    assert (data.listed, len(data)) == (697, 652)
    (tmp_path / "depth" / lines[3].split()[1]).unlink()
    with pytest.raises(ValueError, match=r"652 have improved ground truth, found 651 .* unpack both train and val"):
        KITTI(tmp_path / "raw", tmp_path / "depth", tmp_path / "frames.txt")


def test_rgbd_folder(tmp_path):
    image, counts = write_frame(tmp_path / "rgb/b.jpg.png", tmp_path / "depth/b.jpg.png", 0)
    write_frame(tmp_path / "rgb/a.tif", tmp_path / "depth/a.png", 1)
    Image.fromarray(image).save(tmp_path / "rgb/without_depth.png")
    (tmp_path / "rgbd.json").write_text(json.dumps({"counts_per_metre": 5000, "registered": False}))
    data = RGBDFolder(tmp_path)
    assert len(data) == 2
    assert data.info["registered"] is False
    agrees(data[1], image, counts / 5000)
    assert [sample["name"][-7:] for sample in (data[0], RGBDFolder(tmp_path, ["b.jpg", "a"])[1])] == ["b/a.tif"] * 2
    with pytest.raises(FileNotFoundError, match=r"2 of 2 files are missing, first .*rgb/c\.png"):
        RGBDFolder(tmp_path, ["c"])
    Image.fromarray(image).save(tmp_path / "rgb/a.png")
    with pytest.raises(ValueError, match=r"a\.png and a\.tif have the same name"):
        RGBDFolder(tmp_path)


def test_rgbd_folder_has_a_unit(tmp_path):
    with pytest.raises(FileNotFoundError, match="says its unit there"):
        RGBDFolder(tmp_path)
    for content in ("{", "{}", "[]", '{"counts_per_metre": 0}', '{"counts_per_metre": true}'):
        (tmp_path / "rgbd.json").write_text(content)
        with pytest.raises(ValueError, match="expected JSON with counts_per_metre, a number above 0"):
            RGBDFolder(tmp_path)


def test_a_loader_with_workers_reads_them(tmp_path):
    for i in range(4):
        write_frame(tmp_path / f"rgb/{i}.png", tmp_path / f"depth/{i}.png", i, (48, 64))
    (tmp_path / "rgbd.json").write_text('{"counts_per_metre": 1000}')
    data = RGBDFolder(tmp_path, transform=evaluation(GENERIC))
    batches = list(torch.utils.data.DataLoader(data, batch_size=2, num_workers=1))
    assert [batch["image"].shape for batch in batches] == [(2, 3, 288, 384)] * 2
    assert [batch["depth"].shape for batch in batches] == [(2, 48, 64)] * 2
    torch.testing.assert_close(batches[1]["depth"][1], data[3]["depth"])
