"""What is measured and what is kept: the configuration of one measurement, its result row, and the file of rows.

A result file is JSON Lines, one row per line, written row by row and only appended to. A row is known by the hash of
its configuration (``key``), so a sweep that was cut short finds out what is left to do; where a key occurs twice, the
later row counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: two runs on one file are the user's to avoid
    fcntl = None

SCHEMA_VERSION = 1

DTYPES = ("float32", "bfloat16", "float16")
MODES = ("infer", "train")
SCENARIOS = ("single-stream", "offline")
STATUSES = ("ok", "oom", "error", "timeout", "interrupted")


@dataclass(frozen=True)
class Case:
    """One configuration to measure.

    Attributes:
        model: timm model name.
        image_size: (H, W) in pixels; None: the model's own default, filled in by ``run_sweep``.
        batch: images per step.
        dtype: ``infer`` casts weights and input to it; ``train`` keeps float32 weights and runs under autocast.
        mode: ``infer`` (forward) or ``train`` (forward, loss, backward, AdamW step).
        compile: run through ``torch.compile``.
        channels_last: weights and input in NHWC memory order.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        scenario: MLPerf's names: ``single-stream`` times every step by itself, ``offline`` times blocks of steps
            without waiting in between.
        threads: CPU threads inside one operator; None: all cores this process may use, filled in by ``run_sweep``.
        photos: photographs as input, through the model's own transform: ``scikit-image`` for the bundled ones, or a
            folder of images; None: seeded noise.

    Raises:
        ValueError: a field has a value that cannot be measured.
    """

    model: str
    image_size: tuple[int, int] | None = None
    batch: int = 1
    dtype: str = "float32"
    mode: str = "infer"
    compile: bool = False
    channels_last: bool = False
    device: str = "cpu"
    scenario: str = "single-stream"
    threads: int | None = None
    photos: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("dtype", DTYPES), ("mode", MODES), ("scenario", SCENARIOS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.batch < 1:
            raise ValueError(f"batch: expected at least 1 image, got {self.batch}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads: expected at least 1, got {self.threads}")
        kind, _, index = self.device.partition(":")
        if kind not in ("cpu", "cuda") or (":" in self.device and not index.isdigit()):
            raise ValueError(f"device: expected cpu, cuda or cuda:N, got {self.device!r}")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", tuple(self.image_size))
            if len(self.image_size) != 2 or min(self.image_size) < 1:
                raise ValueError(f"image_size: expected (H, W) of at least 1 pixel, got {self.image_size}")

    @property
    def key(self) -> str:
        """Hash of the configuration (16 hexadecimal digits), the same on every machine."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def conditions(self) -> str:
        """How the model runs: dtype, mode, and what is switched on."""
        parts = [self.dtype, self.mode]
        parts += ["compile"] if self.compile else []
        parts += ["channels_last"] if self.channels_last else []
        parts += ["offline"] if self.scenario == "offline" else []
        return " ".join(parts)

    def __str__(self) -> str:
        size = "default" if self.image_size is None else "{}x{}".format(*self.image_size)
        return f"{self.model} {size} batch {self.batch} {self.conditions}"


def question(case: Case) -> tuple:
    """What two cases must share to be worth comparing: image size, batch, mode, scenario and device."""
    return case.image_size, case.batch, case.mode, case.scenario, case.device


