"""The environment a measurement was taken in, and whether two of them may be compared."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ... import backbones

# What a comparison of two files is about (the code), or what belongs to the moment and not to the machine.
FREE_FIELDS = frozenset({"mixerzoo", "commit", "source_hash", "backbones_source", "gpu_clocks_mhz"})
OURS = "mixerzoo"
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
    """Our version and the commit of the checkout (if there is one)."""
    folder = Path(backbones.__file__).parent
    tracked = _answer("git", "-C", str(folder), "ls-files", "__init__.py")  # a checkout of ours, not one around ours
    return {
        "mixerzoo": _version("mixerzoo"),
        "commit": _answer("git", "-C", str(folder), "rev-parse", "HEAD") if tracked else None,
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


def source_hash(*measured: str | nn.Module | ModuleType) -> str:
    """Hash (16 hexadecimal digits) of the code that makes up what is measured.

    Two measurements with one hash ran the same code of ours; torch, timm and the machine are other fields of the
    fingerprint. Hashed is content, not place: the syntax trees of the Python files without docstrings and imports, and
    the C files beside them without comments and spacing, whatever the files are called and in whatever order.

    Args:
        measured: a model's name as `sources` has it, a network, or a Python module. Of a timm model the file that
            defines it counts, of ours all that this file imports from this package, of a network the files of all its
            modules and their settings (its ``repr``).

    Raises:
        ValueError: unknown model.
    """
    seeds: set[str] = set()
    pieces: set[str] = set()
    for item in measured:
        if isinstance(item, str):
            from ..sources import entry_module, has_prefix, networks_on_meta, parse_model

            if not has_prefix(item):
                seeds.add(entry_module(item))
                pieces.add(repr(sorted(parse_model(item)[1].items())))
                continue
            item = networks_on_meta(item)[0].model
        if isinstance(item, ModuleType):
            seeds.add(item.__name__)
        else:
            seeds |= {name for module in item.modules() if (name := type(module).__module__).startswith(f"{OURS}.")}
            pieces.add(repr(item))
    for path in _sources(frozenset(seeds)):
        pieces.add(_normalised(path.read_text(encoding="utf-8"), path.suffix))
    digests = sorted(hashlib.sha256(piece.encode()).hexdigest() for piece in pieces)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _sources(seeds: frozenset[str]) -> set[Path]:
    """The files of some modules and of all they import from this package, with the C files beside them."""
    todo, seen, files = set(seeds), set(), set()
    while todo:
        name = todo.pop()
        seen.add(name)
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            continue
        path = Path(spec.origin)
        files |= {path, *path.parent.glob("*.[ch]")}
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        todo |= _imported(ast.parse(path.read_text(encoding="utf-8")), package) - seen
    return files


def _imported(tree: ast.Module, package: str) -> set[str]:
    """Modules of ours that a file of ``package`` imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, package) if node.level else relative
            names |= {f"{base}.{alias.name}" if _is_module(base, alias.name) else base for alias in node.names}
    return {name for name in names if name.startswith(f"{OURS}.")}


def _is_module(package: str, name: str) -> bool:
    """Whether ``from package import name`` gives a module of ours."""
    if not package.startswith(f"{OURS}."):
        return False
    spec = importlib.util.find_spec(package)
    places = [Path(place) / name for place in (spec and spec.submodule_search_locations) or ()]
    return any(place.with_suffix(".py").exists() or (place / "__init__.py").exists() for place in places)


def _normalised(text: str, suffix: str) -> str:
    """What a file computes, without its words and its layout."""
    if suffix != ".py":
        code = re.sub(r"/\*.*?\*/|//[^\n]*|#include \"[^\n]*", " ", text, flags=re.DOTALL)
        return " ".join(code.split())
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [part for part in node.body if not _is_words(part)]
    return ast.dump(tree)


def _is_words(node: ast.AST) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return is_text or isinstance(node, ast.Import | ast.ImportFrom)


def collect(device: str | torch.device = "cpu", *measured: str | nn.Module | ModuleType) -> dict[str, Any]:
    """Everything outside the model that its speed depends on, read from the running process.

    Args:
        device: the device measured on; a CUDA device adds its own fields.
        measured: what `source_hash` is to be of; none for no such field, which reads as unknown code.

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
        **({"source_hash": source_hash(*measured)} if measured else {}),
    }
    return fields | (_gpu(device) if device.type == "cuda" else {})


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields that make two measurements incomparable, with both values.

    Version, commit and source of our own code may differ: whether they changed the speed is what one asks.
    """
    names = [name for name in {**one, **other} if name not in FREE_FIELDS]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
