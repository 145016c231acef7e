from __future__ import annotations

import importlib
import json
import os
import sys

import mixerzoo
import pytest
import torch
from mixerzoo.benchmarks.timing import environment


def test_the_fingerprint_names_machine_software_settings_and_code():
    found = json.loads(json.dumps(environment.collect("cpu")))
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found["affinity"] == sorted(os.sched_getaffinity(0))
    assert found["threads"] == torch.get_num_threads()
    assert found["memory_gib"] >= 1
    for name in ("cpu", "cpu_capability", "system", "python", "timm", "numpy", "float32_matmul_precision", "mixerzoo"):
        assert isinstance(found[name], str), name
        assert found[name], name
    assert isinstance(found["mkldnn"], bool)
    assert "source_hash" not in found  # nothing of ours was said to be measured
    with_code = environment.collect("cpu", "mambaout_femto_gatedcnn")
    assert with_code.pop("source_hash") == environment.source_hash("mambaout_femto_gatedcnn")
    assert with_code == environment.collect("cpu")


def test_the_fingerprint_follows_the_settings_of_the_process():
    before = environment.collect()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(threads + 1)
        torch.set_float32_matmul_precision("medium")
        assert environment.differences(before, environment.collect()) == {
            "threads": (threads, threads + 1),
            "float32_matmul_precision": (precision, "medium"),
        }
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def test_our_own_code_may_differ_and_a_missing_field_may_not():
    one = {"cpu": "a", "commit": "1", "source_hash": "x", "mixerzoo": "0.1"}
    assert environment.differences(one, one | {"commit": "2", "source_hash": "y", "mixerzoo": "0.2"}) == {}
    assert environment.differences(one, {"cpu": "a", "commit": "1", "backbones_source": "y", "mixerzoo": "0.2"}) == {}
    assert environment.differences(one, one | {"cpu": "b", "gpu": "H200"}) == {"cpu": ("a", "b"), "gpu": (None, "H200")}
    assert environment.differences(one | {"gpu": "H200"}, one) == {"gpu": ("H200", None)}


KERNEL = "/* words */ float f(float x) { return x; }  // words\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``mixerzoo.measured``: a package with a network, an operation that it imports, and its C kernel."""
    folder = tmp_path / "measured"
    folder.mkdir()
    for name, text in {
        "__init__.py": "from . import network\n",
        "network.py": "from .operation import apply\n\n\ndef run(x):\n    return apply(x)\n",
        "operation.py": "def apply(x):\n    return x\n",
        "kernel.c": KERNEL,
        "apart.py": "y = 1\n",
    }.items():
        folder.joinpath(name).write_text(text)
    monkeypatch.setattr(mixerzoo, "__path__", [*mixerzoo.__path__, str(tmp_path)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("mixerzoo.measured")]:
        del sys.modules[name]


def code() -> str:
    importlib.invalidate_caches()
    return environment.source_hash(importlib.import_module("mixerzoo.measured.network"))


def test_words_layout_and_names_of_files_are_no_code(package):
    before = code()
    package.joinpath("operation.py").write_text(
        '"""Words."""\n\n\ndef apply(x):  # words\n    """Words."""\n    return (x)\n'
    )
    package.joinpath("kernel.c").write_text("float f(float x)\n{\n  return x;\n}\n")
    package.joinpath("apart.py").write_text("y = 2\n")  # nothing imports it
    assert code() == before
    package.joinpath("operation.py").rename(package / "renamed.py")
    package.joinpath("network.py").write_text("from .renamed import apply\n\n\ndef run(x):\n    return apply(x)\n")
    assert code() == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("kernel.c", KERNEL.replace("return x", "return 2 * x")),
        ("operation.py", "def apply(x):\n    return 2 * x\n"),
        ("network.py", "from .operation import apply\n\n\ndef run(x):\n    return apply(apply(x))\n"),
    ],
)
def test_a_change_in_any_part_is_a_change(package, file, text):
    before = code()
    package.joinpath(file).write_text(text)
    assert code() != before


def test_models_differ_by_their_files_and_arguments():
    names = ("vim_tiny_patch16_224", "vim_tiny_patch16_224@depth=4", "mambaout_femto_s6", "resnet18", "test_vit")
    assert len({environment.source_hash(name) for name in names}) == len(names)
    native = {
        path.name for path in environment._sources(frozenset({"mixerzoo.backbones.vim"})) if path.suffix in ".c.h"
    }
    assert {name[-2:] for name in native} == {".c", ".h"}
