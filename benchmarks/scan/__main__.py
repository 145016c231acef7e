"""How fast are the scans?  ``python -m mixerzoo.benchmarks.scan.__main__ [--quick] [--output FILE]``

Every backend that runs here, at the shapes of vision models, against mamba-ssm's reference function and CUDA kernel,
mambapy's parallel scan, scan-and-merge of materialised copies, and the speed at which the machine copies memory. Each
implementation is first checked against float64; then all take turns. It needs torch and SciPy, and triton on a GPU;
what is not installed (see ``.ci/install-oracles``) is named and left out. A missing C kernel is compiled on the spot.

Prints tables and writes them, with every round, the machine, the versions and the commit, to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...backbones._files import write_atomically
from ..timing.turns import (
    FAST_S,
    FEW_ROUNDS,
    MAX_ROUNDS,
    SLOW_S,
    Rounds,
    median,
    seconds_per_call,
    speedup,
    time_in_turns,
)
from .without_timm import open_backbones

open_backbones()

from ...backbones.ops import selective_scan, ssd  # noqa: E402
from ..timing import environment  # noqa: E402
from .problems import (  # noqa: E402
    CPU_SHAPES,
    CUDA_SHAPES,
    Candidate,
    Shape,
    Tensors,
    candidates,
    compile_c_kernel,
    make_tensors,
)

SCHEMA_VERSION = 1
MODES = ("forward", "forward+backward")
BASELINES = ("selective_scan_ref", "mambapy pscan", "mamba_ssm", "ssd_chunk_scan_combined_ref", "selective_scan")
TOLERANCES = {torch.float32: (1e-5, 2e-5), torch.bfloat16: (3e-2, 3e-2), torch.float16: (3e-2, 3e-2)}
MEMORY_BATCH = {"selective_scan": 8, "ssd": 8}
NOTES = (
    "ms: median over the rounds of the wall time of the whole public call, Python and autograd included.",
    "N x: how many times faster than that column's implementation: median over the rounds of its time / ours.",
    "ns/element: per batch, token, channel and state (and route).",
    "copy: the time in which this machine copies as many bytes as arguments and output have (for a backward also "
    "their gradients), over ours; beyond 100% where the data stay in a cache.",
    "Each implementation gets its own layout, made beforehand: ours channels last, mamba-ssm's time last.",
    f"Rounds: up to {MAX_ROUNDS}; {FEW_ROUNDS} for what takes more than {FAST_S:g} s, one beyond {SLOW_S:g} s.",
    "'copies': the same backend on cross_scan's four copies, then cross_merge; it is given delta, B and C in the order "
    "of each route for nothing, as VMamba projects them from the copies.",
    "memory: peak of forward + backward, arguments, outputs and gradients included, over arguments + output.",
)


@dataclass
class Result:
    """One implementation at one shape in one mode; ``skipped`` says why there is no time."""

    name: str
    ours: bool
    skipped: str | None = None
    rounds_s: Rounds = field(default_factory=list)
    errors: dict[str, float | None] = field(default_factory=dict)  # largest error / largest element; None: not finite
    wrong: bool = False
    ms: float | None = None
    ns_per_element: float | None = None
    copy_share: float | None = None
    speedups: dict[str, list[float]] = field(default_factory=dict)  # baseline -> value, 95 % interval


def copy_speed(device: torch.device) -> float:
    """Bytes that a large copy reads and writes per second."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.zeros_like(source)
    best = min(seconds_per_call(lambda: target.copy_(source), 5, device) for _ in range(5))
    return 2 * source.nbytes / best


def _bytes(shape: Shape, tensors: Tensors, mode: str) -> int:
    """Bytes of arguments and output, and of the gradients of both for a backward."""
    activation = tensors["x" if "x" in tensors else "u"]
    out_size = 4 if shape.suite == "selective_scan_2d" else activation.element_size()
    total = sum(t.nbytes for t in tensors.values()) + activation.numel() * out_size
    return total if mode == "forward" else 2 * total


