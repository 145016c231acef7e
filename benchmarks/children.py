"""One child process per case: started, asked, and ended, whatever happens to either side."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Protocol

from .rows import Case

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Threads that wait at a barrier sleep instead of spinning. On a machine with neighbours a spinning thread holds the
# core that the last thread is waiting for: with two threads on two busy cores every step took 2 to 6 times as long.
WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE"}


class CaseRunner(Protocol):
    """What a sweep needs of the process that holds a case."""

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Sends a request of ``worker``'s protocol; the answer's ``status`` is ok, oom, error or timeout."""

    def close(self) -> None:
        """Ends the process and all it started, at once."""


class Child:
    """A ``worker`` process in a session of its own, so that Ctrl-C reaches the parent alone.

    Args:
        case: decides the number of threads; the case itself travels in the ``prepare`` request.
    """

    def __init__(self, case: Case) -> None:
        threads = dict.fromkeys(THREAD_VARIABLES, str(case.threads)) if case.threads else {}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process; close() ends both)
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mixerzoo.benchmarks.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=WAIT_POLICY | os.environ | threads,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Sends one request and waits for its answer, at most ``timeout_s`` seconds."""
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._death()
        end = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return {"status": "timeout", "message": f"{request['do']}: no answer within {timeout_s:g} s"}
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                return self._death()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _death(self) -> dict[str, Any]:
        """Why the process ended without an answer."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return {"status": "oom", "message": "killed by signal 9, as the kernel does when memory runs out"}
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        return {"status": "error", "message": f"the process ended with {how}" + (f": {last}" if last else "")}

    def close(self) -> None:
        """Kills the process and what it started (compiler workers), and reaps it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr, self._stderr):
            if stream is not None:
                stream.close()
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.stdin = None  # what was still to be sent has no reader any more
