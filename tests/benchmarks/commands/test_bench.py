"""``mixerzoo bench`` as a user meets it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from mixerzoo.benchmarks.report.tables import fitting_parts, for_terminal
from mixerzoo.benchmarks.report.timings import timing_table
from mixerzoo.benchmarks.timing import environment, process, sweep
from mixerzoo.benchmarks.timing.case import Case, Row, read_rows
from mixerzoo.tasks.cli import main
from rich.console import Console

A = Case("test_vit", (64, 64), threads=1)


@pytest.fixture
def no_child(monkeypatch):
    def start(*args, **kwargs):
        raise AssertionError("a child was started")

    monkeypatch.setattr(process, "Child", start)
    monkeypatch.setattr(sweep, "Child", start)


def invoke(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_vitt"], "unknown model 'test_vitt'; did you mean test_vit"),
        (["test_vit", "--input", "0x0"], "input size: expected at least 1 pixel a side, got '0x0'"),
        (["test_vit", "--input", "big"], "input size: expected H or HxW in pixels"),
        (["test_vit", "--batch", "0"], "batch: expected at least 1 image, got 0"),
        (["test_vit", "--batch", "many"], "batch: expected a number of images, got 'many'"),
        (["test_vit", "--dtype", "float8"], "dtype: expected one of float32, bfloat16, float16, got 'float8'"),
        (["test_vit", "--threads", "0"], "threads: expected at least 1, got 0"),
        (["test_vit", "--device", "cuda:99"], "device cuda:99: this PyTorch sees"),
        (["test_vit", "--budget", "0"], "budget and timeout: expected seconds above 0"),
        (["test_vit", "--output", "missing/folder/f.jsonl"], "No such file or directory: 'missing/folder/f.jsonl'"),
        (["test_vit", "--output", "."], "Is a directory"),
        ([], "expected either MODEL..., or --from FILE.jsonl, or --compare A.jsonl B.jsonl"),
        (["--compare", "missing.jsonl", "missing.jsonl"], "No such file or directory: 'missing.jsonl'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_measured(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("mixerzoo: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_lists_of_values_make_a_sweep(monkeypatch):
    asked = []
    monkeypatch.setattr(sweep, "run_sweep", lambda cases, *_, **options: asked.append((cases, options)) or [])
    result = invoke(
        *("test_vit", "test_resnet", "--input", "64,96x128", "--batch", "1", "--batch", "4"),
        *("--dtype", "float32,bfloat16", "--mode", "train", "--compile", "--channels-last", "--device", "cpu"),
        *(
            "--scenario",
            "offline",
            "--threads",
            "2",
            "--budget",
            "3",
            "--timeout",
            "7",
            "--seed",
            "5",
            "--retry-failed",
        ),
    )
    assert result.exit_code == 0, result.stderr
    ((cases, options),) = asked
    assert len(cases) == len(set(cases)) == 16
    assert cases[0] == Case("test_vit", (64, 64), 1, "float32", "train", True, True, "cpu", "offline", 2)
    assert cases[-1] == Case("test_resnet", (96, 128), 4, "bfloat16", "train", True, True, "cpu", "offline", 2)
    options.pop("on_event")
    assert options == {"budget_s": 3, "timeout_s": 7, "seed": 5, "retry_failed": True}


def rows() -> list[Row]:
    here = {"cpu": "a"}
    figures = {"batch": 1, "samples": 8, "noise": "quiet", "block": "x", "fingerprint": here, "gflop_per_s": 3.0}
    base = Row(A, "ok", p50_ms=10.0, round_medians_ms=[10.0] * 8, **figures)
    fast = Case("test_mambaout", (64, 64), threads=1, dtype="bfloat16")
    return [
        base,
        Row(
            fast,
            "ok",
            p50_ms=5.0,
            round_medians_ms=[5.0] * 8,
            forward_ms=1,
            backward_ms=2,
            optimizer_ms=2.25,
            **figures,
        ),
        Row(Case("test_resnet", (64, 64), threads=1), "error", message="it broke", fingerprint=here),
    ]


def test_a_run_ends_with_ratios_against_the_first_model_and_names_its_failures(monkeypatch):
    monkeypatch.setattr(sweep, "run_sweep", lambda *_, **__: rows())
    result = invoke("test_vit", "test_mambaout", "test_resnet")
    assert result.exit_code == 1
    assert result.stderr.endswith("mixerzoo: 1 of 3 cases failed: test_resnet 64x64 batch 1 float32 infer: it broke\n")
    timing, training, comparison = (result.stdout.index(t) for t in ("Timing", "Training step", "Time per image, as a"))
    assert timing < training < comparison
    assert "2.25" in result.stdout[training:comparison]
    (line,) = [line for line in result.stdout[comparison:].splitlines() if "test_mambaout" in line]
    for part in ("dtype=bfloat16", "test_vit dtype=float32", "0.500", "0.500–0.500", "faster", "8, taking turns"):
        assert part in line


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_narrow_terminal_gets_the_columns_in_groups(width):
    table, console = timing_table(rows()), Console(width=width, file=io.StringIO())
    parts = fitting_parts(table, console)
    assert [column for part in parts for column in part.columns[1:]] == table.columns[1:]
    assert all(part.columns[0] is table.columns[0] for part in parts)
    assert [parts[0].title, parts[-1].note] == [table.title, table.note]
    assert len(parts) == {60: 4, 80: 3, 120: 2, 200: 1}[width]
    for part in parts:
        part.note = ""  # flows over several lines
        console.print(for_terminal(part))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("test_mambaout" in line for line in lines) == len(parts)  # no row was broken


def test_two_files_are_compared(tmp_path):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    first, second, third = rows()
    before.write_text("".join(row.to_json() + "\n" for row in (first, second, third)))
    faster = [row / 2 for row in first.round_medians_ms]
    changed = [Row(A, "ok", batch=1, p50_ms=5.0, round_medians_ms=faster, fingerprint={"cpu": "a"}), third]
    after.write_text("".join(row.to_json() + "\n" for row in changed))
    result = invoke("--compare", before, after)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "test_vit" in line]
    for part in ("10.00", "5.00", "0.500", "faster"):
        assert part in line
    (line,) = [line for line in result.stdout.splitlines() if "test_resnet" in line]
    assert "no time in either" in line
    assert "Only in before.jsonl: test_mambaout" in result.stdout
    after.write_text(after.read_text().replace('"cpu": "a"', '"cpu": "b"'))
    refused = invoke("--compare", before, after)
    assert refused.exit_code == 1
    assert "cpu 'a' and 'b'" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert invoke("--compare", before, after, "--allow-different-machines").exit_code == 0


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    environment._code.cache_clear()  # the source may have been edited since this test run began
    here = environment.collect("cpu", "test_vit") | {"threads": 1}
    path.write_text(Row(A, "ok", batch=1, p50_ms=1.0, fingerprint=here).to_json() + "\n")
    command = [Path(sys.executable).with_name("mixerzoo"), "bench", "test_vit", "--input", "64", "--batch", "1,2"]
    command += ["--device", "cpu", "--threads", "1", "--budget", "600", "--output", path]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # What a shell has started in the background ignores SIGINT, and so do its children: not this one.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes, preexec_fn=heed) as process:
        told = []
        while not (told and told[-1].startswith("timing")):
            told.append(process.stderr.readline())
            assert told[-1], told
        offspring = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert told[0] == f"{A}: already measured on \n"
    *rest, last = err.splitlines()
    assert not any("Traceback" in line for line in rest)
    assert last == f"mixerzoo: interrupted; 2 of 2 rows are in {path}; the same command goes on from there"
    assert offspring
    assert psutil.wait_procs(offspring, timeout=10)[1] == []  # the server that forked them ends with the command
    finished, interrupted = read_rows(path)[0]
    assert finished.case == A
    assert (interrupted.case.batch, interrupted.status) == (2, "interrupted")
    assert interrupted.samples > 0
    assert json.loads(path.read_text().splitlines()[1])["p50_ms"] > 0