@dataclass
class Row:
    """One result: a case, how it ended, and what was measured. Times are per step (one batch), in milliseconds.

    Attributes:
        case: the configuration asked for.
        status: ``ok``; ``oom``: out of memory even at batch 1; ``error``: everything else that went wrong, a failed
            output check included; ``timeout``; ``interrupted``: cut short, its figures stand on fewer rounds.
        message: what went wrong, or what the reader must know.
        batch: images per step really measured.
        batch_halved_from: the batch asked for, if memory did not suffice for it.
        p50_ms, p90_ms, p99_ms: percentiles over all samples; None where there are too few samples for one
            (p90 needs 10, p99 needs 100). In the offline scenario a sample is the mean step of a block.
        ci_low_ms, ci_high_ms: distribution-free 95 % confidence interval of the median, from the medians of the
            rounds; None with fewer than 6 rounds.
        images_per_s: batch / p50.
        gmacs: multiply-accumulates of one image's forward pass, in 10⁹.
        gflop_per_s: achieved rate, 2 FLOPs per MAC; training counts three forward passes (PaLM, arXiv 2204.02311,
            appendix B).
        peak_memory_mib: CPU: high-water mark of the process above what it held before the model was built.
            CUDA: most memory allocated to tensors.
        peak_reserved_mib: CUDA: most memory held by PyTorch's allocator.
        forward_ms, backward_ms, optimizer_ms: medians of the three parts of a training step; the loss belongs to
            the forward part, the clearing of the gradients to the optimizer's.
        noise: ``quiet``, ``noisy``, ``drifting``, or ``unknown`` with too few rounds.
        spread: interquartile range / median of the samples.
        drift: (median of the last third) / (median of the first third) - 1, over rounds.
        samples: number of timed samples.
        round_medians_ms: median of each round, in order; rows of one block are paired by position.
        warmup_steps: untimed steps before the first round; ``warmup_stable``: whether two successive medians of five
            agreed within 2 % before the warm-up's share of the budget ended.
        output_error: relative L2 error of the output (training: of the gradients) against float32, eager, contiguous.
        block: name of the set of cases whose rounds were interleaved.
        load_average: 1-minute load of the machine at the end.
        fingerprint: the environment, see ``environment.collect``.
        started, finished: UTC, ISO 8601.
    """

    case: Case
    status: str
    message: str | None = None
    batch: int | None = None
    batch_halved_from: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    ci_low_ms: float | None = None
    ci_high_ms: float | None = None
    images_per_s: float | None = None
    gmacs: float | None = None
    gflop_per_s: float | None = None
    peak_memory_mib: float | None = None
    peak_reserved_mib: float | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    optimizer_ms: float | None = None
    noise: str | None = None
    spread: float | None = None
    drift: float | None = None
    samples: int = 0
    round_medians_ms: list[float] = field(default_factory=list)
    warmup_steps: int = 0
    warmup_stable: bool | None = None
    output_error: float | None = None
    block: str = ""
    load_average: float | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: str = ""

    @property
    def key(self) -> str:
        return self.case.key

    def to_json(self) -> str:
        """The row as one line of JSON, without the line break."""
        return json.dumps({"schema_version": SCHEMA_VERSION, "key": self.key, **asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: not JSON, not a row, or a row of another schema version.
        """
        record = json.loads(line)
        if not isinstance(record, dict) or "schema_version" not in record:
            raise ValueError("not a result row: schema_version is missing")
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"expected schema_version {SCHEMA_VERSION}, got {record['schema_version']}")
        known = {f.name for f in fields(cls)}
        unknown = set(record) - known - {"schema_version", "key"}
        if unknown or not isinstance(record.get("case"), dict) or record.get("status") not in STATUSES:
            raise ValueError(
                f"not a result row of schema_version {SCHEMA_VERSION}: {sorted(unknown) or 'case, status'}"
            )
        try:
            case = Case(**record["case"])
        except TypeError as error:
            raise ValueError(f"not a result row: {error}") from error
        return cls(**{name: value for name, value in record.items() if name in known} | {"case": case})


def _split(text: str) -> tuple[list[str], str]:
    """Complete lines, and the torn one at the end that a kill may have left."""
    *lines, tail = text.split("\n")
    if tail:
        try:
            json.loads(tail)
        except ValueError:
            return lines, tail
        lines.append(tail)
    return lines, ""


def read_rows(path: str | Path) -> tuple[list[Row], str]:
    """Reads a result file.

    Returns:
        The rows in file order, and the torn last line that a killed run left ("" if there is none).

    Raises:
        ValueError: a line is not a result row; the message names file and line.
    """
    path = Path(path)
    try:
        lines, torn = _split(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected JSON Lines of result rows, got something else: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(Row.from_json(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    beginning = '{"schema_version"'
    if torn and not torn.startswith(beginning[: len(torn)]):
        raise ValueError(f"{path}, line {len(lines) + 1}: expected a result row, got {torn[:40]!r}")
    return rows, torn


class ResultFile:
    """Append-only JSON Lines of rows; use :func:`open_results`."""

    def __init__(self, descriptor: int, path: Path, rows: list[Row], torn: str) -> None:
        self._descriptor = descriptor
        self.path = path
        self.rows = rows
        self.torn = torn

    def append(self, row: Row) -> None:
        """Writes one row through to the disk, in one piece."""
        line = memoryview((row.to_json() + "\n").encode())
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)
        self.rows.append(row)


@contextmanager
def open_results(path: str | Path) -> Iterator[ResultFile]:
    """Opens a result file for appending, reads what it holds, and cuts off a last line that a killed run left torn.

    Raises:
        OSError: the file cannot be written.
        ValueError: it is no regular file, holds something else than rows, or another run is writing to it.
    """
    path = Path(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path}: expected a regular file to append rows to")
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path}: another run is writing to this file; choose another --output") from None
        rows, torn = read_rows(path)
        size = os.fstat(descriptor).st_size
        if torn:
            os.ftruncate(descriptor, size - len(torn.encode()))
        elif size and not path.read_bytes().endswith(b"\n"):
            os.write(descriptor, b"\n")
        yield ResultFile(descriptor, path, rows, torn)
    finally:
        os.close(descriptor)
