"""Official files are more than tensors: they load without executing anything, or are refused by name."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import sys
import tarfile
import types
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import numpy as np
import pytest
import timm
import torch
import torch.package
from click.testing import CliRunner
from mixerzoo.backbones._checkpoint import convert, read_checkpoint
from mixerzoo.tasks.cli import main
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens


class MadeUp:
    """Pickled by reference to a module that exists only while the file is written."""

    def __init__(self):
        self.value, self.tensor = 1, torch.zeros(2)


class MadeUpNode(dict):
    """As yacs' CfgNode: a dictionary with attributes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.__dict__["frozen"] = True


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def vanishing(monkeypatch):
    """The made-up classes live in modules that are gone when the file is read."""
    for name, cls in (("vanished.config", MadeUpNode), ("vanished.thing", MadeUp)):
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setattr(cls, "__module__", name)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "vanished", types.ModuleType("vanished"))

    def save(content, path):
        torch.save(content, path)
        for name in ("vanished", "vanished.config", "vanished.thing"):
            sys.modules.pop(name, None)

    return save


def official(name: str) -> dict[str, torch.Tensor]:
    return goldens.load(name).state_dict


def load(name: str, path: Path, **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)


families = pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("mambaout_femto_gatedcnn", "mambaout_femto_224"),
        ("vim_tiny_patch16_224", "vim_tiny_patch16_224"),
        ("vmamba_tiny_s1l8", "vmamba_tiny_s1l8_224"),
    ],
)
CLASSIFIERS = ("head.fc2.weight", "head.weight", "classifier.head.weight")  # as the official files name them


def classifier_of(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(state[name] for name in CLASSIFIERS if name in state)


@families
def test_files_with_foreign_classes_load(name, golden, vanishing, tmp_path):
    state = official(golden)
    vanishing(
        {
            "model": state,
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}},
            "args": argparse.Namespace(lr=1e-3, nested=[MadeUp()]),
            "config": MadeUpNode({"MODEL": MadeUpNode({"NAME": "x"}), "LIST": [1, MadeUp()]}),
            "max_accuracy": np.float64(82.6),
        },
        tmp_path / "official.pth",
    )
    net = load(name, tmp_path / "official.pth")
    assert torch.equal(net.get_classifier().weight, classifier_of(state))
    assert "vanished" not in sys.modules


@families
def test_weights_come_before_their_average(name, golden, tmp_path):
    state = official(golden)
    average = {key: value / 2 for key, value in state.items()}
    for i, (weights_key, average_key) in enumerate((("model", "model_ema"), ("state_dict", "state_dict_ema"))):
        for j, content in enumerate(({weights_key: state}, {weights_key: state, average_key: average})):
            path = tmp_path / f"{i}{j}.pth"
            torch.save(dict(reversed(content.items())), path)
            assert torch.equal(load(name, path).get_classifier().weight, classifier_of(state))


@families
def test_prefix_of_distributed_training(name, golden, tmp_path):
    state = official(golden)
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "ddp.pth")
    assert torch.equal(load(name, tmp_path / "ddp.pth").get_classifier().weight, classifier_of(state))


