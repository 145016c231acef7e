"""Independent implementations to compare with: mamba-ssm's reference functions and mambapy's parallel scan.

``import mamba_ssm`` fails without its CUDA extension (releases up to 2.3.2.post1) and needs transformers; its pure
PyTorch reference functions need neither. :func:`load` imports them anyway, wherever ``.ci/install-oracles`` was run.
Everything here computes in float32 whatever its input (mamba-ssm's references cast), so it is good to about 1e-5.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

SOURCES = {
    "selective_scan_ref": "mamba_ssm.ops.selective_scan_interface",
    "selective_state_update_ref": "mamba_ssm.ops.triton.selective_state_update",
    "ssd_minimal_discrete": "mamba_ssm.modules.ssd_minimal",
    "ssd_chunk_scan_combined_ref": "mamba_ssm.ops.triton.ssd_combined",
    "pscan": "mambapy.pscan",
}
"""Name of each function and the module that defines it."""


def installed(package: str = "mamba_ssm") -> bool:
    """True if ``package`` ("mamba_ssm" or "mambapy") can be found; imports nothing."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def load(name: str) -> Callable[..., Any]:
    """The function ``name`` of :data:`SOURCES`.

    Raises:
        ValueError: no such oracle.
        ImportError: its package is not installed.
    """
    if name not in SOURCES:
        raise ValueError(f"no oracle named {name!r}; there are {', '.join(SOURCES)}")
    module = SOURCES[name]
    package = module.partition(".")[0]
    if not installed(package):
        raise ImportError(f"{name} needs {package}: run .ci/install-oracles")
    if package == "mamba_ssm":
        _open_mamba_ssm()
    return getattr(importlib.import_module(module), name)


def _open_mamba_ssm() -> None:
    """Makes mamba_ssm's submodules importable without its CUDA extension and without running its ``__init__``."""
    if "mamba_ssm" not in sys.modules:
        spec = importlib.util.find_spec("mamba_ssm")
        package = types.ModuleType("mamba_ssm")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["mamba_ssm"] = package
    extension = "selective_scan_cuda"
    if extension not in sys.modules and importlib.util.find_spec(extension) is None:
        sys.modules[extension] = types.ModuleType(extension)


if __name__ == "__main__":
    for oracle in SOURCES:
        print(f"{oracle}: {load(oracle).__module__}")