def _gradients(candidate: Candidate, tensors: Tensors, dy: torch.Tensor) -> tuple[torch.Tensor, Tensors]:
    leaves = {name: t.detach().requires_grad_() for name, t in candidate.to_layout(tensors).items()}
    y = candidate.run(leaves)
    grads = torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype))
    return y.detach(), candidate.from_layout(dict(zip(leaves, grads, strict=True)))


def _relative_errors(actual: Tensors, expected: Tensors) -> dict[str, float | None]:
    errors = {}
    for name, value in expected.items():
        error = (actual[name].double() - value).abs().max().item() / (value.abs().max().item() or 1.0)
        errors[name] = error if math.isfinite(error) else None
    return errors


def check(shape: Shape, found: list[Candidate], device: torch.device, dtype: torch.dtype) -> dict[str, Result]:
    """One result per candidate, without times: its errors, or why it does not run, on the problem's first samples.

    The truth is our torch backend in float64, which the tests hold against the bare recurrence.
    """
    tensors = make_tensors(replace(shape, batch=min(shape.batch, 2)), device, dtype)
    exact = {name: t.double() for name, t in tensors.items()}
    truth = next(candidate for candidate in found if candidate.name == "torch")
    generator = torch.Generator(device).manual_seed(1)
    dy = torch.randn(_ones_like_output(truth, exact).shape, generator=generator, device=device).to(dtype)
    y, expected = _gradients(truth, exact, dy)
    tolerance, gradient_tolerance = TOLERANCES[dtype]
    checked = {}
    for candidate in found:
        row = checked[candidate.name] = Result(candidate.name, candidate.ours, candidate.missing)
        if candidate.missing:
            continue
        try:
            if candidate.no_backward:
                with torch.no_grad():
                    actual, grads = candidate.run(candidate.to_layout(tensors)), {}
            else:
                actual, grads = _gradients(candidate, tensors, dy)
        except Exception as error:  # whatever one implementation fails of, the others are still worth a time
            message = " ".join(str(error).split())[:200]
            row.skipped, row.wrong = f"it failed: {type(error).__name__}: {message}", True
            continue
        row.errors = _relative_errors({"y": actual}, {"y": y})
        errors = _relative_errors(grads, {name: expected[name] for name in grads})
        row.errors |= {f"d{name}": error for name, error in errors.items()}
        limits = {name: tolerance if name == "y" else gradient_tolerance for name in row.errors}
        row.wrong = any(error is None or error > limits[name] for name, error in row.errors.items())
    return checked


def measure(
    shape: Shape, device: torch.device, dtype: torch.dtype, budget_s: float, bytes_per_s: float
) -> dict[str, list[Result]]:
    """Checks and times every implementation of one problem; results by mode."""
    found = candidates(shape, device)
    checked = check(shape, found, device, dtype)
    tensors = make_tensors(shape, device, dtype)
    results = {}
    for mode in MODES:
        rows = [replace(checked[candidate.name], speedups={}) for candidate in found]
        if mode != "forward":
            for row, candidate in zip(rows, found, strict=True):
                row.skipped = row.skipped or candidate.no_backward
        functions = {
            row.name: _timed(candidate, tensors, mode)
            for row, candidate in zip(rows, found, strict=True)
            if row.skipped is None
        }
        rounds = time_in_turns(functions, device, budget_s)
        for row in rows:
            if row.skipped is None:
                _fill(row, rounds, shape, _bytes(shape, tensors, mode) / bytes_per_s)
        results[mode] = rows
    return results


def _timed(candidate: Candidate, tensors: Tensors, mode: str) -> Callable[[], object]:
    own = candidate.to_layout(tensors)
    if mode == "forward":

        def forward() -> None:
            with torch.no_grad():
                candidate.run(own)

        return forward
    leaves = {name: t.detach().requires_grad_() for name, t in own.items()}
    dy, inputs = _ones_like_output(candidate, tensors), list(leaves.values())
    return lambda: torch.autograd.grad(candidate.run(leaves), inputs, dy)