@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, Path], ids=str)
@families
def test_a_file_that_calls_something_is_refused_by_name(name, golden, function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argument = "executed" if function is not eval else "open('executed', 'w')"
    torch.save({"model": official(golden), "x": Calls(function, argument)}, "evil.pth")
    with pytest.raises(ValueError, match=rf"evil\.pth: .*it calls \w+.*\.{function.__name__}"):
        load(name, Path("evil.pth"))
    assert sorted(path.name for path in Path().iterdir()) == ["evil.pth"]


class Touches(torch.nn.Module):
    """Its TorchScript archive makes a file when it is opened, by a function that TorchScript allows."""

    def __init__(self):
        super().__init__()
        self.weight = torch.zeros(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        made = torch.from_file("executed", shared=True, size=2)  # used below, or the compiler would leave it out
        self.weight, self.training = state[0] + made, state[1]


def save_torchscript(path: Path) -> None:
    torch.jit.script(Touches()).save(path)


def save_package(path: Path) -> None:
    with torch.package.PackageExporter(path) as archive:
        archive.save_source_string("evil", "open('executed', 'w')")
        archive.save_pickle("model", "model.pkl", {"weight": torch.zeros(2)})


def save_exported(path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), file)


def save_tar(path: Path) -> None:
    """The layout of PyTorch 0.1: three pickles in a tar."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Calls(open, "executed", "w"))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


PROGRAMS = {
    "TorchScript": save_torchscript,
    r"torch\.package": save_package,
    r"torch\.export": save_exported,
    "tar archive": save_tar,
}
programs = pytest.mark.parametrize(("kind", "save"), PROGRAMS.items(), ids=["torchscript", "package", "export", "tar"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory; what a file's own code would make appears in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_archive_would_run_its_code(folder):
    save_torchscript(folder / "evil.pth")
    torch.jit.load(folder / "evil.pth")
    assert (folder / "executed").exists()


@programs
@pytest.mark.unpoisoned
def test_archives_with_code_are_refused_before_anything_of_them_runs(kind, save, folder):
    path = folder / "evil.pth"
    save(path)
    (folder / "executed").unlink(missing_ok=True)
    for read in (
        read_checkpoint,
        lambda path: convert(path, folder / "out.safetensors"),
        lambda path: load("mambaout_femto_gatedcnn", path),
        lambda path: load("vim_tiny_patch16_224", path),
        lambda path: load("vmamba_tiny_s1l8", path),
    ):
        with pytest.raises(ValueError, match=rf"evil\.pth: .*it is a .*{kind}.* can hold code"):
            read(path)
    assert [path.name for path in folder.iterdir()] == ["evil.pth"]


def test_tensors_come_back_as_they_were(tmp_path):
    content = {
        "model": {
            "half": torch.randn(3).half(),
            "bf16": torch.randn(2, 3).bfloat16().t(),
            "long": torch.arange(4),
            "parameter": torch.nn.Parameter(torch.randn(2)),
        },
        "epoch": 3,
    }
    torch.save(content, tmp_path / "file.pth")
    read = read_checkpoint(tmp_path / "file.pth")
    assert set(read) == {"model"}
    for name, value in content["model"].items():
        assert torch.equal(read["model"][name], value), name
        assert read["model"][name].dtype == value.dtype


def test_other_classes_and_channels(tmp_path):
    torch.save({"model": official("vmamba_tiny_s1l8_224")}, tmp_path / "official.pth")
    net = load("vmamba_tiny_s1l8", tmp_path / "official.pth", num_classes=5, in_chans=1)
    assert net.get_classifier().weight.shape == (5, 768)
    kernel = official("vmamba_tiny_s1l8_224")["patch_embed.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(net.stem.conv1.weight, kernel)


@pytest.mark.parametrize("content", [b"hello", b"", b"PK\x03\x04 not a zip"], ids=["text", "empty", "zip"])
def test_what_is_no_checkpoint(content, tmp_path):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pth: not a checkpoint that can be read safely"):
        read_checkpoint(tmp_path / "file.pth")


def test_truncated(tmp_path):
    torch.save({"model": official("vim_tiny_patch16_224")}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"half\.pth: not a checkpoint"):
        load("vim_tiny_patch16_224", tmp_path / "half.pth")


def test_convert(vanishing, tmp_path):
    state = official("vim_tiny_patch16_224")
    vanishing({"model": state, "args": MadeUp()}, tmp_path / "official.pth")
    out = tmp_path / "clean.safetensors"
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "official.pth"), str(out)])
    assert result.exit_code == 0, result.output
    assert f"{len(state)} tensors" in result.output
    assert all(torch.equal(load_file(out)[key], value) for key, value in state.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.safetensors", "official.pth"]


def test_convert_refuses(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="found no tensors"):
        convert(tmp_path / "none.pth", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        convert(tmp_path / "none.pth", tmp_path / "out.pth")
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "absent.pth"), str(tmp_path / "out.safetensors")])
    assert result.exit_code == 1
    assert "absent.pth" in result.output
    assert "Traceback" not in result.output
