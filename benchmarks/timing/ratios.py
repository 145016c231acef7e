"""Which of two measurements is faster, and how sure that is: within one run, and between two result files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .case import Row, question, read_rows
from .environment import differences
from .statistics import MIN_ROUNDS, Interval, paired_ratio, ratio_of_medians

SIGNIFICANCE = 0.05
MIN_CHANGE = 0.01  # two runs: medians are measured to ±1 %, so a smaller change is none


@dataclass(frozen=True)
class Ratio:
    """Time per image of ``row`` over that of ``base``; below 1, ``row`` is faster.

    Attributes:
        row, base: the measurements.
        interval: the ratio with its confidence interval.
        interleaved: whether their rounds took turns; if not, the machine's drift is part of the ratio.
        verdict: ``faster``, ``slower``, ``no difference shown``, ``too few rounds`` or ``machine drifted``.
    """

    row: Row
    base: Row
    interval: Interval
    interleaved: bool
    verdict: str


def _per_image(row: Row) -> list[float]:
    return [median / row.batch for median in row.round_medians_ms]


def ratio(row: Row, base: Row, level: float = 1 - SIGNIFICANCE, min_change: float = 0.0) -> Ratio:
    """Compares two measured rows.

    Rounds of one block are paired, which cancels the machine's drift; others are compared by the medians of both sets
    of rounds, and a row whose machine drifted decides nothing then.

    Args:
        row, base: rows that hold rounds.
        level: confidence level.
        min_change: relative difference below which nothing is claimed.
    """
    interleaved = bool(row.block) and row.block == base.block
    rounds = min(len(row.round_medians_ms), len(base.round_medians_ms))
    if interleaved:
        interval = paired_ratio(_per_image(row)[:rounds], _per_image(base)[:rounds], level)
    else:
        interval = ratio_of_medians(_per_image(row), _per_image(base), level)
    if rounds < MIN_ROUNDS:
        verdict = "too few rounds"
    elif not interleaved and "drifting" in (row.noise, base.noise):
        verdict = "machine drifted"
    elif interval.low <= 1 <= interval.high or abs(interval.value - 1) < min_change:
        verdict = "no difference shown"
    else:
        verdict = "faster" if interval.value < 1 else "slower"
    return Ratio(row, base, interval, interleaved, verdict)


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """Every measured row against the first measured one that answers the same question (image, batch, mode, device)."""
    first: dict[tuple, Row] = {}
    found = []
    for row in rows:
        if row.round_medians_ms:
            base = first.setdefault(question(row.case), row)
            if base is not row:
                found.append(ratio(row, base))
    return found


@dataclass(frozen=True)
class Change:
    """One configuration in two files.

    Attributes:
        before, after: the last row of either file.
        ratio: of the times, if both were measured.
        memory: ratio of the peak memories, if both were measured.
    """

    before: Row
    after: Row
    ratio: Ratio | None
    memory: float | None


@dataclass(frozen=True)
class Comparison:
    """Two result files, configuration by configuration."""

    changes: list[Change]
    only_before: list[Row]
    only_after: list[Row]


def _refuse_different_machines(pairs: Iterable[tuple[Row, Row]]) -> None:
    for before, after in pairs:
        fields: dict[str, tuple[Any, Any]] = differences(before.fingerprint, after.fingerprint)
        if fields:
            listed = ", ".join(f"{name} {old!r} and {new!r}" for name, (old, new) in fields.items())
            raise ValueError(
                f"{before.case}: measured in different environments ({listed}); "
                "to compare all the same: --allow-different-machines"
            )


def compare_files(before: str | Path, after: str | Path, allow_different_machines: bool = False) -> Comparison:
    """Compares two result files by configuration.

    The confidence level is raised with the number of configurations (Bonferroni), so that among many the chance of
    one false alarm stays at 5 %.

    Raises:
        ValueError: a file is no result file, nothing was measured in both, or the environments differ.
        OSError: a file cannot be read.
    """
    old, new = ({row.key: row for row in read_rows(path)[0]} for path in (before, after))
    common = [key for key in old if key in new]
    if not common:
        raise ValueError(f"{before} and {after} have no configuration in common: nothing to compare")
    pairs = [(old[key], new[key]) for key in common]
    if not allow_different_machines:
        _refuse_different_machines(pairs)
    level = 1 - SIGNIFICANCE / len(pairs)
    changes = []
    for was, now in pairs:
        timed = bool(was.round_medians_ms and now.round_medians_ms)
        memory = now.peak_memory_mib / was.peak_memory_mib if was.peak_memory_mib and now.peak_memory_mib else None
        changes.append(Change(was, now, ratio(now, was, level, MIN_CHANGE) if timed else None, memory))
    return Comparison(changes, [old[key] for key in old if key not in new], [new[key] for key in new if key not in old])
