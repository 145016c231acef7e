"""One rule for pictures: whatever their format, training, checks, tests and predictions of every task see the same."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from mixerzoo.tasks.classification.data import ImageFolder
from mixerzoo.tasks.depth.images import read_image
from mixerzoo.tasks.pictures import EXTENSIONS, open_upright, read_picture
from PIL import Image

SHOWN = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)  # (H, W, 3): smooth blocks of colour
SHOWN = SHOWN.repeat(8, 0).repeat(8, 1)
# How a picture has to be stored so that an orientation shows SHOWN.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
PLAIN = {"input_size": (3, 48, 80), "interpolation": "nearest", "mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1.0}


def save(path, pixels=SHOWN, orientation=1, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels))).save(path, exif=exif, **options)
    return path


def in_classification(path):
    folder = path.parent / "root" / "class"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / path.name).write_bytes(path.read_bytes())
    image, _ = ImageFolder(folder.parent, transform=PLAIN)[0]
    return image.movedim(0, -1).numpy() * 255


def in_depth(path):
    return read_image(path).movedim(0, -1).numpy() * 255


def in_mm(path):
    pytest.importorskip("mmcv", reason="comes with the mm extra")
    pytest.importorskip("mixerzoo.tasks.detection.data")
    from mmdet.registry import TRANSFORMS as DETECTION
    from mmseg.registry import TRANSFORMS as SEGMENTATION

    loaded = [
        registry.build({"type": "LoadImageFromFile"})({"img_path": str(path)})["img"][..., ::-1].astype(float)
        for registry in (DETECTION, SEGMENTATION)
    ]
    np.testing.assert_array_equal(*loaded)
    return loaded[0]


TASKS = pytest.mark.parametrize("seen", [in_classification, in_depth, in_mm])


@TASKS
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_as_viewers_show_them(seen, orientation, tmp_path):
    path = save(tmp_path / "a.jpg", orientation=orientation, quality=95, subsampling=0)
    found = seen(path)
    assert found.shape == SHOWN.shape
    assert np.abs(found - SHOWN).mean() < 4
    assert open_upright(path).info["orientation"] == orientation


@TASKS
def test_sixteen_bits_are_scaled(seen, tmp_path):
    grey = (np.linspace(0, 65535, 48 * 80).reshape(48, 80) / 1.4).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    eight = np.round(grey / 257).astype(np.uint8)  # the copy with 8 bits
    assert eight.mean() == pytest.approx(91, abs=1)
    np.testing.assert_allclose(seen(tmp_path / "a.png"), np.stack([eight] * 3, -1), atol=0.51)


@TASKS
def test_alpha_palettes_cmyk_and_animations_have_one_meaning(seen, tmp_path):
    alpha = np.full((48, 80, 1), 255, np.uint8)
    alpha[:24] = 0  # the upper half is transparent: white
    over = SHOWN.copy()
    over[:24] = 255
    Image.fromarray(np.concatenate([SHOWN, alpha], -1)).save(tmp_path / "alpha.png")
    np.testing.assert_allclose(seen(tmp_path / "alpha.png"), over, atol=0.01)
    few = SHOWN // 128 * 128
    images = [Image.fromarray(pixels).quantize(8) for pixels in (few, 255 - few)]
    images[0].save(tmp_path / "b.gif", save_all=True, append_images=images[1:])
    np.testing.assert_allclose(seen(tmp_path / "b.gif"), few, atol=0.01)
    Image.fromarray(SHOWN).convert("CMYK").save(tmp_path / "c.tif")
    np.testing.assert_allclose(seen(tmp_path / "c.tif"), SHOWN, atol=1.01)


def test_every_format_is_read(tmp_path):
    Image.init()
    for ending in EXTENSIONS:
        if Image.EXTENSION.get(ending) not in Image.SAVE:
            continue
        path = tmp_path / f"a{ending}"
        mode = {".pbm": "1", ".pgm": "L"}.get(ending, "RGB")
        Image.fromarray(SHOWN).convert(mode).save(path)
        picture = read_picture(path)
        assert picture.mode == "RGB", ending
        expected = np.asarray(Image.fromarray(SHOWN).convert(mode).convert("RGB"), float)
        if ending != ".ico":  # which is square
            assert np.abs(np.asarray(picture) - expected).mean() < 12, ending


@TASKS
def test_what_cannot_be_read_is_one_line_with_its_name(seen, tmp_path, monkeypatch):
    whole = save(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")
    Image.fromarray(SHOWN[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    names = ["cut.png", "text.jpg", "empty.jpg", "script.jpg", "float.tif"]
    bomb = save(tmp_path / "bomb.png")
    for name in [*names, bomb.name]:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000 if name == bomb.name else 10**9)
        with pytest.raises(ValueError, match=r"images can be read|" + name) as caught:
            seen(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_folder_is_read_whole_or_says_what_it_leaves_out(tmp_path, monkeypatch):
    """Of 22 files, as many as are pictures; through links to folders too, though not in circles."""
    elsewhere = tmp_path / "elsewhere"
    (root := tmp_path / "root" / "a").mkdir(parents=True)
    (elsewhere / "deep").mkdir(parents=True)
    for ending in ("jpg", "tif", "webp", "bmp", "gif", "PNG", "jpeg", "ppm"):
        save(root / f"0.{ending}")
        save(elsewhere / "deep" / f"0.{ending}")
    (root.parent / "b").symlink_to(elsewhere)
    (root / "linked").symlink_to(elsewhere / "deep")
    (elsewhere / "deep" / "circle").symlink_to(elsewhere)
    (root / "notes.txt").touch()
    (root / "0.xcf").touch()
    (root / ".hidden.jpg").touch()
    said = []
    monkeypatch.setattr("mixerzoo.tasks.classification.data.print_log", lambda text, *_: said.append(text))
    data = ImageFolder(root.parent, transform=PLAIN)
    assert len(said) == 1
    assert re.search(r"root: 2 files are left out, .*: 1 × \.xcf, 1 × \.txt; the first is .*0\.xcf", said[0])
    assert [label for _, label in data.samples] == [0] * 16 + [1] * 8
    assert all(torch.isfinite(data[index][0]).all() for index in range(len(data)))


def test_boxes_and_masks_are_on_the_picture_as_viewers_show_it(tmp_path):
    """Of a picture stored 48×80 and shown 80×48, the annotations have to be for 80×48: in checks and in training."""
    pytest.importorskip("mmseg", reason="comes with the mm extra")
    pytest.importorskip("mixerzoo.tasks.detection.data")
    from mixerzoo.tasks.detection.check import _unfit
    from mixerzoo.tasks.segmentation.check import check_pair
    from mmdet.registry import TRANSFORMS

    path = save(tmp_path / "a.jpg", orientation=6)
    load = TRANSFORMS.build({"type": "LoadImageFromFile"})
    shown, stored = {"width": 80, "height": 48}, {"width": 48, "height": 80}
    assert load({"img_path": str(path), **shown})["img_shape"] == (48, 80)
    assert _unfit({"file_name": path.name, **shown}, tmp_path) is None
    both = r"80×48 as viewers show it \(EXIF orientation 6; stored as 48×80\)"
    with pytest.raises(ValueError, match=both + ", but its annotations are for 48×80; correct the size"):
        load({"img_path": str(path), **stored})
    assert "80×48 as viewers show it (EXIF orientation 6; stored as 48×80), not 48×80" in _unfit(
        {"file_name": path.name, **stored}, tmp_path
    )
    Image.new("L", (80, 48)).save(tmp_path / "fits.png")
    check_pair(path, tmp_path / "fits.png", 2, False)
    Image.new("L", (48, 80)).save(tmp_path / "as_stored.png")
    with pytest.raises(ValueError, match=rf"as_stored\.png: 48×80 pixels, but its image {both}"):
        check_pair(path, tmp_path / "as_stored.png", 2, False)
