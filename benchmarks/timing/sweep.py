"""Measures how long models take, how much memory, and how sure that is.

Every case runs in a child process of its own. Cases that answer the same question (same image, batch, mode, device)
form a block: their children live side by side and take turns, round by round, in an order drawn anew for each round,
so that a change in the machine's speed meets all of them alike and cannot reorder them.
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..counting.counter import count_flops
from ..sources import build_model, check_name, default_image_size
from . import environment
from .case import Case, ResultFile, Row, open_results, question
from .process import CaseRunner, Child
from .statistics import median_interval, noise_verdict, percentile, spread, thirds_drift

__all__ = ["Case", "Event", "Row", "run_sweep"]

MAX_TOGETHER = 8  # children alive at a time; each holds Python and torch (0.4 GB) besides its model
ROUNDS_PER_BUDGET = 16
MAX_ROUND_S = 0.5
BLOCKS_PER_OFFLINE_ROUND = 3
CONVERGED_HALF_WIDTH = 0.01
CONVERGED_ROUNDS = 12
CONVERGED_SAMPLES = 100  # single-stream: enough for a 99th percentile
TRAINING_FORWARD_PASSES = 3  # a backward pass costs two forward passes (PaLM, arXiv 2204.02311, appendix B)


@dataclass(frozen=True)
class Event:
    """Something a progress display wants to know.

    Attributes:
        kind: ``prepare`` (a case is being built), ``round`` (a case is being timed), ``row`` (a case is finished),
            ``resumed`` (a case was found finished in the file), ``note`` (something the user must be told).
        message: one line.
        fraction: share of the whole sweep that is done, 0 … 1.
        row: the finished row, for ``row`` and ``resumed``.
    """

    kind: str
    message: str
    fraction: float
    row: Row | None = None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Measurement:
    """One case on its way to a row.

    Args:
        case: what was asked for.
        batch: images per step to try; less than the case's after running out of memory.
        block: name shared by the measurements that take turns with it.
        runner: the process that holds the case.
    """

    def __init__(self, case: Case, batch: int, block: str, runner: CaseRunner) -> None:
        self.case = case
        self.batch = batch
        self.failure: dict[str, Any] | None = None
        self.elapsed_s = 0.0
        self._block = block
        self._runner = runner
        self._started = _now()
        self._ready: dict[str, Any] = {}
        self._memory: dict[str, float | None] = {}
        self._parts_ms: list[list[float]] = []  # per sample: forward, or forward, backward, optimizer
        self._rounds_ms: list[float] = []

    @property
    def rounds(self) -> int:
        return len(self._rounds_ms)

    def prepare(self, seed: int, warmup_s: float, timeout_s: float) -> None:
        """Has the model built, checked and warmed up; sets ``failure`` if that fails."""
        case = asdict(replace(self.case, batch=self.batch))
        reply = self._runner.ask({"do": "prepare", "case": case, "seed": seed, "warmup_s": warmup_s}, timeout_s)
        self._ready = reply
        self._note_failure(reply)

    def plan(self, budget_s: float) -> tuple[int, int]:
        """Samples per round and steps per sample, so that the budget holds about sixteen rounds."""
        steps_per_round = min(MAX_ROUND_S, budget_s / ROUNDS_PER_BUDGET) * 1e3 / self._ready["step_ms"]
        if self.case.scenario == "single-stream":
            return max(1, min(100, round(steps_per_round))), 1
        return BLOCKS_PER_OFFLINE_ROUND, max(1, round(steps_per_round / BLOCKS_PER_OFFLINE_ROUND))

    def round(self, budget_s: float, timeout_s: float) -> None:
        """Times one round; sets ``failure`` if that fails."""
        samples, steps = self.plan(budget_s)
        begin = time.monotonic()
        reply = self._runner.ask({"do": "round", "samples": samples, "steps": steps}, timeout_s)
        self.elapsed_s += time.monotonic() - begin
        self._note_failure(reply)
        if self.failure is None:
            self._parts_ms += reply["parts_ms"]
            self._rounds_ms.append(float(np.median([sum(parts) for parts in reply["parts_ms"]])))
            self._memory = {name: reply[name] for name in ("peak_memory_mib", "peak_reserved_mib")}

    def _note_failure(self, reply: dict[str, Any]) -> None:
        if reply["status"] != "ok":
            self.failure = reply

    @property
    def converged(self) -> bool:
        """Whether the 95 % interval of the median is within ±1 %, over enough rounds and samples."""
        if self.rounds < CONVERGED_ROUNDS:
            return False
        if self.case.scenario == "single-stream" and len(self._parts_ms) < CONVERGED_SAMPLES:
            return False
        interval = median_interval(self._rounds_ms)
        return interval is not None and interval.half_width <= CONVERGED_HALF_WIDTH

    def row(self, here: dict[str, Any], interrupted: bool = False) -> Row:
        """The result as it stands.

        Args:
            here: the parent's fingerprint, for a child that never told its own.
            interrupted: the sweep was cut short.
        """
        gmacs, uncounted = forward_gmacs(self.case.model, self.case.image_size)
        row = Row(
            case=self.case,
            status="interrupted" if interrupted else "ok",
            batch=self.batch,
            batch_halved_from=self.case.batch if self.batch != self.case.batch else None,
            gmacs=gmacs,
            block=self._block,
            load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            output_error=self._ready.get("output_error"),
            fingerprint=self._ready.get("fingerprint", here),
            started=self._started,
            finished=_now(),
        )
        remarks = [f"out of memory at batch {row.batch_halved_from}, measured at {self.batch}"] * bool(
            row.batch_halved_from
        )
        remarks += [f"GMACs not counted: {uncounted}"] * (uncounted is not None)
        row.message = "; ".join(remarks) or None
        if self.failure is not None:
            return replace(row, status=self.failure["status"], message=self.failure["message"])
        return replace(row, **self._figures(gmacs))

    def _figures(self, gmacs: float | None) -> dict[str, Any]:
        samples = [sum(parts) for parts in self._parts_ms]
        interval = median_interval(self._rounds_ms)
        drift = thirds_drift(self._rounds_ms)
        p50 = percentile(samples, 50)
        passes = TRAINING_FORWARD_PASSES if self.case.mode == "train" else 1
        figures = {
            "p50_ms": p50,
            "p90_ms": percentile(samples, 90),
            "p99_ms": percentile(samples, 99),
            "ci_low_ms": interval and interval.low,
            "ci_high_ms": interval and interval.high,
            "images_per_s": self.batch / p50 * 1e3,
            "gflop_per_s": None if gmacs is None else 2 * gmacs * passes * self.batch / p50 * 1e3,
            "noise": noise_verdict(samples, self._rounds_ms),
            "spread": spread(samples),
            "drift": drift and drift.value - 1,
            "samples": len(samples),
            "round_medians_ms": self._rounds_ms,
            "warmup_steps": self._ready["warmup_steps"],
            "warmup_stable": self._ready["warmup_stable"],
            **self._memory,
        }
        if self.case.mode == "train":
            names = ("forward_ms", "backward_ms", "optimizer_ms")
            figures |= dict(zip(names, np.median(self._parts_ms, axis=0).tolist(), strict=True))
        return figures


@functools.cache
def forward_gmacs(model: str, image_size: tuple[int, int]) -> tuple[float | None, str | None]:
    """Multiply-accumulates of one image's forward pass, in 10⁹, or None and why the analyzer cannot count the model.

    An operator without a formula need not keep a model from being timed: whether it takes the image its child says.
    """
    try:
        return count_flops(build_model(model, image_size, device="meta"), image_size).macs() / 1e9, None
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__


def _blocks(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases by question, in order of appearance, at most ``MAX_TOGETHER`` in one block."""
    groups: dict[tuple, list[Case]] = {}
    for case in cases:
        groups.setdefault(question(case), []).append(case)
    return [group[i : i + MAX_TOGETHER] for group in groups.values() for i in range(0, len(group), MAX_TOGETHER)]


