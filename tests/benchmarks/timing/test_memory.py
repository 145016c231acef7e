from __future__ import annotations

import sys

import pytest
import torch
from mixerzoo.benchmarks.timing.memory import MIB, PeakMemory, is_out_of_memory


def test_the_cpu_allocators_own_error_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2**50)
    assert is_out_of_memory(caught.value)


class _AcceleratorError(RuntimeError):
    def __init__(self, error_code):
        super().__init__("CUDA error")
        self.error_code = error_code


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (MemoryError(), True),
        (_AcceleratorError(2), True),
        (_AcceleratorError(700), False),  # an illegal memory access
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("CUDA error: out of memory is what this text says"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
        (OSError("Cannot allocate memory"), False),
    ],
)
def test_errors_are_told_apart_by_type(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process lower its high-water mark")
def test_the_peak_holds_what_came_and_went_since_the_restart():
    memory = PeakMemory(torch.device("cpu"))
    large = torch.ones(200 * MIB // 4)
    del large
    if not memory.restart():
        pytest.skip("/proc/self/clear_refs is not writable here, so a peak before the restart stays")
    assert memory.read_mib()["peak_memory_mib"] < 100
    kept, gone = torch.ones(40 * MIB // 4), torch.ones(60 * MIB // 4)
    del gone
    assert 95 < memory.read_mib()["peak_memory_mib"] < 150
    assert memory.read_mib()["peak_reserved_mib"] is None
    del kept