def _fill(row: Result, rounds: dict[str, Rounds], shape: Shape, copying_s: float) -> None:
    row.rounds_s = rounds[row.name]
    seconds = median(row.rounds_s)
    row.ms, row.ns_per_element, row.copy_share = seconds * 1e3, seconds * 1e9 / shape.elements, copying_s / seconds
    for name in (*BASELINES, f"{row.name}, copies"):
        if row.ours and name in rounds:
            interval = speedup(rounds[name], row.rounds_s)
            row.speedups[name] = [interval.value, interval.low, interval.high]


def peak_memory(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Peak memory of forward + backward of our backends, over that of arguments + output."""
    rows = []
    for candidate in candidates(shape, device):
        if candidate.missing or not candidate.ours or candidate.name == "reference":
            continue
        warm_up = make_tensors(replace(shape, batch=1), device, dtype)
        _gradients(candidate, warm_up, _ones_like_output(candidate, warm_up))
        del warm_up
        peak = _PeakBytes(device)
        tensors = make_tensors(shape, device, dtype)
        dy = _ones_like_output(candidate, tensors)
        held = _bytes(shape, tensors, "forward")
        row = {"name": candidate.name, "arguments_and_output_mib": held / 2**20}
        peak.restart()
        _gradients(candidate, tensors, dy)
        row |= {"peak_mib": peak.read() / 2**20, "ratio": peak.read() / held}
        rows.append(row)
        del tensors, dy
    return rows


def _ones_like_output(candidate: Candidate, tensors: Tensors) -> torch.Tensor:
    with torch.no_grad():
        return torch.ones_like(candidate.run(candidate.to_layout(tensors)))


class _PeakBytes:
    """Peak memory above what was held when this was made: PyTorch's on a GPU, the process's on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self.before = torch.cuda.memory_allocated(device)
        else:
            from ..timing.memory import PeakMemory

            self.process = PeakMemory(device)

    def restart(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif not self.process.restart():
            raise OSError("this system does not reset a process's peak memory")

    def read(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return self.process.read_mib()["peak_memory_mib"] * 2**20


def _plain_table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def render(title: str, rows: list[Result]) -> str:
    """One problem in one mode as plain text."""
    baselines = list(dict.fromkeys(name for row in rows for name in row.speedups))
    copies = [name for name in baselines if name.endswith("copies")]
    baselines = [name for name in baselines if name not in copies] + (["its copies"] if copies else [])
    header = ["", "ms", "ns/element", "copy", "error", *baselines]
    lines, remarks = [], []
    for row in rows:
        if row.skipped is not None:
            remarks.append(f"  {row.name}: not timed, {row.skipped}")
            continue
        speedups = dict(row.speedups)
        speedups["its copies"] = speedups.get(f"{row.name}, copies")
        cells = [f"{speedups[name][0]:.2f} x" if speedups.get(name) else "" for name in baselines]
        finite = [error for error in row.errors.values() if error is not None]
        error = f"{max(finite):.0e}" if len(finite) == len(row.errors) else "nan"
        if row.wrong:
            remarks.append(f"  {row.name}: WRONG, {_describe(row.errors)}")
            error += " WRONG"
        lines.append([row.name, f"{row.ms:.3f}", f"{row.ns_per_element:.3f}", f"{row.copy_share:.0%}", error, *cells])
    return "\n".join([title, _plain_table(header, lines), *remarks])


def _describe(errors: dict[str, float | None]) -> str:
    return ", ".join(f"{name} " + ("not finite" if e is None else f"{e:.0e}") for name, e in errors.items())


def _run_device(device: torch.device, quick: bool) -> dict[str, Any]:
    if device.type == "cpu" and (reason := compile_c_kernel()):
        print(f"no C kernel: {reason}")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    speed = copy_speed(device)
    print(f"\n{device.type}, {dtype}: copies {speed / 1e9:.1f} GB/s (read + write)\n")
    cases = []
    shapes = CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES
    if quick:
        first = {shape.suite: shape for shape in reversed(shapes)}
        shapes = [shape for shape in shapes if shape is first[shape.suite]]
    for shape in shapes:
        results = measure(shape, device, dtype, 0.5 if quick else 4.0, speed)
        for mode, rows in results.items():
            print(render(f"{shape.suite} {shape}, {mode}", rows), end="\n\n", flush=True)
            shape_fields = asdict(shape) | {"dtype": str(dtype), "device": device.type}
            cases.append({"shape": shape_fields, "mode": mode, "results": [asdict(row) for row in rows]})
    return {"copy_bytes_per_s": speed, "cases": cases, "memory": _run_memory(device, dtype, quick)}


def _run_memory(device: torch.device, dtype: torch.dtype, quick: bool) -> list[dict[str, Any]]:
    cases = []
    for suite, batch in MEMORY_BATCH.items():
        longest = max((shape for shape in CPU_SHAPES if shape.suite == suite), key=lambda shape: shape.length)
        shape = replace(longest, batch=1 if quick else batch)
        try:
            rows = peak_memory(shape, device, dtype)
        except (OSError, ImportError) as error:
            print(f"memory of {shape.suite}: not measured, {error}")
            continue
        cases.append({"shape": asdict(shape), "dtype": str(dtype), "results": rows})
        cells = [
            [row["name"], f"{row['peak_mib']:.0f}", f"{row['arguments_and_output_mib']:.0f}", f"{row['ratio']:.2f}"]
            for row in rows
        ]
        header = ["", "peak MiB", "arguments + output MiB", "ratio"]
        print(f"memory, {shape.suite} {shape}\n{_plain_table(header, cells)}\n", flush=True)
    return cases


def _default_output(fingerprint: dict[str, Any], devices: list[str]) -> Path:
    machine = fingerprint.get("gpu") if "cuda" in devices else fingerprint["cpu"]
    slug = re.sub(r"[^a-z0-9]+", "_", machine.lower()).strip("_")
    return Path(f"scan_{slug}.json")


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if an implementation of ours computed something wrong."""
    parser = argparse.ArgumentParser(prog="mixerzoo.benchmarks.scan.__main__", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one shape of each kind, short")
    parser.add_argument("--output", type=Path, help="JSON file (default: scan_MACHINE.json here)")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", action="append", choices=("cpu", "cuda"), help=f"default: {' and '.join(devices)}")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as many as PyTorch takes)")
    options = parser.parse_args(arguments)
    devices = options.device or devices
    if "cuda" in devices and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    if options.output is not None and not options.output.parent.is_dir():
        parser.error(f"--output {options.output}: there is no folder {options.output.parent}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)

    begin = time.perf_counter()
    machine = environment.collect(devices[0], selective_scan, ssd)
    for name in ("cpu", "gpu", "threads", "torch", "commit"):
        if name in machine:
            print(f"{name}: {machine[name]}")
    load, cores = os.getloadavg()[0], machine["cores"]
    if load > cores / 4:
        print(
            f"the machine is busy (load {load:.1f} on {cores} cores): threads then wait for each other, and only "
            "--threads 1 gives ratios worth reading"
        )
    record = {
        "schema": SCHEMA_VERSION,
        "quick": options.quick,
        "load_average_before": load,
        "fingerprint": machine,
        "notes": NOTES,
    }
    record["devices"] = {device: _run_device(torch.device(device), options.quick) for device in devices}
    record["seconds"] = round(time.perf_counter() - begin)
    print(*NOTES, sep="\n")
    output = options.output or _default_output(machine, devices)
    write_atomically(json.dumps(record, indent=1, allow_nan=False) + "\n", output)
    print(f"\nwritten to {output} after {record['seconds']} s")
    wrong = [
        f"{row['name']} at {case['shape']}: {row['skipped'] or row['errors']}"
        for device in record["devices"].values()
        for case in device["cases"]
        for row in case["results"]
        if row["wrong"] and row["ours"] and case["mode"] == MODES[0]
    ]
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
