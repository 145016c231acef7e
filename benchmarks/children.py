"""One child process per case: started, asked, and ended, whatever happens to either side."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Protocol

from .rows import Case

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def _worker(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "mixerzoo.benchmarks.worker", *arguments]


class CaseRunner(Protocol):
    """What a sweep needs of the process that holds a case."""

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Sends a request of ``worker``'s protocol; the answer's ``status`` is ok, oom, error or timeout."""

    def close(self) -> None:
        """Ends the process and all it started, at once."""


class Process(Protocol):
    """What a `Child` needs of a process; `subprocess.Popen` has it."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """The exit code, negative for a signal, once the process has ended."""

    def wait(self) -> int:
        """Waits for the end; the exit code."""


class Nursery:
    """A process that has imported torch and timm, which takes a core for seconds, and forks workers, which does not.

    It never computes, so no thread of a thread pool is missing in its forks.
    """

    _only: Nursery | None = None

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self.process = subprocess.Popen(
            _worker("--nursery", str(os.getpid())),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    @classmethod
    def running(cls) -> Nursery:
        """The nursery of this process, started at the first call."""
        if cls._only is None or cls._only.process.poll() is not None:
            cls._only = cls()
            atexit.register(cls._only.close)
        return cls._only

    def fork(self, streams: tuple[int, int, int]) -> int:
        """A worker with these stdin, stdout and stderr; its process id."""
        return self._ask({"do": "fork"}, streams)

    def wait(self, pid: int, block: bool) -> int | None:
        """Exit code of a worker that ended; ``None`` if it has not, unless ``block``."""
        return self._ask({"do": "wait", "pid": pid, "block": block})

    def _ask(self, request: dict[str, Any], streams: tuple[int, ...] = ()) -> Any:
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
            reply = self._socket.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            reply = b""
        if not reply:
            raise RuntimeError(f"the process that forks workers ended with exit code {self.process.wait()}")
        return json.loads(reply)

    def close(self) -> None:
        """Ends the nursery, and with it its workers."""
        self._socket.close()
        self.process.wait()


class Forked:
    """A worker forked by the `Nursery`, as a `Process`."""

    def __init__(self, stderr: IO[bytes]) -> None:
        self._nursery = Nursery.running()
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        try:
            self.pid = self._nursery.fork((read_in, write_out, stderr.fileno()))
        finally:
            os.close(read_in)
            os.close(write_out)
        self.stdin: IO[bytes] | None = open(write_in, "wb")  # noqa: SIM115  (`Child.close` closes both)
        self.stdout: IO[bytes] | None = open(read_out, "rb", buffering=0)  # noqa: SIM115
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._nursery.wait(self.pid, block=False)
        return self._code

    def wait(self) -> int:
        if self._code is None:
            self._code = self._nursery.wait(self.pid, block=True)
        return self._code


class Child:
    """A ``worker`` process in a session of its own, so that Ctrl-C reaches the parent alone.

    On CUDA it is started from nothing, as a driver must not be forked.

    Args:
        case: decides how the process starts; the case itself travels in the ``prepare`` request.
    """

    def __init__(self, case: Case) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process; close() ends both)
        self._buffer = b""
        self._process: Process
        if case.device == "cpu":
            self._process = Forked(self._stderr)
        else:
            threads = dict.fromkeys(THREAD_VARIABLES, str(case.threads)) if case.threads else {}
            self._process = subprocess.Popen(
                _worker(str(os.getpid())),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=os.environ | threads,
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
        for stream in (self._process.stdout, self._stderr):
            stream.close()
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.stdin = None  # what was still to be sent has no reader any more
