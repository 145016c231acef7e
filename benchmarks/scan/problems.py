"""The scan problems of vision models, and every implementation of them that ``benchmarks/scan.py`` times."""

from __future__ import annotations

import importlib.util
import math
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from ...backbones.ops import selective_scan as scan_package
from ...backbones.ops.cross_scan import VMAMBA_ROUTES, cross_merge, cross_scan
from ...backbones.ops.selective_scan import selective_scan, selective_scan_2d
from ...backbones.ops.ssd import ssd
from . import peers

Tensors = dict[str, torch.Tensor]
QUADRATIC_BYTES = {"cpu": 5e10, "cuda": 5e12}  # what selective_scan_ref's backward may fill with zeros: some seconds


@dataclass(frozen=True)
class Shape:
    """One problem of a vision model.

    Attributes:
        suite: "selective_scan", "selective_scan_2d" or "ssd".
        model: where it comes from.
        batch: B.
        length: L, or the side H = W of the grid for ``selective_scan_2d``.
        channels: D of the 1-D scan, E of a route, or H heads of ``width`` channels.
        states: N.
        width: P, for ``ssd``.
        gated: whether z gates the output.
    """

    suite: str
    model: str
    batch: int
    length: int
    channels: int
    states: int
    width: int = 1
    gated: bool = False

    @property
    def tokens(self) -> int:
        return self.length**2 if self.suite == "selective_scan_2d" else self.length

    @property
    def elements(self) -> int:
        """B·L·D·N, over all routes."""
        routes = len(VMAMBA_ROUTES) if self.suite == "selective_scan_2d" else 1
        return self.batch * self.tokens * self.channels * self.width * self.states * routes

    def __str__(self) -> str:
        sizes = {
            "selective_scan": f"B={self.batch} D={self.channels} L={self.length} N={self.states}",
            "selective_scan_2d": f"B={self.batch} E={self.channels} {self.length}x{self.length} K=4 N={self.states}",
            "ssd": f"B={self.batch} L={self.length} H={self.channels} P={self.width} N={self.states}",
        }
        return f"{self.model}: {sizes[self.suite]}"


def _scan(model: str, batch: int, channels: int, length: int, states: int, gated: bool = False) -> Shape:
    return Shape("selective_scan", model, batch, length, channels, states, gated=gated)


def _grid(model: str, batch: int, channels: int, side: int) -> Shape:
    return Shape("selective_scan_2d", model, batch, side, channels, states=1)


def _ssd(model: str, batch: int, length: int, heads: int, states: int = 64) -> Shape:
    return Shape("ssd", model, batch, length, heads, states, width=64)


CPU_SHAPES = (
    _scan("Vim-T", 1, 384, 197, 16),
    _scan("Vim-T", 8, 384, 197, 16),
    _scan("Vim-T, 1024 px", 1, 384, 4096, 16),
    _scan("VMamba-T stage 1, one route", 1, 192, 3136, 1),
    _grid("VMamba-T stage 1", 1, 192, 56),
    _grid("VMamba-T stage 2", 1, 384, 28),
    _grid("VMamba-T stage 3", 8, 768, 14),
    _ssd("224 px, patch 16", 1, 196, 12),
    _ssd("224 px, patch 16", 8, 196, 12),
    _ssd("1024 px, patch 16", 1, 4096, 12),
)
CUDA_SHAPES = (
    _scan("Vim-T", 128, 384, 197, 16, gated=True),
    _scan("Vim-S", 128, 768, 197, 16, gated=True),
    _scan("Vim-T detection", 2, 384, 4000, 16, gated=True),
    _scan("Vim-T long", 8, 384, 16384, 16, gated=True),
    _scan("Vim-T single image", 1, 384, 197, 16, gated=True),
    _grid("VMamba-T stage 1", 128, 192, 56),
    _grid("VMamba-T stage 2", 128, 384, 28),
    _grid("VMamba-T stage 3", 128, 768, 14),
    _grid("VMamba-T stage 4", 128, 1536, 7),
    _grid("VMamba-T stage 1, detection", 2, 192, 253),
    _ssd("224 px, patch 16", 128, 196, 12),
    _ssd("1024 px, patch 16", 8, 4096, 12),
    _ssd("2048 px, patch 16", 2, 16384, 12),
)


