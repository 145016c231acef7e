"""Judges an experiment by the protocol: differences, verdicts, tables and pictures, from the records alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....backbones.checkpoints import write_atomically
from . import records, statistics
from .grid import Cell, Contrast, Grid, load_grid, protocol_digest

__all__ = ["Runs", "judge", "write_report"]


@dataclass(frozen=True)
class Runs:
    """Records of an experiment, by cell, mixer and seed; of a cell that was run again with twice the steps, those."""

    grid: Grid
    cells: dict[str, dict[str, dict[int, dict[str, Any]]]]
    doubled: frozenset[str]

    @classmethod
    def load(cls, grid: Grid, folder: Path) -> Runs:
        """Reads what is there.

        Raises:
            ValueError: a record that the protocol does not cover.
        """
        cells, doubled = {}, set()
        for name in grid.cells:
            twice = folder / grid.name / f"{name}-twice.jsonl"
            path = twice if twice.exists() else folder / grid.name / f"{name}.jsonl"
            if path == twice:
                doubled.add(name)
            found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
            for record in records.select(records.read([path]), grid):
                found[record["mixer"]][record["seed"]] = record
            cells[name] = dict(found)
        return cls(grid, cells, frozenset(doubled))

    def complete(self, cell: str, mixer: str) -> bool:
        """Whether every seed is there."""
        return set(self.cells[cell].get(mixer, {})) >= set(self.grid.seeds)

    def values(self, cell: str, mixer: str) -> np.ndarray:
        """The metric of all seeds in order; NaN for a run that diverged."""
        runs = self.cells[cell][mixer]
        return np.array([np.nan if runs[s]["value"] is None else runs[s]["value"] for s in self.grid.seeds])

    def void(self, cell: Cell, mixers: Sequence[str]) -> list[str]:
        """Why the cell says nothing about ``mixers``; empty if it does."""
        control = cell.control.mixers if cell.control else ()
        watched = dict.fromkeys((*mixers, *control))
        runs = self.cells[cell.name]
        sign = 1 if self.grid.higher_is_better else -1
        passed = []
        if cell.control:
            best = np.nanmax([sign * self.values(cell.name, mixer) for mixer in control], axis=0)
            passed = (best >= sign * cell.control.threshold).tolist()
        finite = {mixer: [runs[mixer][seed]["finite"] for seed in self.grid.seeds] for mixer in watched}
        # Of the controls, the one that is best on average must be at its end.
        ends = list(dict.fromkeys(mixers))
        if control:
            ends.append(max(control, key=lambda mixer: np.nanmean(sign * self.values(cell.name, mixer))))
        curves = {
            mixer: [runs[mixer][seed]["curve"] for seed in self.grid.seeds]
            for mixer in dict.fromkeys(ends)
            if all(finite[mixer])
        }
        all_finite = [ok for flags in finite.values() for ok in flags]
        return statistics.void_reasons(passed, all_finite, curves, self.grid.tolerance)

    def ready(self, contrast: Contrast) -> bool:
        """Whether all runs are there that a contrast and its controls need."""
        needed = [(cell, mixer) for _, cell, mixer in contrast.terms]
        for name in contrast.cells():
            control = self.grid.cell(name).control
            needed += [(name, mixer) for mixer in (control.mixers if control else ())]
        return all(self.complete(cell, mixer) for cell, mixer in needed)

    def differences(self, contrast: Contrast) -> np.ndarray:
        """Paired differences, positive where the first network is better."""
        sign = 1 if self.grid.higher_is_better else -1
        return sign * sum(term * self.values(cell, mixer) for term, cell, mixer in contrast.terms)

    def reasons(self, contrast: Contrast) -> list[str]:
        """Why the contrast's cells are void; empty if they are not."""
        return [
            f"{name}: {reason}"
            for name in contrast.cells()
            for reason in self.void(self.grid.cell(name), [m for _, cell, m in contrast.terms if cell == name])
        ]


@dataclass(frozen=True)
class Judgement:
    """A contrast, what was found and the word for it; ``difference`` is None while runs are missing or diverged."""

    contrast: Contrast
    kind: str
    difference: statistics.Difference | None
    reasons: Sequence[str]
    verdict: str