def _filled_in(case: Case) -> Case:
    """The case with the defaults of its model and of this machine; ValueError for what cannot be measured here."""
    check_name(case.model)
    if case.device.startswith("cuda"):
        index = int(case.device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"device {case.device}: this PyTorch sees {torch.cuda.device_count()} CUDA devices; "
                "use --device cpu, or install a CUDA build of torch and its driver"
            )
    threads = len(environment.available_cores()) if case.threads is None else case.threads
    return replace(case, image_size=case.image_size or default_image_size(case.model), threads=threads)


class _Sweep:
    """The state of one call of :func:`run_sweep`."""

    def __init__(
        self,
        cases: list[Case],
        results: ResultFile | None,
        budget_s: float,
        timeout_s: float,
        seed: int,
        on_event: Callable[[Event], None],
        start: Callable[[Case], CaseRunner],
    ) -> None:
        self._cases = cases
        self._results = results
        self._budget_s = budget_s
        self._timeout_s = timeout_s
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._on_event = on_event
        self._start = start
        self._here = {device: environment.collect(device) for device in {case.device for case in cases}}
        self.rows: dict[str, Row] = {}

    def _tell(self, kind: str, message: str, row: Row | None = None, part: float = 0.0) -> None:
        self._on_event(Event(kind, message, min(1.0, (len(self.rows) + part) / len(self._cases)), row))

    def _environment(self, case: Case) -> dict[str, Any]:
        return self._here[case.device] | {"threads": case.threads, "source_hash": environment.source_hash(case.model)}

    def resume(self, retry_failed: bool) -> None:
        """Takes over rows that the file holds for these cases, this environment and this source."""
        if self._results is None:
            return
        if self._results.torn:
            self._tell("note", f"{self._results.path}: the last line was torn by a kill and has been cut off")
        settled = ("ok",) if retry_failed else ("ok", "oom", "error", "timeout")
        latest = {row.key: row for row in self._results.rows}
        for case in self._cases:
            row, here = latest.get(case.key), self._environment(case)
            if row is None or row.status not in settled or environment.differences(row.fingerprint, here):
                continue
            if row.fingerprint.get("source_hash") == here["source_hash"]:  # none in old rows: unknown code
                self.rows[case.key] = row
                self._tell("resumed", f"{case}: already measured on {row.finished}", row)

    def run(self) -> None:
        """Measures all that is left."""
        todo = deque([(case, case.batch) for case in block] for block in _blocks(self._left()))
        while todo:
            again = self._run_block(todo.popleft())
            todo.extendleft([retry] for retry in reversed(again))

    def _left(self) -> list[Case]:
        return [case for case in self._cases if case.key not in self.rows]

    def _run_block(self, members: list[tuple[Case, int]]) -> list[tuple[Case, int]]:
        """Measures cases side by side; returns those that ran out of memory, with the batch to try alone."""
        name = uuid.uuid4().hex[:8]
        runners: list[CaseRunner] = []
        measurements: list[Measurement] = []
        try:
            for case, batch in members:
                runners.append(self._start(case))
                measurements.append(Measurement(case, batch, name, runners[-1]))
            self._prepare(measurements)
            self._take_turns(measurements)
        except KeyboardInterrupt:
            for measurement in measurements:
                if measurement.rounds and measurement.failure is None:
                    self._finish(measurement, interrupted=True)
            raise
        finally:
            for runner in runners:
                runner.close()
        again = [retry for measurement in measurements if (retry := self._after_oom(measurement, len(members)))]
        retried = {case.key for case, _ in again}
        for measurement in measurements:
            if measurement.failure is None or measurement.case.key not in retried:
                self._finish(measurement)
        return again

    def _prepare(self, measurements: list[Measurement]) -> None:
        for measurement in measurements:  # while the children still import torch
            forward_gmacs(measurement.case.model, measurement.case.image_size)
        for number, measurement in enumerate(measurements):
            self._tell("prepare", str(replace(measurement.case, batch=measurement.batch)), part=0.2 * number)
            measurement.prepare(self._seed, self._budget_s / 2, self._timeout_s)

    def _take_turns(self, measurements: list[Measurement]) -> None:
        """Rounds in random order until all medians are known to 1 % or the budget of all is spent."""
        while alive := [m for m in measurements if m.failure is None]:
            for index in self._rng.permutation(len(alive)):
                alive[index].round(self._budget_s, self._timeout_s)
            spent = sum(m.elapsed_s for m in alive) / (self._budget_s * len(alive))
            part = len(measurements) * (0.2 + 0.8 * min(1.0, spent))
            self._tell("round", f"{alive[0].case}, round {alive[0].rounds}", part=part)
            if spent >= 1 or all(m.converged for m in alive):
                return

    def _after_oom(self, measurement: Measurement, together: int) -> tuple[Case, int] | None:
        """How to go on after memory ran out: alone, then with half the batch; None if there is no way, or no need."""
        if measurement.failure is None or measurement.failure["status"] != "oom":
            return None
        if together > 1:
            self._tell(
                "note", f"{measurement.case}: out of memory beside {together - 1} others, will be measured alone"
            )
            return measurement.case, measurement.batch
        if measurement.batch == 1:
            return None
        half = measurement.batch // 2
        self._tell("note", f"{measurement.case}: out of memory at batch {measurement.batch}, trying {half}")
        return measurement.case, half

    def _finish(self, measurement: Measurement, interrupted: bool = False) -> None:
        case = measurement.case
        row = measurement.row(self._environment(case), interrupted)
        if self._results is not None:
            self._results.append(row)
        self.rows[row.key] = row
        self._tell("row", f"{case}: {row.message or row.status}", row)


