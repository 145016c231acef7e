from __future__ import annotations

import math

import pytest
import torch
from mixerzoo.benchmarks.sources import build_model
from mixerzoo.benchmarks.timing.case import Case
from mixerzoo.benchmarks.timing.workload import (
    Stopwatch,
    Workload,
    full_float32,
    relative_error,
    wake_constant_parameters,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ready(case: Case) -> tuple[Workload, torch.Tensor]:
    workload = Workload(case)
    reference = workload.reference()
    workload.configure()
    return workload, reference


CASES = [
    Case("test_vit", (64, 64), batch=2),
    Case("test_mambaout", (64, 64), batch=2, channels_last=True, dtype="bfloat16"),
    Case("test_convnext", (64, 64), batch=2, channels_last=True, mode="train"),
    Case("test_vit", (64, 64), batch=2, mode="train", dtype="bfloat16"),
    Case("test_vit", (64, 64), batch=2, mode="train", dtype="float16"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_right_network_passes_its_check_and_a_wrong_one_does_not(case):
    workload, reference = ready(case)
    error, tolerance = workload.check(reference)
    assert error <= tolerance
    with torch.no_grad():  # the blocks compute something else
        for parameter in workload.model.get_submodule("blocks" if "vit" in case.model else "stages").parameters():
            parameter.mul_(-3)
    error, tolerance = workload.check(reference)
    assert error > tolerance


def test_the_check_runs_in_the_cases_own_dtype_and_memory_format():
    workload, _ = ready(CASES[1])
    assert workload.x.dtype == torch.bfloat16
    assert workload.x.is_contiguous(memory_format=torch.channels_last)
    assert {p.dtype for p in workload.model.parameters()} == {torch.bfloat16}
    training, _ = ready(CASES[3])
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}  # the optimizer's master weights
    assert training.model.training


def test_an_infinite_output_is_an_infinite_error():
    assert relative_error(torch.tensor([1.0, math.inf]), torch.ones(2)) == math.inf
    assert relative_error(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])) == pytest.approx(4 / 3)


def test_an_inference_reference_in_chunks_is_the_whole_batch():
    workload = Workload(Case("test_resnet", (64, 64), batch=19))
    reference = workload.reference()
    with torch.inference_mode():
        torch.testing.assert_close(workload.model(workload.x).flatten(), reference)


def test_parameters_that_would_hide_the_blocks_are_woken():
    model = build_model("test_convnext", (64, 64))
    before = {name: p.clone() for name, p in model.named_parameters()}
    wake_constant_parameters(model, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma") or name.endswith(".bias"):  # layer scale 1e-6; zeros
            assert parameter.std() > 0.005, name
        else:
            assert torch.equal(parameter, before[name]), name


def test_compilation_is_asked_for_static_shapes(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options) or model)
    ready(Case("test_vit", (64, 64), compile=True))
    assert asked == [{"dynamic": False}]


def test_a_training_step_has_three_parts_and_moves_the_weights():
    workload, _ = ready(Case("test_vit", (64, 64), batch=2, mode="train"))
    before = [p.clone() for p in workload.model.parameters()]
    parts = workload.sample_ms(steps=2)
    assert len(parts) == 3
    assert min(parts) > 0
    assert all(not torch.equal(p, old) for p, old in zip(workload.model.parameters(), before, strict=True))
    assert all(p.grad is None for p in workload.model.parameters())


def test_an_inference_step_has_one_part():
    workload, _ = ready(CASES[0])
    assert len(workload.sample_ms()) == 1
    assert workload.sample_ms(steps=3)[0] > 0


def test_a_sample_is_the_mean_of_its_steps(monkeypatch):
    workload, _ = ready(Case("test_vit", (64, 64), batch=1, mode="train"))
    ticks = iter([0.0, 1, 3, 6, 8, 12, 18])  # two steps of (1, 2, 3) and (2, 4, 6) seconds
    monkeypatch.setattr("mixerzoo.benchmarks.timing.workload.time.perf_counter", lambda: next(ticks))
    assert workload.sample_ms(steps=2) == [1500, 3000, 4500]


def test_a_stopwatch_forgets_what_was_read():
    stopwatch = Stopwatch(torch.device("cpu"))
    stopwatch.mark()
    stopwatch.mark()
    assert len(stopwatch.read_ms()) == 1
    stopwatch.mark()
    assert stopwatch.read_ms() == []


def test_full_float32_puts_the_settings_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with full_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_training_needs_a_classifier(monkeypatch):
    def headless(*args, **kwargs):
        return build_model(*args, num_classes=0, **kwargs)

    monkeypatch.setattr("mixerzoo.benchmarks.timing.workload.build_model", headless)
    with pytest.raises(ValueError, match="training is timed on classifiers, and this model has 0 classes"):
        Workload(Case("test_vit", (64, 64), mode="train"))