def judge(everything: dict[str, Runs], name: str) -> list[Judgement]:
    """Judges all contrasts of experiment ``name``; its primary ones within their family over several experiments."""
    own = everything[name]
    primary = [(runs, contrast) for runs in everything.values() for contrast in runs.grid.primary]
    judged = _judge_family("primary", primary)
    out = [judgement for (runs, _), judgement in zip(primary, judged, strict=True) if runs is own]
    for kind, contrasts in (("sanity", own.grid.sanity), ("secondary", own.grid.secondary)):
        for contrast in contrasts:  # each for itself: outside the family of tests
            out += _judge_family(kind, [(own, contrast)])
    return out


def _judge_family(kind: str, contrasts: Sequence[tuple[Runs, Contrast]]) -> list[Judgement]:
    values, reasons = {}, {}
    for number, (runs, contrast) in enumerate(contrasts):
        if runs.ready(contrast):
            reasons[number] = runs.reasons(contrast)
            differences = runs.differences(contrast)
            if np.isfinite(differences).all():
                values[number] = differences
    margins = [contrasts[number][0].grid.margin for number in values]
    found = dict(zip(values, statistics.compare(list(values.values()), margins, len(contrasts)), strict=True))
    out = []
    for number, (_, contrast) in enumerate(contrasts):
        difference, why = found.get(number), reasons.get(number)
        if why is None:
            word = "not run"
        elif why or difference is None:
            word = "void"
        elif kind == "secondary":
            word = {"0": "equivalent", "+": "better", "-": "worse", "?": "undecided"}[difference.outcome]
        elif kind == "sanity":
            word = "as expected" if difference.outcome == contrast.criterion else "not as expected"
        else:
            word = statistics.verdict(difference.outcome, contrast.criterion, contrast.rival)
        out.append(Judgement(contrast, kind, difference, why or [], word))
    return out