def run_sweep(
    cases: Sequence[Case],
    path: str | Path | None = None,
    *,
    budget_s: float = 20.0,
    timeout_s: float = 600.0,
    seed: int = 0,
    retry_failed: bool = False,
    on_event: Callable[[Event], None] | None = None,
    start: Callable[[Case], CaseRunner] = Child,
) -> list[Row]:
    """Measures cases, each in a child process; comparable ones side by side.

    Args:
        cases: what to measure. The first of each block is the one others are compared with.
        path: JSON Lines file to append rows to; cases it already holds for this environment and source are not
            measured again. None: keep nothing.
        budget_s: seconds of timed steps per case at most; the warm-up may take half as much again.
        timeout_s: seconds a child may take for one answer (building, compiling and checking is the longest).
        seed: of weights, inputs and the order of turns.
        retry_failed: measure cases anew whose row in the file is a failure.
        on_event: called with every :class:`Event`.
        start: makes the process that holds a case.

    Returns:
        One row per distinct case, in the order given. After memory ran out, ``row.batch`` is what was measured.

    Raises:
        ValueError: an unknown model or missing device, a budget that is not positive, a file that holds something
            else than rows; nothing has been measured then.
        OSError: the file cannot be written; nothing has been measured then.
        KeyboardInterrupt: as it came; the rows finished so far, and what was timed of the running ones
            (``interrupted``), are in the file and were told to ``on_event``.
    """
    if not budget_s > 0 or not timeout_s > 0:
        raise ValueError(f"budget and timeout: expected seconds above 0, got {budget_s:g} and {timeout_s:g}")
    distinct = list(dict.fromkeys(_filled_in(case) for case in cases))
    if not distinct:
        return []
    with nullcontext() if path is None else open_results(path) as results:
        sweep = _Sweep(distinct, results, budget_s, timeout_s, seed, on_event or (lambda event: None), start)
        sweep.resume(retry_failed)
        sweep.run()
    return [sweep.rows[case.key] for case in distinct]