def make_tensors(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Tensors:
    """Random arguments with channels last; step sizes spread over 0.001 … 0.1 as Mamba initialises them.

    Activations are of ``dtype``, parameters float32 (float64 for float64).
    """
    generator = torch.Generator(device).manual_seed(seed)
    parameter_dtype = torch.promote_types(dtype, torch.float32)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator, device=device).to(dtype)

    def step_bias(*sizes: int) -> torch.Tensor:
        low, high = math.log(1e-3), math.log(1e-1)
        step = (low + (high - low) * torch.rand(*sizes, generator=generator, device=device)).exp()
        return (step + torch.log(-torch.expm1(-step))).to(parameter_dtype)  # softplus undoes it

    b, t, d, n, p, s = shape.batch, shape.length, shape.channels, shape.states, shape.width, shape.tokens
    rates = -torch.arange(1.0, n + 1, device=device, dtype=parameter_dtype)  # Mamba's initial A
    if shape.suite == "ssd":
        sizes = {"x": (b, s, d, p), "dt": (b, s, d), "B": (b, s, 1, n), "C": (b, s, 1, n)}
        A, bias = -torch.linspace(1, 16, d, device=device, dtype=parameter_dtype), step_bias(d)
        skip = torch.ones(d, p, device=device, dtype=parameter_dtype)
    elif shape.suite == "selective_scan_2d":
        k = len(VMAMBA_ROUTES)
        grid = (b, t, t)
        sizes = {"x": (*grid, d), "delta": (*grid, k, d), "B": (*grid, k, n), "C": (*grid, k, n)}
        A, bias = rates.repeat(k, d, 1), step_bias(k, d)
        skip = torch.ones(k, d, device=device, dtype=parameter_dtype)
    else:
        sizes = {"u": (b, s, d), "delta": (b, s, d), "B": (b, s, n), "C": (b, s, n)}
        A, bias = rates.repeat(d, 1), step_bias(d)
        skip = torch.ones(d, device=device, dtype=parameter_dtype)
        if shape.gated:
            sizes["z"] = (b, s, d)
    tensors = {name: normal(*size) for name, size in sizes.items()} | {"A": A, "D": skip, "bias": bias}
    tensors["dt" if shape.suite == "ssd" else "delta"].mul_(0.3)  # the projection's share, small beside the bias
    return tensors


@dataclass(frozen=True)
class Candidate:
    """One implementation of a suite.

    Attributes:
        name: as printed.
        run: tensors in its own layout -> y in the suite's layout, a view of what it computed; this is what is timed.
        to_layout: the suite's tensors -> its own layout, not timed.
        from_layout: gradients in its own layout -> the suite's.
        ours: whether it is one of this project.
        missing: why it cannot run here, or None.
        no_backward: why its backward is not timed, or None.
    """

    name: str
    run: Callable[[Tensors], torch.Tensor]
    to_layout: Callable[[Tensors], Tensors] = field(default=dict)
    from_layout: Callable[[Tensors], Tensors] = field(default=dict)
    ours: bool = True
    missing: str | None = None
    no_backward: str | None = None


def candidates(shape: Shape, device: torch.device) -> list[Candidate]:
    """Every implementation of the shape's suite, those that cannot run here with the reason."""
    suites = {"selective_scan": _scans, "selective_scan_2d": _grid_scans, "ssd": _ssds}
    return suites[shape.suite](shape, device)


def _own(backend: str, device: torch.device) -> tuple[str, str | None]:
    """A backend of selective_scan, with why it cannot run."""
    one = torch.ones(1, 1, 1, device=device)
    try:
        selective_scan(one, one, one[0], one, one, backend=backend)
    except (ValueError, ImportError) as error:
        return backend, str(error)
    return backend, None


