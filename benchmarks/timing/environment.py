"""The environment a measurement was taken in, and whether two of them may be compared."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from ... import backbones

# What a comparison of two files is about (the code), or what belongs to the moment and not to the machine.
FREE_FIELDS = frozenset({"mixerzoo", "commit", "backbones_source", "gpu_clocks_mhz"})
DISTRIBUTIONS = ("torch", "torchvision", "timm", "numpy", "triton")


def cpu_model() -> str:
    """Name of the processor as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(("model name", "Hardware", "cpu model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> list[int]:
    """Numbers of the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _answer(*command: str) -> str | None:
    """First line a command prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def _memory_gib() -> int | None:
    """The machine's memory; None where psutil is missing, which the kernels' benchmark does without."""
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    return round(psutil.virtual_memory().total / 2**30)


@functools.cache
def _code() -> dict[str, Any]:
    """Our version, the commit of the checkout (if there is one) and a hash over the source of all backbones."""
    folder = Path(backbones.__file__).parent
    source = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        source.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    tracked = _answer("git", "-C", str(folder), "ls-files", "__init__.py")  # a checkout of ours, not one around ours
    return {
        "mixerzoo": _version("mixerzoo"),
        "commit": _answer("git", "-C", str(folder), "rev-parse", "HEAD") if tracked else None,
        "backbones_source": source.hexdigest()[:16],
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    uuid = f"GPU-{str(properties.uuid).removeprefix('GPU-')}"  # CUDA_VISIBLE_DEVICES may have renumbered the devices
    query = ("nvidia-smi", f"--id={uuid}", "--format=csv,noheader,nounits")
    clocks = _answer(*query, "--query-gpu=clocks.sm,clocks.mem")
    limits = _answer(*query, "--query-gpu=clocks.max.sm,clocks.max.mem,power.limit")
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30),
        "gpu_driver": _answer(*query, "--query-gpu=driver_version"),
        "gpu_max_clocks_mhz_and_power_w": limits,
        "gpu_clocks_mhz": clocks,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolution": torch.backends.cudnn.allow_tf32,
        "fp16_reduced_precision_reduction": torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "bf16_reduced_precision_reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
    }


def collect(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Everything outside the model that its speed depends on, read from the running process.

    Args:
        device: the device measured on; a CUDA device adds its own fields.

    Returns:
        JSON-able fields. Versions are None for packages that are not installed.
    """
    device = torch.device(device)
    fields = {
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "affinity": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in DISTRIBUTIONS},
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "fused_attention": os.environ.get("TIMM_FUSED_ATTN"),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),  # waiting threads that sleep halve the speed of small ops
        **_code(),
    }
    return fields | (_gpu(device) if device.type == "cuda" else {})


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields that make two measurements incomparable, with both values.

    Version, commit and source of our own code may differ: whether they changed the speed is what one asks.
    """
    names = [name for name in {**one, **other} if name not in FREE_FIELDS]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
