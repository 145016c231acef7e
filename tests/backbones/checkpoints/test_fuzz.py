"""A few hundred of the files of `fuzz.py`; CI need not run the twenty thousand whose log is checked in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_damaged_files_of_every_kind():
    fuzz = Path(__file__).with_name("fuzz.py")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", fuzz, "--count", "300", "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "wrong: 0"


def test_the_log_of_the_full_run_found_nothing():
    first, *_, last = (ROOT / "tests" / "data" / "fuzz_checkpoints.txt").read_text().splitlines()
    assert int(first.split()[0]) >= 5000
    assert last == "wrong: 0"
