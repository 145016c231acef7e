"""Peak memory of this process, and which errors mean that memory ran out."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch

MIB = 2**20
CUDA_ERROR_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation in driver_types.h


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, by type where PyTorch gives one.

    The CPU allocator raises a plain RuntimeError, known only by its text; CUDA calls outside PyTorch's allocator
    raise an AcceleratorError with CUDA's error code.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if getattr(error, "error_code", None) == CUDA_ERROR_MEMORY_ALLOCATION:
        return True
    text = str(error)
    return "DefaultCPUAllocator: can't allocate memory" in text or "DefaultCPUAllocator: not enough memory" in text


def _high_water_bytes() -> int:
    """Most memory this process has held, since :func:`_lower_high_water` where the system allows that."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # Unix only

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _lower_high_water() -> bool:
    """Sets the high-water mark to what the process holds now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): 5 resets the peak resident set size
    except OSError:
        return False
    return True


def _return_free_heap() -> None:
    """Gives freed heap pages back to the system, so that they do not count as held."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class PeakMemory:
    """Peak memory of what happens after :meth:`restart`, above what the process held when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _return_free_heap()
        self._before = psutil.Process().memory_info().rss

    def restart(self) -> bool:
        """Forgets earlier peaks; False if the system cannot, and the peak may stem from before."""
        _return_free_heap()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return True
        return _lower_high_water()

    def read_mib(self) -> dict[str, float | None]:
        """``peak_memory_mib`` and ``peak_reserved_mib`` of a result row."""
        if self._device.type == "cuda":
            return {
                "peak_memory_mib": torch.cuda.max_memory_allocated(self._device) / MIB,
                "peak_reserved_mib": torch.cuda.max_memory_reserved(self._device) / MIB,
            }
        return {"peak_memory_mib": (_high_water_bytes() - self._before) / MIB, "peak_reserved_mib": None}
