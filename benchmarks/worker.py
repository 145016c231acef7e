"""The child process that holds one case: ``python -m mixerzoo.benchmarks.worker [--nursery] PARENT_PID``.

It is told what to do over its pipes. Each line on stdin is a JSON object with ``do``: ``prepare`` (with ``case``,
``seed``, ``warmup_s``) or ``round`` (with ``samples``, ``steps``). Each is answered by one JSON line on stdout, with
``status`` ``ok``, ``oom`` or ``error``; after one that is not ``ok`` the process ends. It ends with its stdin, too.

With ``--nursery`` it holds no case but forks such workers: its stdin is a socket, over which `children.Nursery` asks.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

PR_SET_PDEATHSIG = 1  # prctl(2)
WARMUP_MIN_STEPS = 10


def tie_to_parent(parent: int) -> None:
    """Linux: makes the kernel kill this process with its parent, and rather than its parent when memory runs out."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    with contextlib.suppress(OSError):  # a container may mount /proc read-only; then the kernel goes by size alone
        Path("/proc/self/oom_score_adj").write_text("1000")


def private_stdout() -> TextIO:
    """Takes stdout for the answers alone; whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


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

        from . import fingerprint
        from .memory import PeakMemory
        from .rows import Case
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
            "fingerprint": fingerprint.collect(wanted.device),
        }

    def _warm_up(self, budget_s: float) -> tuple[list[float], bool]:
        """Runs steps until two successive medians of five agree within 2 %, or until the budget is spent."""
        from .significance import stable

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


def work() -> None:
    """Answers the requests on stdin."""
    answers = private_stdout()
    session = Session()
    for line in sys.stdin:
        reply = answer(session, json.loads(line))
        answers.write(json.dumps(reply) + "\n")
        if reply["status"] != "ok":
            return


def nurse(requests: socket.socket) -> None:
    """Forks workers and waits for them, until the other end of the socket is closed."""
    while True:
        request, streams, _, _ = socket.recv_fds(requests, 1 << 16, 3)
        if not request:
            return
        wanted = json.loads(request)
        if wanted["do"] == "wait":
            pid, status = os.waitpid(wanted["pid"], 0 if wanted["block"] else os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if pid else None
        else:
            reply = _fork_worker(requests, streams)
        for stream in streams:
            os.close(stream)
        requests.send(json.dumps(reply).encode())


def _fork_worker(requests: socket.socket, streams: list[int]) -> int:
    """Process id of a new worker, which has a session of its own by then."""
    nursery = os.getpid()
    waiting, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        tie_to_parent(nursery)
        requests.close()
        os.close(waiting)
        os.close(ready)
        _become_worker(streams)
    os.close(ready)
    os.read(waiting, 1)  # ends when the worker closes its copy
    os.close(waiting)
    return pid


def _become_worker(streams: list[int]) -> NoReturn:
    """Turns a fork of the nursery into a worker, which it stays until its end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # nothing of the nursery's own is to be ended here


def main() -> None:
    tie_to_parent(int(sys.argv[-1]))
    from . import workload  # noqa: F401  (seconds of imports, while the parent starts and asks the other children)

    if sys.argv[1] == "--nursery":
        nurse(socket.socket(fileno=0))
    else:
        work()


if __name__ == "__main__":
    main()
