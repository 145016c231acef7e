"""The child process that holds one case and does what it is asked over a pipe.

A request is a dict with ``do``: ``prepare`` (with ``case``, ``seed``, ``warmup_s``) or ``round`` (with ``samples``,
``steps``). The answer is a dict with ``status`` ``ok``, ``oom`` or ``error``; after one that is not ``ok`` the process
ends. It ends with its parent, too.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WARMUP_MIN_STEPS = 10


class OutputMismatch(Exception):
    """The case computes something else than its reference; its time would mean nothing."""

    def __init__(self, error: float, tolerance: float) -> None:
        found = f"relative error {error:.3g}" if math.isfinite(error) else "values that are not finite"
        super().__init__(
            f"output check failed: {found} against float32, eager, contiguous; expected at most {tolerance:g}"
        )
        self.error = error if math.isfinite(error) else None


class Session:
    """One case, prepared once and timed in rounds."""

    def prepare(self, case: dict[str, Any], seed: int, warmup_s: float) -> dict[str, Any]:
        """Builds the case, checks its output, warms up.

        Raises:
            OutputMismatch: the output is not the reference's.
        """
        import torch

        from . import environment
        from .case import Case
        from .memory import PeakMemory
        from .workload import Workload

        wanted = Case(**case)
        torch.set_num_threads(wanted.threads or torch.get_num_threads())
        if wanted.device.startswith("cuda"):
            torch.cuda.set_device(wanted.device if ":" in wanted.device else 0)
        self._memory = PeakMemory(torch.device(wanted.device))
        self._workload = Workload(wanted, seed)
        reference = self._workload.reference()
        self._workload.configure()
        error, tolerance = self._workload.check(reference)
        if not error <= tolerance:
            raise OutputMismatch(error, tolerance)
        del reference
        self._memory.restart()
        samples, stable = self._warm_up(warmup_s)
        return {
            "output_error": error,
            "warmup_steps": len(samples),
            "warmup_stable": stable,
            "step_ms": sorted(samples[-5:])[len(samples[-5:]) // 2],
            "fingerprint": environment.collect(wanted.device, wanted.model),
        }

    def _warm_up(self, budget_s: float) -> tuple[list[float], bool]:
        """Runs steps until two successive medians of five agree within 2 %, or until the budget is spent."""
        from .statistics import stable

        samples: list[float] = []
        end = time.monotonic() + budget_s
        while len(samples) < 2 or time.monotonic() < end:
            samples.append(sum(self._workload.sample_ms()))
            if len(samples) >= WARMUP_MIN_STEPS and stable(samples):
                return samples, True
        return samples, False

    def round(self, samples: int, steps: int) -> dict[str, Any]:
        """Times ``samples`` blocks of ``steps`` steps, after one untimed step that brings the caches back."""
        self._workload.sample_ms()
        parts = [self._workload.sample_ms(steps) for _ in range(samples)]
        return {"parts_ms": parts, **self._memory.read_mib()}


def answer(session: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Carries out one request; whatever goes wrong becomes part of the answer."""
    commands: dict[str, Callable[..., dict[str, Any]]] = {"prepare": session.prepare, "round": session.round}
    try:
        return {"status": "ok", **commands[request.pop("do")](**request)}
    except Exception as error:
        from .memory import is_out_of_memory

        message = " ".join(str(error).split()) or type(error).__name__
        if is_out_of_memory(error):
            return {"status": "oom", "message": message}
        if isinstance(error, OutputMismatch):
            return {"status": "error", "message": message, "output_error": error.error}
        return {
            "status": "error",
            "message": message if isinstance(error, ValueError) else f"{type(error).__name__}: {message}",
        }


def work(requests: Connection, answers: Connection, stderr: str, threads: int | None) -> None:
    """Answers requests until one fails or the other end is closed.

    Args:
        requests: where they come from.
        answers: where the answers go.
        stderr: file for whatever libraries print.
        threads: CPU threads, for pools that read their size from the environment when they are loaded.
    """
    _live_alone(stderr)
    if threads:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    from . import workload  # noqa: F401  (seconds of imports, while the parent starts and asks the other children)

    session = Session()
    with contextlib.suppress(EOFError):
        while True:
            reply = answer(session, requests.recv())
            answers.send(reply)
            if reply["status"] != "ok":
                return


def _live_alone(stderr: str) -> None:
    """A session of its own, output to a file, and an end with the parent, whatever this process is doing then."""
    printed = os.open(stderr, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(printed, stream)
    os.close(printed)
    if hasattr(os, "setsid"):
        os.setsid()
    with contextlib.suppress(OSError):  # Linux: to be killed rather than the parent when memory runs out
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