def write_report(grid: Grid, folder: Path, out: Path) -> dict[str, Any]:
    """Writes ``report.json``, ``report.md`` and the pictures into ``out``; returns the content of the first."""
    from .pictures import draw_all

    everything = {name: Runs.load(load_grid(name), folder) for name in grid.family}
    own = everything[grid.name]
    judgements = judge(everything, grid.name)
    content = {
        "experiment": grid.name,
        "title": grid.title,
        "protocol": protocol_digest(),
        "metric": grid.metric,
        "contrasts": [_judgement(judgement) for judgement in judgements],
        "networks": _networks(own),
        "negative_controls": _negative_controls(own),
        "doubled": sorted(own.doubled),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(json.dumps(content, indent=1), out / "report.json")
    write_atomically(_markdown(content), out / "report.md")
    pictures = draw_all(own, judgements, out)
    print(_markdown(content))
    print(f"{out}: report.json, report.md, {', '.join(pictures)}")
    return content


def _judgement(judgement: Judgement) -> dict[str, Any]:
    contrast, difference = judgement.contrast, judgement.difference
    found = {} if difference is None else {**asdict(difference), "outcome": difference.outcome}
    return {
        "name": contrast.name,
        "kind": judgement.kind,
        "label": contrast.label,
        "criterion": contrast.criterion,
        "rival": contrast.rival,
        "verdict": judgement.verdict,
        "void": list(judgement.reasons),
        **found,
    }


def _networks(runs: Runs) -> list[dict[str, Any]]:
    """A line per cell and mixer: what its finished runs reached and cost."""
    rows = []
    for cell, mixers in runs.cells.items():
        for mixer, by_seed in mixers.items():
            made = list(by_seed.values())
            values = [record["value"] for record in made if record["value"] is not None]
            rows.append(
                {
                    "cell": cell,
                    "mixer": mixer,
                    "seeds": len(made),
                    "mean": float(np.mean(values)) if values else None,
                    "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "lowest": min(values, default=None),
                    "highest": max(values, default=None),
                    "log2_steps_to_90": _steps_to_90(made),
                    "rate": made[0]["rate"],
                    "steps": made[0]["steps"],
                    "parameters": made[0]["parameters"],
                    "macs": made[0]["macs"],
                    "step_ms": float(np.median([record["step_ms"] for record in made])),
                    "cpu_s": float(np.mean([record["cpu_s"] for record in made])),
                }
            )
    return rows


def _steps_to_90(made: Sequence[dict[str, Any]]) -> float | None:
    """Mean log2 of the first step of the curve with 90 % accuracy, if all seeds reach it."""
    first = [next((step for step, value in record["curve"] if value >= 0.9), None) for record in made]
    return None if None in first else float(np.mean(np.log2(first)))


def _negative_controls(runs: Runs) -> list[dict[str, Any]]:
    """Accuracy that should be at chance: identity, and a scan beyond its convolution before the legend is seen."""
    from .train import data_sets

    rows = []
    for name, cell in runs.grid.cells.items():
        if cell.data["type"] != "legend":
            continue
        data, _ = data_sets(cell, 0)
        reach = 3 * cell.network["depth"]  # rows that 7×7 convolutions carry a label
        for mixer, by_seed in runs.cells[name].items():
            below = cell.data.get("legend") == "bottom" and mixer == "s6"
            if mixer != "identity" and not below:
                continue
            made = [record for record in by_seed.values() if record["finite"]]
            chosen = data.row_distances() > reach if below else data.row_distances() > 0
            means = [
                np.mean([v for v, use in zip(record["accuracy_by_row"], chosen, strict=True) if use and v is not None])
                for record in made
            ]
            if not means:
                continue
            rows.append(
                {
                    "cell": name,
                    "mixer": mixer,
                    "rows": int(chosen.sum()),
                    "accuracy": float(np.mean(means)),
                    "se": float(np.mean([record["accuracy_se"] for record in made])),
                    "chance": data.chance,
                }
            )
    return rows


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _markdown(content: dict[str, Any]) -> str:
    lines = [
        f"# {content['title']}",
        "",
        f"Protocol {content['protocol'][:12]}. Differences are positive where the first network is better.",
        "",
        "| | contrast | C | R | difference | 95 % interval | p (Holm) | equivalent, p | verdict |",
        "| --- | --- | --- | --- | ---: | --- | ---: | ---: | --- |",
    ]
    for row in content["contrasts"]:
        word = f"**{row['verdict']}**" if row["kind"] == "primary" else row["verdict"]
        if row["void"]:
            word += f" ({'; '.join(row['void'])})"
        figures = ["", "", "", ""]
        if "interval" in row:
            interval = row["interval"]
            figures = [
                f"{interval['mean']:+.4f}",
                f"{interval['low']:+.4f} … {interval['high']:+.4f}",
                f"{row['p_holm']:.4f}",
                f"{row['p_equivalence']:.4f}",
            ]
        cells = [row["name"], row["label"], row["criterion"], row["rival"], *figures, word]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"| cell | mixer | seeds | {content['metric']} | ± sd | lowest | highest | log2 steps to 90 % | rate "
        "| parameters | MMACs | ms/step | CPU s |",
        "| --- | --- |" + " ---: |" * 11,
    ]
    for row in content["networks"]:
        figures = [
            str(row["seeds"]),
            *(_number(row[key]) for key in ("mean", "sd", "lowest", "highest")),
            _number(row["log2_steps_to_90"], 1),
            f"{row['rate']:g}",
            f"{row['parameters']:,}",
            _number(row["macs"] / 1e6, 1),
            _number(row["step_ms"], 1),
            _number(row["cpu_s"], 0),
        ]
        lines.append("| " + " | ".join([row["cell"], row["mixer"], *figures]) + " |")
    if content["negative_controls"]:
        lines += [
            "",
            "| negative control | mixer | accuracy | SE by picture | chance |",
            "| --- | --- |" + " ---: |" * 3,
        ]
    for row in content["negative_controls"]:
        figures = [_number(row[key]) for key in ("accuracy", "se", "chance")]
        lines.append("| " + " | ".join([row["cell"], row["mixer"], *figures]) + " |")
    return "\n".join(lines) + "\n"
