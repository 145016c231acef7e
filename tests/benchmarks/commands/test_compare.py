"""``mixerzoo compare`` as a user meets it, and the photographs it feeds the models."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from mixerzoo.benchmarks.commands import phases
from mixerzoo.benchmarks.counting.criterion import TASKS, analyze
from mixerzoo.benchmarks.report.comparison import Records
from mixerzoo.benchmarks.timing import sweep
from mixerzoo.benchmarks.timing.case import Case, Row, read_rows
from mixerzoo.benchmarks.timing.photos import MAX_PHOTOS, bundled_photos, load_photos, photo_batch, read_photos
from mixerzoo.benchmarks.timing.sweep import Event
from mixerzoo.benchmarks.timing.workload import Workload
from mixerzoo.tasks.cli import main
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

MODELS = ["test_vit", "test_convnext"]


def invoke(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


@pytest.fixture
def small(monkeypatch):
    """A block sweep and task presets of milliseconds."""
    monkeypatch.setattr(phases, "BLOCKS", {"cpu": (8, 2, (4, 16))})
    monkeypatch.setattr(phases, "TASKS", {"imagenet": TASKS["imagenet"], "nyu": ((96, 128),)})


@pytest.fixture
def unmeasured(monkeypatch):
    """Fails where anything is measured."""

    def measure(*args, **kwargs):
        raise AssertionError("measured before the input was checked")

    for name in ("Analyzer", "sweep_blocks", "run_sweep"):
        monkeypatch.setattr(phases, name, measure)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One real run: two tiny models, each timed in a process of its own."""
    out = tmp_path_factory.mktemp("compare") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "BLOCKS", {"cpu": (8, 2, (4, 16))})
        result = invoke(*MODELS, "--input", "64", "--budget", "1", "--out", out, "--device", "cpu")
    return result, out


class TestMainJob:
    def test_ends_well_and_names_the_page(self, done):
        result, out = done
        assert result.exit_code == 0, result.output
        assert str(out / "compare.html") in result.output
        for heading in ("ρ per task", "Timing", "achieved", "GFLOP/s", "images/s"):
            assert heading in result.output
        assert {path.name for path in out.iterdir()} == {
            "compare.html",
            "compare.json",
            "compare.jsonl",
            "rho_against_image_side.svg",
        }

    def test_records_hold_what_was_asked_for(self, done):
        records = Records.load(done[1])
        assert records.finished
        assert records.settings["models"] == MODELS
        presets = [(task, size) for task, sizes in TASKS.items() for size in sizes]
        expected = [(model, *preset) for model in MODELS for preset in [(None, (64, 64)), *presets]]
        assert [(r.model, r.task, r.image_size) for r in records.analyses] == expected
        fresh = replace(analyze("test_vit", (800, 1280), task="coco"), modules=())
        assert asdict(records.of("test_vit", "coco", (800, 1280))) == asdict(fresh)
        assert [photo["name"] for photo in records.photos] == ["astronaut", "cat"]
        assert records.environment["cores"] > 0

    def test_models_were_timed_side_by_side_on_the_photographs(self, done):
        records = Records.load(done[1])
        assert [(row.case.model, row.status, row.batch) for row in records.rows] == [(m, "ok", 2) for m in MODELS]
        assert {row.case.photos for row in records.rows} == {"scikit-image"}
        assert len({row.block for row in records.rows}) == 1
        assert all(row.p50_ms > 0 and row.gmacs > 0 for row in records.rows)
        assert read_rows(done[1] / "compare.jsonl")[0] == records.rows

    def test_drawing_again_measures_nothing_and_gives_the_same_page(self, done, unmeasured):
        page = (done[1] / "compare.html").read_text(encoding="utf-8")
        (done[1] / "compare.html").unlink()
        result = invoke("--from", done[1])
        assert result.exit_code == 0, result.output
        assert (done[1] / "compare.html").read_text(encoding="utf-8") == page


def row(model, image_size=(64, 64), status="ok", message=None):
    timed = {"p50_ms": 5.0, "images_per_s": 800.0, "gmacs": 0.01, "round_medians_ms": [5.0] * 6, "batch": 4}
    case = Case(model, image_size, batch=4, threads=1, photos="scikit-image")
    return Row(case, status, message, **(timed if status == "ok" else {}))


