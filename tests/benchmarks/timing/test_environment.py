from __future__ import annotations

import json
import os

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
    assert len(found["backbones_source"]) == 16


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
    one = {"cpu": "a", "commit": "1", "backbones_source": "x", "mixerzoo": "0.1"}
    assert environment.differences(one, one | {"commit": "2", "backbones_source": "y", "mixerzoo": "0.2"}) == {}
    assert environment.differences(one, one | {"cpu": "b", "gpu": "H200"}) == {"cpu": ("a", "b"), "gpu": (None, "H200")}
    assert environment.differences(one | {"gpu": "H200"}, one) == {"gpu": ("H200", None)}
