"""Records of runs: one JSON line each, one file per cell, each with what it was made by.

A record is only worth something together with the protocol it was made under, so it carries the SHA-256 of
``docs/protocol.md``, the digest of its cell's settings, the commit, whether the tree was clean, and the machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....backbones.checkpoints import write_atomically
from .grid import PROTOCOL, ROOT, Cell, Grid, protocol_digest

__all__ = ["append", "provenance", "read", "select"]

RESULTS = ROOT / "benchmarks" / "results" / "experiments"


def provenance(cell: Cell) -> dict[str, Any]:
    """What a run is made by; see the module."""
    return {
        "protocol": protocol_digest(),
        "settings": cell.settings(),
        "commit": _git("rev-parse", "HEAD"),
        # Records are appended to the tree while the runs go on: they are no change of what is run.
        "clean": not _git("status", "--porcelain", "--", ".", f":(exclude){RESULTS.relative_to(ROOT)}"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(ROOT), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def append(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to a file, which other processes may do at the same time; a kill leaves the file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.parent / ".lock"
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = path.read_text() if path.exists() else ""
        write_atomically(before + json.dumps(record) + "\n", path)


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All records of the files that exist.

    Raises:
        ValueError: a line is no record.
    """
    records = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
            try:
                record = json.loads(line)
                record["cell"], record["mixer"], record["seed"], record["rate"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: not a record of a run ({error!r})") from error
            records.append(record)
    return records


def select(records: Iterable[dict[str, Any]], grid: Grid) -> list[dict[str, Any]]:
    """The records, if every one of them was made under this protocol, with these settings, from a clean tree.

    Raises:
        ValueError: one was not; the message says which and why.
    """
    digest, kept = protocol_digest(), []
    for record in records:
        name = f"{record['cell']}-{record['mixer']}, seed {record['seed']}"
        if record["protocol"] != digest:
            raise ValueError(
                f"{name}: made under another protocol ({record['protocol'][:12]}…; {PROTOCOL.name} is {digest[:12]}…): "
                "its result cannot be judged by this one"
            )
        if record["settings"] != grid.cell(record["cell"]).settings():
            raise ValueError(f"{name}: made with other settings than those of configs/experiments/{grid.name}.py")
        if not record["clean"]:
            raise ValueError(f"{name}: made from a tree with uncommitted changes; commit them and run it again")
        kept.append(record)
    return kept