@pytest.mark.usefixtures("small")
class TestUnhappyEnds:
    arguments = (*MODELS, "--input", "64", "--budget", "0.1", "--device", "cpu", "--out")

    def test_interrupt_keeps_what_was_measured(self, monkeypatch, tmp_path):
        def interrupted(cases, path, *, budget_s, on_event):
            on_event(Event("row", "done", 0.5, row(cases[0].model)))
            raise KeyboardInterrupt

        monkeypatch.setattr(phases, "run_sweep", interrupted)
        result = invoke(*self.arguments, tmp_path)
        assert result.exit_code == 130
        assert f"interrupted; 1 timings are in {tmp_path}" in result.stderr
        assert "Traceback" not in result.stderr
        records = Records.load(tmp_path)
        assert not records.finished
        assert [r.case.model for r in records.rows] == ["test_vit"]
        assert records.blocks is not None
        assert "interrupted: not everything was measured" in (tmp_path / "compare.html").read_text(encoding="utf-8")

    def test_an_interrupted_run_is_gone_on_with_and_a_finished_one_repeated(self, monkeypatch, tmp_path):
        found = []

        def sweep(cases, path, *, budget_s, on_event):
            found.append(path.exists())
            path.write_text("rows")
            return [row(case.model) for case in cases]

        monkeypatch.setattr(phases, "run_sweep", sweep)
        (tmp_path / "compare.jsonl").write_text("rows of a run that was cut short")
        for _ in range(2):
            assert invoke(*self.arguments, tmp_path).exit_code == 0
        assert found == [True, False]

    def test_a_model_that_fails_is_reported_on_the_page_and_by_the_exit_code(self, monkeypatch, tmp_path):
        def sweep(cases, path, *, budget_s, on_event):
            return [row("test_vit"), row("test_convnext", status="oom", message="no memory even at batch 1")]

        monkeypatch.setattr(phases, "run_sweep", sweep)
        result = invoke(*self.arguments, tmp_path)
        assert result.exit_code == 1
        assert "1 of 2 timings failed" in result.stderr
        assert "no memory even at batch 1" in (tmp_path / "compare.html").read_text(encoding="utf-8")

    def test_counting_alone_times_nothing_and_is_complete(self, monkeypatch, tmp_path):
        for name in ("sweep_blocks", "run_sweep"):
            monkeypatch.setattr(phases, name, None)
        result = invoke(*self.arguments, tmp_path, "--count-only")
        assert result.exit_code == 0, result.output
        page = (tmp_path / "compare.html").read_text(encoding="utf-8")
        assert 'id="rho"' in page
        assert 'id="throughput"' not in page
        assert "interrupted" not in page

    def test_budget_is_shared_among_sweep_and_cases(self, monkeypatch, tmp_path):
        given = {}

        def blocks(*args, budget_s, on_round):
            given["blocks"] = budget_s
            return real(*args, budget_s=1e-9, on_round=on_round)

        def sweep(cases, path, *, budget_s, on_event):
            given["cases"] = len(cases) * budget_s
            return [row(case.model, case.image_size) for case in cases]

        real = phases.sweep_blocks
        monkeypatch.setattr(phases, "sweep_blocks", blocks)
        monkeypatch.setattr(phases, "run_sweep", sweep)
        sizes = ("--input", "64,96x64")
        result = invoke(*MODELS, *sizes, "--budget", "10", "--device", "cpu", "--out", tmp_path)
        assert result.exit_code == 0, result.output
        assert given["blocks"] + given["cases"] == pytest.approx(10)


