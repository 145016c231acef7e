"""Official files are more than tensors: they load without executing anything, or are refused by name."""

from __future__ import annotations

import argparse
import io
import logging
import os
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import numpy as np
import pytest
import timm
import torch
import torch.package
from click.testing import CliRunner
from mixerzoo.backbones.checkpoints import convert, read_checkpoint, unwrap
from mixerzoo.tasks.cli import main
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

sys.path.insert(0, str(Path(__file__).parents[2]))
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
    assert set(read) == {"model", "epoch"}
    assert read["epoch"] == 3
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


# Whatever is handed over


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_both_layouts_and_newer_protocols(legacy, protocol, tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    content = {
        "model": {
            "a": whole,
            "row": whole[1],
            "float8": torch.ones(3).to(torch.float8_e4m3fn),
            "none": torch.ones(0, 4),
        },
        "hyper": {"betas": (0.9, 0.99), "names": ["x", None], "flag": True, "raw": b"\xff\x00", "array": np.ones(2)},
        3: 1.5,
    }
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
    torch.save(content, tmp_path / "file.bin", **options)
    read = read_checkpoint(tmp_path / "file.bin")
    assert read["hyper"] == {"betas": (0.9, 0.99), "names": ["x", None], "flag": True, "raw": b"\xff\x00"}
    assert read[3] == 1.5
    for name, value in content["model"].items():
        assert read["model"][name].dtype == value.dtype
        assert torch.equal(read["model"][name].float(), value.float())
    read["model"]["row"].zero_()  # views of one storage stay so
    assert read["model"]["a"][1].eq(0).all()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_from_a_gpu(legacy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
    torch.save({"a": torch.ones(2)}, tmp_path / "gpu.pth", _use_new_zipfile_serialization=not legacy)
    assert b"cuda:3" in (tmp_path / "gpu.pth").read_bytes()
    assert read_checkpoint(tmp_path / "gpu.pth")["a"].device == torch.device("cpu")


def test_safetensors_under_any_suffix_and_pickles_under_that_one(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert read_checkpoint(tmp_path / name)["a"].tolist() == [1, 1]


def raw(pickled: bytes, path: Path) -> Path:
    """The zip layout of ``torch.save`` around a pickle, with one storage of eight numbers."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", bytes(32))
    return path


def tensor(size: tuple[int, ...], stride: tuple[int, ...], numel: int = 8) -> bytes:
    """The pickle of ``{"a": tensor}`` in protocol 2."""

    def number(n: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", n)

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number(numel) + b"tQ"
    )
    sizes, strides = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + sizes + strides
    return b"\x80\x02}X\x01\x00\x00\x00a" + made + b"\x89ccollections\nOrderedDict\n)RtRs."


def test_the_forged_file_is_right_but_for_what_is_forged(tmp_path):
    assert read_checkpoint(raw(tensor((2, 4), (4, 1)), tmp_path / "x.pth"))["a"].shape == (2, 4)


LAUGHS = b"\x80\x02]q\x00" + b"".join(
    b"]q" + bytes([i]) + b"(h" + bytes([i - 1]) + b"h" + bytes([i - 1]) + b"e" for i in range(1, 60)
)
FORGED = {
    "a tensor beyond its storage": tensor((9,), (1,)),
    "one of 2**50 numbers": tensor((1 << 50,), (1,)),
    "an expanded one of 2**50 numbers": tensor((1 << 50,), (0,)),
    "a storage of 2**50 numbers": tensor((2,), (1,), 1 << 50),
    "a negative stride": tensor((2,), (-1,)),
    "a memo of 2**31 entries": b"\x80\x02]r\xff\xff\xff\x7f.",
    "2**40 cleared bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a codec of its own": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00bX\x04\x00\x00\x00evil\x86R.",
    "an extension": b"\x80\x02\x82\x01.",
    "an attribute of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor\n}X\x01\x00\x00\x00aNsb.",
    "lists in lists, 2**60 to visit": LAUGHS + b".",
    "a key that takes 2**60 steps to hash": b"\x80\x02)q\x00"
    + b"".join(b"h" + bytes([i - 1]) + b"h" + bytes([i - 1]) + b"\x86q" + bytes([i]) for i in range(1, 60))
    + b"}h"
    + bytes([59])
    + b"Ns\x85.",
    "no stack": b"\x80\x02.",
    "a mark missing": b"\x80\x02e.",
    "a call without arguments": b"\x80\x02ccollections\nOrderedDict\nNR.",
    "too many arguments": b"\x80\x02ccollections\nOrderedDict\n(NNNtR.",
    "nothing deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("pickled", FORGED.values(), ids=FORGED)
def test_forged_pickles_end_in_one_line(pickled, tmp_path):
    """Within the memory and the time that the file itself takes."""
    path = raw(pickled, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"x\.pth: (not a checkpoint that can be read safely|expected a dict)"
    ) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_reading_changes_no_function(tmp_path):
    before = dict(vars(torch._utils._rebuild_tensor))
    with pytest.raises(ValueError, match="expected a dictionary"):
        read_checkpoint(raw(FORGED["an attribute of a function"], tmp_path / "x.pth"))
    assert vars(torch._utils._rebuild_tensor) == before


# Whatever it is wrapped in


WRAPPED = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "nested": lambda state: {"state_dict": {"model": state}},
    "only an average": lambda state: {"ema": state},
    "teacher": lambda state: {"teacher": state},
    "DDP": lambda state: {"model": {f"module.{key}": x for key, x in state.items()}},
    "compiled DDP": lambda state: {f"_orig_mod.module.{key}": x for key, x in state.items()},
    "compiled": lambda state: {f"module._orig_mod.{key}": x for key, x in state.items()},
    "Lightning": lambda state: {
        "state_dict": {**{f"model.{key}": x for key, x in state.items()}, "criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.0",
    },
    "mixerzoo": lambda state: {"state_dict": {f"net.{key}": x for key, x in state.items()}, "meta": {"epoch": 1}},
    "detector": lambda state: {
        "state_dict": {**{f"backbone.{key}": x for key, x in state.items()}, "neck.conv.weight": torch.ones(3)}
    },
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_and_prefixes(wrap, tmp_path):
    name, state = "mambaout_femto_gatedcnn", official("mambaout_femto_224")
    torch.save(wrap(state), tmp_path / "file.pth")
    assert torch.equal(load(name, tmp_path / "file.pth").get_classifier().weight, state["head.fc2.weight"])


def test_the_average_is_a_choice(tmp_path):
    name, state = "mambaout_femto_gatedcnn", official("mambaout_femto_224")
    average = {f"module.{key}": x / 2 for key, x in state.items()}
    path = tmp_path / "both.pth"
    torch.save({"model": state, "model_ema": average}, path)
    for ema, factor in ((False, 1), (True, 0.5)):
        net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path, "ema": ema})
        assert torch.equal(net.get_classifier().weight, state["head.fc2.weight"] * factor)
    convert(path, tmp_path / "average.safetensors", ema=True)
    written = load_file(tmp_path / "average.safetensors")
    assert torch.equal(written["head.fc2.weight"], average["module.head.fc2.weight"])
    torch.save({"model": state}, path)
    with pytest.raises(ValueError, match=r"both\.pth: no averaged weights: expected one of model_ema, .*found model"):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path, "ema": True})


OWN = pytest.mark.parametrize(
    ("name", "small"),
    [
        ("mambaout_femto_gatedcnn", {"depths": (1, 1, 1, 1)}),
        ("vim_tiny_patch16_224", {"depth": 4}),
        ("vmamba_tiny_s1l8", {"depths": (1, 1, 1, 1)}),
        ("vit_tiny_patch16_224_causal", {"depth": 4}),
    ],
)


@OWN
def test_a_classifier_of_ones_own(name, small, tmp_path, caplog):
    own = timm.create_model(name, num_classes=10, **small)
    torch.save({"state_dict": {f"net.{key}": x for key, x in own.state_dict().items()}}, tmp_path / "own.pth")
    with caplog.at_level(logging.WARNING, "mixerzoo"):
        same = load(name, tmp_path / "own.pth", num_classes=10, **small)
        maps = load(name, tmp_path / "own.pth", features_only=True, **small)
        pooled = load(name, tmp_path / "own.pth", num_classes=0, **small)
    assert all(torch.equal(x, own.state_dict()[key]) for key, x in same.state_dict().items())
    assert all(torch.equal(x, own.state_dict()[key]) for key, x in pooled.state_dict().items())
    assert all(torch.equal(x, own.state_dict()[key.removeprefix("model.")]) for key, x in maps.state_dict().items())
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "mixerzoo"):
        other = load(name, tmp_path / "own.pth", **small)
    assert other.get_classifier().out_features == 1000
    assert "own.pth: its classifier (" in caplog.text
    assert f"{own.pretrained_cfg['classifier']}.weight" in caplog.text
    assert "is for 10 classes, the network for 1000" in caplog.text


def test_positions_of_another_grid(tmp_path, caplog):
    name, small = "vim_tiny_patch16_224", {"depth": 1}
    wide = timm.create_model(name, img_size=(112, 448), **small)  # 7×28 patches, as many as 14×14
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    overlay = {"file": tmp_path / "wide.pth", "input_size": (3, 112, 448)}
    net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **small)
    pos = wide.pos_embed.detach()
    patches = resample_abs_pos_embed(
        torch.cat((pos[:, :98], pos[:, 99:]), 1), [14, 14], [7, 28], num_prefix_tokens=0
    )  # the class token stands in the middle
    torch.testing.assert_close(net.pos_embed, torch.cat((patches[:, :98], pos[:, 98:99], patches[:, 98:]), 1))
    again = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=(112, 448), **small)
    assert torch.equal(again.pos_embed, pos)
    with caplog.at_level(logging.WARNING, "mixerzoo"):
        load(name, tmp_path / "wide.pth", img_size=(112, 448), **small)
    assert "14×14, resampled to 7×28; if the file was trained on images of another shape" in caplog.text
    narrow = timm.create_model(name, img_size=(112, 224), **small)
    torch.save(narrow.state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(
        ValueError, match=r"narrow\.pth: 98 position embeddings: .*overlay=dict\(input_size=\(3, H, W\)\)"
    ):
        load(name, tmp_path / "narrow.pth", **small)


def test_back_to_timm(tmp_path):
    """A file of `mixerzoo train`, and what `mixerzoo convert` makes of it, into models of timm and of ours."""
    for name in ("resnet18", "mambaout_femto_gatedcnn"):
        net = timm.create_model(name, num_classes=10)
        torch.save({"state_dict": {f"net.{key}": x for key, x in net.state_dict().items()}}, tmp_path / "epoch_1.pth")
        convert(tmp_path / "epoch_1.pth", tmp_path / "converted.safetensors")
        for file in ("epoch_1.pth", "converted.safetensors")[name == "resnet18" :]:  # timm's own do not know `net.`
            overlay = {"file": str(tmp_path / file), "num_classes": 10}
            again = timm.create_model(name, num_classes=10, pretrained=True, pretrained_cfg_overlay=overlay)
            assert all(torch.equal(x, net.state_dict()[key]) for key, x in again.state_dict().items())


def test_convert_of_odd_files(tmp_path):
    out = tmp_path / "out.safetensors"
    torch.save({"model": {"a": torch.ones(3).to(torch.float8_e5m2), "b": torch.ones(2)}}, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", out) == 2
    assert load_file(out)["a"].dtype == torch.float8_e5m2
    for content, message in (
        ({0: torch.ones(1)}, r"a\.pth: expected tensors under their names, found one under the int 0"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, r"a\.pth: safetensors cannot hold tensors of torch\.complex128"),
    ):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "a.pth", out)
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "a.pth"), str(tmp_path / "no" / "out.safetensors")])
    assert result.exit_code == 1
    assert "out.safetensors: could not be written (No such file or directory)" in result.output
    assert "Traceback" not in result.output


def test_unwrap_knows_the_networks_own_names():
    state = {"backbone.a": torch.ones(1), "head.b": torch.ones(1)}
    assert set(unwrap(state)) == {"backbone.a", "head.b"}
    assert set(unwrap(state, own=("stem",))) == {"a"}
    assert set(unwrap(state, own=("backbone", "head"))) == {"backbone.a", "head.b"}