def _scans(shape: Shape, device: torch.device) -> list[Candidate]:
    def own(backend: str) -> Callable[[Tensors], torch.Tensor]:
        def run(t: Tensors) -> torch.Tensor:
            u, delta, B, C = (t[name].transpose(1, 2) for name in ("u", "delta", "B", "C"))
            z = t["z"].transpose(1, 2) if "z" in t else None
            return selective_scan(u, delta, t["A"], B, C, t["D"], z, t["bias"], True, backend=backend).transpose(1, 2)

        return run

    name, missing = _own("triton" if device.type == "cuda" else "cpu", device)
    found = [Candidate(name, own(name), missing=missing), Candidate("torch", own("torch"))]
    found.append(Candidate("reference", own("reference")))

    zeroed = shape.elements * shape.length * 4
    quadratic = f"its backward is quadratic in L: {zeroed / 1e12:.1f} TB of zeros"
    for name, function, missing in (
        ("selective_scan_ref", "selective_scan_ref", _missing("mamba_ssm")),
        ("mamba_ssm", "selective_scan_fn", _missing_mamba_kernel(device)),
    ):
        if name == "mamba_ssm" and device.type == "cpu":
            continue
        too_slow = name == "selective_scan_ref" and zeroed > QUADRATIC_BYTES[device.type]
        theirs = Candidate(
            name,
            _time_last(function),
            _transpose,
            _transpose,
            ours=False,
            missing=missing,
            no_backward=quadratic if too_slow else None,
        )
        found.append(theirs)
    states_gib = shape.elements * 4 / 2**30
    too_large = f"it would hold several states of {states_gib:.0f} GiB" if states_gib > 4 else None
    found.append(Candidate("mambapy pscan", _pscan, ours=False, missing=_missing("mambapy") or too_large))
    return found


def _missing(package: str) -> str | None:
    return None if peers.installed(package) else f"{package} is not installed: run .ci/install-oracles"


