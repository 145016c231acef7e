"""One child process per case: started, asked, and ended, whatever happens to either side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
from contextlib import suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

from . import worker
from .case import Case


class CaseRunner(Protocol):
    """What a sweep needs of the process that holds a case."""

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Sends a request of ``worker``'s protocol; the answer's ``status`` is ok, oom, error or timeout."""

    def close(self) -> None:
        """Ends the process and all it started, at once."""


def context(device: str) -> BaseContext:
    """How a case's process starts.

    On a CPU it is forked from a server that has imported torch and timm, which takes a core for seconds, and never
    computes. A CUDA driver must not be forked, and where there are no Unix sockets there is no such server: there it
    starts from nothing.
    """
    can_serve = hasattr(socket, "AF_UNIX") and "forkserver" in multiprocessing.get_all_start_methods()
    if device != "cpu" or not can_serve:
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([f"{__package__}.workload"])
    return server


class Child:
    """A process of `worker.work` in a session of its own, so that Ctrl-C reaches the parent alone.

    Args:
        case: decides how the process starts; the case itself travels in the ``prepare`` request.
    """

    def __init__(self, case: Case) -> None:
        processes = context(case.device)
        descriptor, path = tempfile.mkstemp(prefix="mixerzoo-")
        os.close(descriptor)
        self._stderr = Path(path)
        # Two one-way pipes: a two-way one would be a pair of Unix sockets.
        asked, self._requests = processes.Pipe(duplex=False)
        self._answers, answered = processes.Pipe(duplex=False)
        arguments = asked, answered, path, case.threads
        self._process = processes.Process(target=worker.work, args=arguments, daemon=True)
        self._process.start()
        asked.close()
        answered.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Sends one request and waits for its answer, at most ``timeout_s`` seconds."""
        try:
            self._requests.send(request)
            if not self._answers.poll(timeout_s):
                return {"status": "timeout", "message": f"{request['do']}: no answer within {timeout_s:g} s"}
            return self._answers.recv()
        except (BrokenPipeError, ConnectionResetError, EOFError):
            return self._death()

    def _death(self) -> dict[str, Any]:
        """Why the process ended without an answer."""
        self._process.join()
        code = self._process.exitcode
        if code == -9:
            return {"status": "oom", "message": "killed by signal 9, as the kernel does when memory runs out"}
        last = self._stderr.read_text(errors="replace").strip().rpartition("\n")[2]
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        return {"status": "error", "message": f"the process ended with {how}" + (f": {last}" if last else "")}

    def close(self) -> None:
        """Kills the process and what it started (compiler workers), and reaps it."""
        if self._process.is_alive():
            with suppress(ProcessLookupError, AttributeError):  # no session of its own yet; none at all on Windows
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
        self._process.join()
        self._requests.close()
        self._answers.close()
        self._stderr.unlink(missing_ok=True)
