"""The child process and its protocol."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from mixerzoo.benchmarks.timing import worker
from mixerzoo.benchmarks.timing.case import Case
from mixerzoo.benchmarks.timing.process import Child, context

CASE = Case("test_vit", (64, 64), threads=1)
ROUND = {"do": "round", "samples": 1, "steps": 1}


@pytest.fixture
def child():
    process = Child(CASE)
    yield process
    process.close()


def gone(pid: int, within_s: float = 10) -> bool:
    end = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_killed_child_ran_out_of_memory(child):
    os.kill(child.pid, signal.SIGKILL)
    assert child.ask(ROUND, 10) == {
        "status": "oom",
        "message": "killed by signal 9, as the kernel does when memory runs out",
    }


def test_a_crashed_child_is_an_error(child):
    os.kill(child.pid, signal.SIGSEGV)
    reply = child.ask(ROUND, 10)
    assert reply["status"] == "error"
    assert reply["message"].startswith("the process ended with signal 11 (Segmentation fault)")


def test_a_silent_child_times_out_and_can_still_be_closed(child):
    os.kill(child.pid, signal.SIGSTOP)
    reply = child.ask(ROUND, 0.2)
    assert reply == {"status": "timeout", "message": "round: no answer within 0.2 s"}
    child.close()
    assert gone(child.pid)


def test_a_closed_child_can_be_closed_again(child):
    child.close()
    child.close()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_training_case_is_prepared_and_timed_in_parts():
    session = worker.Session()
    case = {
        "model": "test_vit",
        "image_size": [64, 64],
        "mode": "train",
        "batch": 2,
        "threads": torch.get_num_threads(),
    }
    ready = worker.answer(session, {"do": "prepare", "case": case, "seed": 0, "warmup_s": 0.1})
    assert ready["status"] == "ok"
    assert ready["output_error"] < 1e-5
    assert ready["step_ms"] > 0
    timed = worker.answer(session, {"do": "round", "samples": 3, "steps": 2})
    assert [len(parts) for parts in timed["parts_ms"]] == [3, 3, 3]
    assert timed["peak_memory_mib"] is not None
    json.dumps([ready, timed], allow_nan=False)


def prepared(child):
    case = {"model": "test_vit", "image_size": [64, 64], "threads": 1}
    assert child.ask({"do": "prepare", "case": case, "seed": 0, "warmup_s": 0.1}, 120)["status"] == "ok"


def test_a_child_lives_in_a_session_of_its_own_with_what_it_starts(child):
    prepared(child)
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
    child.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_children_are_forked_from_one_process_with_everything_imported(child):
    other = Child(CASE)
    server = psutil.Process(child.pid).parent()
    assert psutil.Process(other.pid).parent() == server
    assert server.pid != os.getpid()
    other.close()
    assert child.ask({"do": "sing"}, 10) == {"status": "error", "message": "KeyError: 'sing'"}
    assert child.ask(ROUND, 10)["message"] == "the process ended with exit code 0"  # after an answered failure


def test_a_child_on_a_gpu_starts_from_nothing_with_its_threads():
    assert context("cuda").get_start_method() == "spawn"
    child = Child(replace(CASE, device="cuda", threads=3))
    assert psutil.Process(child.pid).ppid() == os.getpid()
    case = {"model": "test_vit", "image_size": [64, 64], "device": "cuda:99"}
    reply = child.ask({"do": "prepare", "case": case, "seed": 0, "warmup_s": 0.1}, 120)
    assert reply["status"] == "error"
    assert reply["message"].startswith(("RuntimeError: ", "AssertionError: ", "AcceleratorError: "))
    child.close()


def test_a_fork_computes_with_its_threads_and_leaves_its_last_words(child):
    case = {"model": "test_vit", "image_size": [64, 64], "threads": 2}
    ready = child.ask({"do": "prepare", "case": case, "seed": 0, "warmup_s": 0.1}, 60)
    assert ready["status"] == "ok"
    assert ready["fingerprint"]["threads"] == 2
    assert child.ask(ROUND, 10)["status"] == "ok"
    child._requests.send_bytes(b"no pickle")
    assert child.ask(ROUND, 10)["message"].startswith("the process ended with exit code 1: _pickle.UnpicklingError")


def test_without_unix_sockets_a_child_starts_from_nothing(monkeypatch):
    """As on Windows; everything that a child needs works there."""
    monkeypatch.delattr(socket, "AF_UNIX")
    assert context("cpu").get_start_method() == "spawn"
    child = Child(CASE)
    prepared(child)
    assert child.ask(ROUND, 10)["status"] == "ok"
    child.close()
    assert gone(child.pid)


@pytest.mark.slow
def test_a_child_does_not_outlive_a_killed_parent():
    program = (
        "import sys; from mixerzoo.benchmarks.timing.process import Case, Child\n"
        "child = Child(Case('test_vit', (64, 64))); print(child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)


class FailingSession:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def prepare(self) -> dict:
        raise self.error

    round = prepare


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), {"status": "oom", "message": "MemoryError"}),
        (torch.OutOfMemoryError("CUDA out of\n memory"), {"status": "oom", "message": "CUDA out of memory"}),
        (RuntimeError("shapes differ"), {"status": "error", "message": "RuntimeError: shapes differ"}),
        (ValueError("model says no"), {"status": "error", "message": "model says no"}),
        (
            worker.OutputMismatch(0.5, 1e-3),
            {
                "status": "error",
                "message": "output check failed: relative error 0.5 against float32, eager, contiguous; "
                "expected at most 0.001",
                "output_error": 0.5,
            },
        ),
        (
            worker.OutputMismatch(float("inf"), 1e-3),
            {
                "status": "error",
                "message": "output check failed: values that are not finite against float32, eager, contiguous; "
                "expected at most 0.001",
                "output_error": None,
            },
        ),
    ],
)
def test_failures_become_answers(error, expected):
    reply = worker.answer(FailingSession(error), {"do": "prepare"})
    assert reply == expected
    json.dumps(reply, allow_nan=False)


def test_a_wrong_output_is_refused_before_anything_is_timed(monkeypatch):
    from mixerzoo.benchmarks.timing.workload import Workload

    monkeypatch.setattr(Workload, "check", lambda self, reference: (0.5, 1e-3))
    monkeypatch.setattr(Workload, "sample_ms", lambda self, steps=1: pytest.fail("timed in spite of a wrong output"))
    request = {"do": "prepare", "case": {"model": "test_vit", "image_size": [64, 64]}, "seed": 0, "warmup_s": 0.1}
    reply = worker.answer(worker.Session(), request)
    assert reply["status"] == "error"
    assert reply["output_error"] == 0.5


def test_an_image_too_small_for_the_stem_is_an_answer():
    request = {"do": "prepare", "case": {"model": "test_vit", "image_size": [8, 8]}, "seed": 0, "warmup_s": 0.1}
    assert worker.answer(worker.Session(), request) == {
        "status": "error",
        "message": "AssertionError: Input height (8) should be divisible by patch size (16).",
    }


def test_the_warm_up_ends_when_stable_or_when_its_time_is_up(monkeypatch):
    class Steps:
        def __init__(self, times_ms):
            self.times_ms, self.now = iter(times_ms), 0.0

        def sample_ms(self):
            step = next(self.times_ms)
            self.now += step / 1e3
            return [step]

    def warm_up(times_ms, budget_s):
        session = worker.Session()
        session._workload = steps = Steps(times_ms)
        monkeypatch.setattr(worker.time, "monotonic", lambda: steps.now)
        return session._warm_up(budget_s)

    assert warm_up([50.0] * 5 + [10.0] * 20, 10) == ([50.0] * 5 + [10.0] * 8, True)
    assert warm_up([50.0] * 100, 10) == ([50.0] * 10, True)
    halving = [1000.0 / 2**i for i in range(20)]
    samples, stable = warm_up(halving, 1.8)
    assert not stable
    assert samples == halving[:4]
    assert warm_up([5000.0] * 9, 1) == ([5000.0] * 2, False)  # two at least: the first says nothing