def _missing_mamba_kernel(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "it needs a CUDA device"
    if not peers.installed("selective_scan_cuda"):
        return "mamba-ssm's CUDA extension is not installed: pip install --no-build-isolation mamba-ssm"
    return _missing("mamba_ssm")


def _transpose(tensors: Tensors) -> Tensors:
    """(B, L, D) <-> (B, D, L), time contiguous: the layout of mamba-ssm's functions."""
    return {name: t.transpose(1, 2).contiguous() if t.ndim == 3 else t for name, t in tensors.items()}


def _time_last(function: str) -> Callable[[Tensors], torch.Tensor]:
    def run(t: Tensors) -> torch.Tensor:
        scan = peers.load(function)
        y = scan(t["u"], t["delta"], t["A"], t["B"], t["C"], t["D"], t.get("z"), t["bias"], True)
        return y.transpose(1, 2)

    return run


def _pscan(t: Tensors) -> torch.Tensor:
    """The selective scan on mambapy's parallel scan, which materialises states (B, L, D, N)."""
    dt = F.softplus(t["delta"].float() + t["bias"])  # (B, L, D)
    u = t["u"].float()
    decay = (dt.unsqueeze(-1) * t["A"]).exp()  # (B, L, D, N)
    added = (dt * u).unsqueeze(-1) * t["B"].float().unsqueeze(2)
    h = peers.load("pscan")(decay, added)
    y = (h @ t["C"].float().unsqueeze(-1)).squeeze(-1) + t["D"] * u
    if "z" in t:
        y = y * F.silu(t["z"].float())
    return y.to(t["u"].dtype)


def _grid_scans(shape: Shape, device: torch.device) -> list[Candidate]:
    def fused(backend: str) -> Callable[[Tensors], torch.Tensor]:
        def run(t: Tensors) -> torch.Tensor:
            arguments = (t[name] for name in ("x", "delta", "A", "B", "C", "D"))
            return selective_scan_2d(*arguments, None, t["bias"], True, backend=backend, out_dtype=torch.float32)

        return run

    def copied(backend: str) -> Callable[[Tensors], torch.Tensor]:
        def run(t: Tensors) -> torch.Tensor:
            u = cross_scan(t["x"]).flatten(2).transpose(1, 2)  # (B, K·E, L)
            delta = t["delta"].flatten(2).transpose(1, 2)
            B, C = (t[name].permute(0, 2, 3, 1) for name in ("B", "C"))  # (B, K, N, L): a group per route
            A, D, bias = t["A"].flatten(0, 1), t["D"].flatten(), t["bias"].flatten()
            y = selective_scan(u, delta, A, B, C, D, None, bias, True, backend=backend)
            y = y.transpose(1, 2).unflatten(2, (len(VMAMBA_ROUTES), -1))  # (B, L, K, E)
            return cross_merge(y.float(), shape.length, shape.length)

        return run

    found = []
    for name, missing in (_own("triton" if device.type == "cuda" else "cpu", device), ("torch", None)):
        found.append(Candidate(name, fused(name), missing=missing))
        copies = Candidate(f"{name}, copies", copied(name), _along_routes, _on_grid, ours=False, missing=missing)
        found.append(copies)
    return found


def _along_routes(tensors: Tensors) -> Tensors:
    """Delta, B and C in the order of each route, as VMamba projects them from its copies: (B, L, K, …)."""
    return {name: cross_scan(t) if name in ("delta", "B", "C") else t for name, t in tensors.items()}


def _on_grid(tensors: Tensors) -> Tensors:
    out = dict(tensors)
    for name in ("delta", "B", "C"):
        if name in out:
            side = math.isqrt(out[name].shape[1])
            out[name] = cross_merge(out[name], side, side, reduce=False)
    return out


def _ssds(shape: Shape, device: torch.device) -> list[Candidate]:
    def own(backend: str) -> Callable[[Tensors], torch.Tensor]:
        def run(t: Tensors) -> torch.Tensor:
            arguments = (t[name] for name in ("x", "dt", "A", "B", "C"))
            return ssd(*arguments, D=t["D"], dt_bias=t["bias"], dt_softplus=True, backend=backend)

        return run

    def theirs(function: str, chunk: int) -> Callable[[Tensors], torch.Tensor]:
        def run(t: Tensors) -> torch.Tensor:
            arguments = (t[name] for name in ("x", "dt", "A", "B", "C"))
            return peers.load(function)(*arguments, chunk, D=t["D"], dt_bias=t["bias"], dt_softplus=True)

        return run

    def as_selective_scan(t: Tensors) -> torch.Tensor:
        """The same problem as a selective scan, whose heads share nothing but their values."""
        x, dt = t["x"].flatten(2).transpose(1, 2), t["dt"].repeat_interleave(shape.width, 2).transpose(1, 2)
        A = t["A"].repeat_interleave(shape.width).unsqueeze(1).expand(-1, shape.states)
        B, C = (t[name].permute(0, 2, 3, 1) for name in ("B", "C"))
        bias = t["bias"].repeat_interleave(shape.width)
        y = selective_scan(x, dt, A, B, C, t["D"].flatten(), None, bias, True)
        return y.transpose(1, 2).unflatten(2, (shape.channels, shape.width))

    chunk = 28 if shape.length % 64 else 64
    found = [Candidate("torch", own("torch")), Candidate("reference", own("reference"))]
    for name in ("ssd_chunk_scan_combined_ref", "mamba_chunk_scan_combined"):
        triton = name == "mamba_chunk_scan_combined"
        if triton and device.type == "cpu":
            continue
        power = 64 if triton else chunk  # the kernels take powers of two and any L, the reference any divisor of L
        missing = _missing("mamba_ssm")
        found.append(Candidate(name, theirs(name, power), ours=False, missing=missing))
    found.append(Candidate("selective_scan", as_selective_scan, ours=False))
    return found


def compile_c_kernel() -> str | None:
    """Compiles the C kernel into a temporary folder, if the package has none or an older one; returns why it cannot."""
    source = Path(scan_package.__file__).resolve().with_name("scan_cpu.c")
    built = importlib.util.find_spec(f"{scan_package.__name__}._scan_cpu")
    if built is not None and not (source.exists() and source.stat().st_mtime > Path(built.origin).stat().st_mtime):
        return None
    project = source.parents[3] / "pyproject.toml"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not (source.exists() and project.exists()):
        return "no C compiler" if compiler is None else "no checkout with scan_cpu.c and pyproject.toml"
    (module,) = tomllib.loads(project.read_text())["tool"]["setuptools"]["ext-modules"]
    folder = tempfile.mkdtemp(prefix="mixerzoo-")
    flags = (*module["extra-compile-args"], "-shared", "-fPIC", *module["extra-link-args"])
    command = (compiler, str(source), "-o", f"{folder}/_scan_cpu.so", *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{compiler}: {done.stderr.strip().splitlines()[0]}"
    scan_package.__path__.insert(0, folder)
    return None
