"""Image files of every kind in, and what was written read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixerzoo.tasks.depth import create_depth_model
from mixerzoo.tasks.depth.images import (
    read_depth,
    read_depth_png,
    read_image,
    replacing,
    write_counts,
    write_depth_png,
    write_picture,
    write_point_cloud,
)
from mixerzoo.tasks.depth.predict import evaluate, predict_depth, predict_file
from mixerzoo.tasks.depth.transforms import DEPTH_ANYTHING, DPT_384, DPT_KITTI
from PIL import Image

COLORS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def as_pixels(image: torch.Tensor) -> np.ndarray:
    return image.movedim(0, -1).mul(255).round().byte().numpy()


def small_model(**kwargs):
    return create_depth_model("mambaout_femto_gatedcnn", features=16, depths=(1, 1, 1, 1), **kwargs)


# Reading


def test_rgb(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 2, 4)
    assert image.dtype == torch.float32
    assert np.array_equal(as_pixels(image), COLORS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_are_what_pillow_takes_them_for(mode, tmp_path):
    image = Image.fromarray(COLORS).convert(mode)
    image.save(tmp_path / "a.tif") if mode != "HSV" else Image.fromarray(COLORS).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as saved:
        expected = np.asarray(saved.convert("RGB"))
    assert np.array_equal(as_pixels(read_image(tmp_path / "a.tif")), expected)


def test_transparent_is_white(tmp_path):
    pixels = np.full((2, 2, 4), 100, np.uint8)
    pixels[0, 0, 3], pixels[0, 1, 3], pixels[1, :, 3] = 0, 255, 51
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    seen = as_pixels(read_image(tmp_path / "rgba.png"))[..., 0]
    assert seen.tolist() == [[255, 100], [224, 224]]  # 0.2·100 + 0.8·255
    Image.fromarray(np.array([[[80, 0], [80, 255]]], np.uint8)).save(tmp_path / "la.png")
    assert as_pixels(read_image(tmp_path / "la.png"))[0, :, 1].tolist() == [255, 80]
    Image.new("P", (1, 1)).save(tmp_path / "p.gif", transparency=0)
    assert as_pixels(read_image(tmp_path / "p.gif")).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(suffix, tmp_path):
    grey = np.array([[0, 1, 256, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    torch.testing.assert_close(image[2, 0], torch.tensor([0, 1 / 65535, 256 / 65535, 1]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_exif_turns_it_upright(orientation, deep, tmp_path):
    upright = np.arange(6, dtype=np.uint16).reshape(2, 3) * (9000 if deep else 40)
    # How a camera that is turned stores what is upright: the inverse of what the tag asks a viewer to do.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.ascontiguousarray(stored if deep else stored.astype(np.uint8))
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = torch.from_numpy(upright / (65535 if deep else 255)).float()
    torch.testing.assert_close(read_image(tmp_path / "a.png")[0], expected)


def test_first_frame_of_an_animation(tmp_path):
    black, white = (Image.new("L", (3, 2), grey) for grey in (0, 255))
    black.save(tmp_path / "a.gif", save_all=True, append_images=[white])
    assert read_image(tmp_path / "a.gif").max() == 0


def test_what_cannot_be_read_is_one_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such picture"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ValueError, match=r"not a picture that can be read: .*irectory"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png: not a picture that can be read"):
        read_image(tmp_path / "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.png: not a picture that can be read"):
        read_image(tmp_path / "cut.png")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point pixels"):
        read_image(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "long.tif")
    with pytest.raises(ValueError, match="values from 70000 to 70000; at most 16 bits"):
        read_image(tmp_path / "long.tif")


def test_depth_has_sixteen_bits(tmp_path):
    write_counts(tmp_path / "d.png", np.array([[0, 1, 1000, 65535]]))
    torch.testing.assert_close(read_depth(tmp_path / "d.png", 1000), torch.tensor([[0, 0.001, 1, 65.535]]))
    Image.fromarray(COLORS).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="depth has one 16-bit channel, this file is RGB"):
        read_depth(tmp_path / "rgb.png", 1000)
    with pytest.raises(ValueError, match="from 0 to 65535, got -1 to 0"):
        write_counts(tmp_path / "e.png", np.array([[-1, 0]]))
    with pytest.raises(ValueError, match=r"ends in \.png"):
        write_counts(tmp_path / "e.jpg", np.array([[1]]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.png", "rgb.png"]


# Writing


@pytest.mark.parametrize(("farthest", "step"), [(9.0, 1 / 1000), (80.0, 1 / 256), (900.0, 900 / 65535)])
def test_metres_come_back(farthest, step, tmp_path):
    depth = torch.rand(5, 7) * (farthest - 1) + 0.5
    depth[0, 0], depth[0, 1] = farthest, 0.0
    write_depth_png(tmp_path / "d.png", depth, "metre")
    values, unit = read_depth_png(tmp_path / "d.png")
    assert unit == "metre"
    assert (values - depth).abs().max() <= step * 1.0001
    assert values.min() > 0  # 0 would say that there is none
    with Image.open(tmp_path / "d.png") as image:
        assert float(image.info["step"]) == pytest.approx(step)
    if farthest == 9.0:  # as any reader of NYUv2 sees it
        torch.testing.assert_close(read_depth(tmp_path / "d.png", 1000), values)


@pytest.mark.parametrize("values", [torch.randn(6, 5) * 300, torch.full((1, 1), -4.5), torch.zeros(2, 2)])
def test_relative_comes_back(values, tmp_path):
    write_depth_png(tmp_path / "d.png", values, "relative")
    back, unit = read_depth_png(tmp_path / "d.png")
    assert unit == "relative"
    assert (back - values).abs().max() <= (values.max() - values.min()) / 65535


def test_what_is_no_depth_is_not_written(tmp_path):
    for bad, unit, message in (
        (torch.tensor([[1.0, float("nan")]]), "metre", "1 of 2 pixels are NaN or infinite"),
        (torch.tensor([[-1.0]]), "metre", "not negative, got -1"),
        (torch.ones(2, 2), "classes", "unit: expected one of metre, relative, got 'classes'"),
        (torch.ones(1, 2, 2), "metre", r"expected a map \(H, W\) with pixels, got \(1, 2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            write_depth_png(tmp_path / "d.png", bad, unit)
    write_counts(tmp_path / "foreign.png", np.ones((1, 1)))
    with pytest.raises(ValueError, match="no offset, step, unit in its metadata"):
        read_depth_png(tmp_path / "foreign.png")
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.png"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "first"


@pytest.mark.parametrize(
    ("size", "unit"),
    [((1, 1), "metre"), ((1, 300), "relative"), ((300, 2), "metre"), ((48, 64), "metre"), ((48, 64), "relative")],
)
def test_picture(size, unit, tmp_path):
    height, width = size
    depth = torch.linspace(1, 3, height * width).reshape(size)
    write_picture(tmp_path / "p.png", torch.rand(3, *size), depth, unit)
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] > pixels.shape[0] or height > width
    if size == (48, 64):
        # The right half holds both ends of the colour map, and near (metres: top; inverse depth: bottom) is bright.
        right = pixels[:, pixels.shape[1] // 2 : -300].sum(2)
        colored = np.where(right.min(1) < 750)[0]
        top, bottom = (np.median(right[colored[i]]) for i in (len(colored) // 10, -len(colored) // 10))
        assert (top > bottom) == (unit == "metre")


def test_no_depth_is_grey_and_moves_no_colour(tmp_path):
    depth = torch.linspace(2, 3, 48 * 64).reshape(48, 64)
    holes = depth.clone()
    holes[10:30, 10:30] = 0
    pictures = []
    for values in (depth, holes, torch.zeros(48, 64)):
        write_picture(tmp_path / "p.png", torch.ones(3, 48, 64), values, "metre")
        with Image.open(tmp_path / "p.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    grey = [(np.ptp(picture, axis=2) == 0) & (np.abs(picture.mean(2) - 127) < 3) for picture in pictures]
    assert grey[0].mean() < 0.01
    assert 0.03 < grey[1].mean() < 0.1  # 400 of 3072 pixels of less than half the picture
    assert grey[2].mean() > 0.3
    colored = np.ptp(pictures[0], axis=2) > 30
    difference = np.abs(pictures[0] - pictures[1]).max(2)[colored & (np.ptp(pictures[1], axis=2) > 30)]
    assert np.median(difference) < 25


def test_picture_in_a_format_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="Format 'xyz' is not supported"):
        write_picture(tmp_path / "p.xyz", torch.rand(3, 2, 2), torch.rand(2, 2), "metre")
    assert not list(tmp_path.iterdir())


def test_point_cloud(tmp_path):
    image = torch.rand(3, 3, 4)
    depth = torch.rand(3, 4) + 1
    depth[2, 3] = 0  # none
    write_point_cloud(tmp_path / "c.ply", image, depth, "metre", focal=2.0)
    header, body = (tmp_path / "c.ply").read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "element vertex 11" in lines
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(line.split()[2], kinds[line.split()[1]]) for line in lines if line.startswith("property")]
    points = np.frombuffer(body, np.dtype(fields))
    assert len(points) == 11
    for index, (row, column) in enumerate(list(np.ndindex(3, 4))[:11]):
        x, y, z, *color = points[index]
        assert z == depth[row, column]
        assert x == pytest.approx((column + 0.5 - 2) / 2 * z)
        assert y == pytest.approx((row + 0.5 - 1.5) / 2 * z)
        assert color == as_pixels(image)[row, column].tolist()


def test_point_cloud_needs_metres(tmp_path):
    with pytest.raises(ValueError, match="relative depth has no shape"):
        write_point_cloud(tmp_path / "c.ply", torch.rand(3, 2, 2), torch.ones(2, 2), "relative")
    with pytest.raises(ValueError, match="focal: expected pixels above 0, got -1"):
        write_point_cloud(tmp_path / "c.ply", torch.rand(3, 2, 2), torch.ones(2, 2), "metre", focal=-1)
    with pytest.raises(ValueError, match="model that predicts metres"):
        predict_file(small_model(), tmp_path / "a.png", tmp_path, point_cloud=True)
    assert not list(tmp_path.iterdir())


# Predicting


@pytest.mark.parametrize("size", [(1, 1), (2048, 3), (3, 2048), (30, 50)])
def test_predictions_have_the_images_size(size):
    model = small_model(max_depth=10.0)
    depth = predict_depth(model, torch.rand(3, *size))
    assert depth.shape == size
    assert depth.isfinite().all()
    assert depth.min() > 0
    assert model.training


def test_prediction_is_the_models_own():
    model = small_model().eval()
    image = torch.rand(3, 384, 416)  # a size that no resizing touches
    with torch.no_grad():
        mean, std = (torch.tensor(x)[:, None, None] for x in (model.convention.mean, model.convention.std))
        expected, mirrored = model(torch.stack([(image - mean) / std, ((image - mean) / std).flip(-1)]))
    torch.testing.assert_close(predict_depth(model, image), expected)
    torch.testing.assert_close(predict_depth(model, image, flip=True), (expected + mirrored.flip(-1)) / 2)


def test_an_image_too_narrow_for_its_convention():
    with pytest.raises(ValueError, match="1×2048 pixels: this model's convention enlarges it to 518×1060864"):
        DEPTH_ANYTHING.prepare(torch.rand(3, 1, 2048))


def test_files_of_a_prediction(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)).save(tmp_path / "shot.jpg")
    model = small_model(max_depth=10.0)
    files = predict_file(model, tmp_path / "shot.jpg", tmp_path / "out", point_cloud=True)
    assert [path.name for path in files] == ["shot_depth.png", "shot_picture.png", "shot.ply"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    values, unit = read_depth_png(files[0])
    assert unit == "metre"
    torch.testing.assert_close(values, predict_depth(model, read_image(tmp_path / "shot.jpg")), rtol=0, atol=6e-4)
    with pytest.raises(FileNotFoundError):
        predict_file(model, tmp_path / "none.jpg", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


class Oracle(torch.nn.Module):
    """Reads the depth that a test has put into the image's red channel."""

    def __init__(self, unit, convention, scale=80.0):
        super().__init__()
        self.unit, self.convention, self.scale = unit, convention, torch.nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return (images[:, 0] * 0.5 + 0.5) * self.scale