@pytest.mark.usefixtures("unmeasured")
class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["test_vitt"], "unknown model 'test_vitt'; did you mean test_vit"),
            (["test_vit", "--input", "0x0"], "input size: expected at least 1 pixel a side, got '0x0'"),
            (["test_vit", "--budget", "0"], "--budget: expected seconds above 0, got 0"),
            (["test_vit", "--photos", "/nowhere"], "--photos: expected a folder of images, got '/nowhere'"),
            (["test_vit", "--from", "somewhere"], "takes neither MODEL nor --input"),
            (
                ["--from", "/nowhere"],
                "expected the records of an earlier `mixerzoo compare` in '/nowhere/compare.json'",
            ),
        ],
    )
    def test_one_line_and_nothing_measured(self, tmp_path, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert list(tmp_path.iterdir()) == []

    def test_output_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        result = invoke("test_vit", "--out", tmp_path / "file" / "below")
        assert result.exit_code == 1
        assert f"--out: cannot write into '{tmp_path / 'file' / 'below'}': Not a directory" in result.stderr

    def test_a_damaged_photograph_is_named(self, tmp_path):
        (tmp_path / "photos").mkdir()
        buffer = io.BytesIO()
        bundled_photos()[0].image.save(buffer, "JPEG")
        (tmp_path / "photos" / "cut.jpg").write_bytes(buffer.getvalue()[:2000])
        result = invoke("test_vit", "--photos", tmp_path / "photos", "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert "cannot read" in result.stderr
        assert "cut.jpg" in result.stderr
        assert not (tmp_path / "out").exists()


class TestPhotos:
    def test_bundled_ones_are_colour_photographs(self):
        photos = bundled_photos()
        assert [photo.name for photo in photos] == ["astronaut", "cat", "coffee", "rocket", "motorcycle"]
        for photo in photos:
            pixels = np.asarray(photo.image)
            assert pixels.shape[2] == 3
            assert pixels.std() > 30
            assert (pixels[..., 0] != pixels[..., 2]).any()
        assert [p.name for p in load_photos("scikit-image")] == [p.name for p in photos]

    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "mambaout_femto_gatedcnn"])
    def test_batch_goes_through_the_model_s_own_transform(self, name):
        model = timm.create_model(name)
        transform = create_transform(**resolve_model_data_config(model), is_training=False)
        photos = bundled_photos()
        batch = photo_batch(name, photos, model.pretrained_cfg["input_size"][1:], 2)
        torch.testing.assert_close(batch, torch.stack([transform(photo.image) for photo in photos[:2]]))

    def test_batch_has_the_size_asked_for_and_repeats_photographs(self):
        x = photo_batch("vit_tiny_patch16_224", bundled_photos()[:2], (48, 80), 5)
        assert x.shape == (5, 3, 48, 80)
        assert x.dtype == torch.float32
        assert torch.equal(x[0], x[2])
        assert torch.equal(x[1], x[3])
        assert not torch.equal(x[0], x[1])

    def test_workload_runs_on_photographs(self):
        case = Case("test_vit", (64, 64), batch=2, photos="scikit-image")
        torch.testing.assert_close(Workload(case).x, photo_batch("test_vit", bundled_photos(), (64, 64), 2))
        assert Case("test_vit", (64, 64), batch=2).key != case.key

    def test_folder_is_read_in_order_upright_and_in_colour(self, tmp_path):
        tall = Image.new("RGB", (20, 10), (250, 0, 0))
        exif = tall.getexif()
        exif[0x0112] = 6  # orientation: turned by 90 degrees
        tall.save(tmp_path / "b.jpg", exif=exif)
        Image.new("L", (8, 8), 7).save(tmp_path / "a.PNG")
        (tmp_path / "notes.txt").write_text("no image")
        first, second = read_photos(tmp_path)
        assert (first.name, first.image.mode, first.image.getpixel((0, 0))) == ("a", "RGB", (7, 7, 7))
        assert (second.name, second.image.size) == ("b", (10, 20))

    def test_a_large_folder_is_not_read_to_its_end(self, tmp_path):
        for i in range(MAX_PHOTOS):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{i:02}.png")
        (tmp_path / "99.png").write_text("damaged, and never opened")
        assert len(read_photos(tmp_path)) == MAX_PHOTOS

    def test_folder_without_images(self, tmp_path):
        with pytest.raises(ValueError, match="no image file in"):
            read_photos(tmp_path)

    def test_no_photograph_or_other_channels_are_refused(self, monkeypatch):
        with pytest.raises(ValueError, match="at least one photograph"):
            photo_batch("test_vit", [], (8, 8), 1)
        cfg = replace(timm.get_pretrained_cfg("test_vit"), input_size=(1, 160, 160))
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
        with pytest.raises(ValueError, match="expects images of 1 channels, photographs have 3"):
            photo_batch("test_vit", bundled_photos(), (8, 8), 1)


def test_defaults_are_models_of_different_mixers():
    assert len(phases.MODELS) >= 4
    assert all(timm.is_model(name) for name in phases.MODELS)
    mixers = {stage.mixer for name in phases.MODELS for stage in analyze(name, (224, 224)).stages}
    assert {"convolution", "attention", "scan + convolution"} <= mixers
    assert {f"mambaout_femto_{mixer}" for mixer in ("s6", "bis6", "ss2d", "ssd")} <= set(phases.MODELS)
    assert len(phases.MODELS) <= sweep.MAX_TOGETHER  # one block: all take turns


def test_thumbnail_is_a_small_jpeg():
    uri = phases.thumbnail(bundled_photos()[0])
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 30_000
    json.dumps(uri)