@pytest.mark.parametrize("protocol", ["kitti_bts", "kitti_adabins"])
def test_evaluation_puts_kittis_crop_where_it_was(protocol):
    depth = torch.rand(376, 1241) * 70 + 5
    sparse = torch.where(torch.rand(depth.shape) < 0.05, depth, 0)
    sample = {"image": (depth / 80).expand(3, -1, -1), "depth": sparse, "name": "a"}
    values = evaluate(Oracle("metre", DPT_KITTI), [sample, sample], protocol)
    assert values["images"] == 2
    assert values["abs_rel"] < 1e-5
    shifted = {**sample, "depth": sparse.roll(1, dims=1)}
    assert evaluate(Oracle("metre", DPT_KITTI), [shifted], protocol)["abs_rel"] > 0.1


def test_evaluation_of_relative_depth_and_of_the_wrong_unit():
    depth = torch.rand(384, 384) * 6 + 2
    sample = {"image": (1 / depth).expand(3, -1, -1), "depth": depth, "name": "a"}
    relative = Oracle("relative", DPT_384, 3.0)
    assert evaluate(relative, [sample], "zero_shot_nyu")["abs_rel"] < 1e-5
    with pytest.raises(ValueError, match="made for predictions of the unit metre, this model's is relative"):
        evaluate(relative, [sample], "plain")
    with pytest.raises(ValueError, match="made for predictions of the unit relative, this model's is metre"):
        evaluate(Oracle("metre", DPT_384), [sample], "zero_shot_nyu")
    blind = {**sample, "depth": torch.zeros(384, 384)}
    values = evaluate(relative, [sample, blind], "zero_shot_nyu", flip=True)
    assert (values["images"], values["empty"]) == (1, 1)
    assert values["abs_rel"] < 1e-5  # this model sees the mirrored image as it sees the image
