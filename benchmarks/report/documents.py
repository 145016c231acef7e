"""The tables in README.md and docs/, written from records: ``python -m mixerzoo.benchmarks.report.documents``.

A page holds a pair of marks around each table::

    <!-- table: timings growth_amd_epyc.jsonl -->
    <!-- end of table -->

What stands between them is replaced. ``--check`` changes nothing and fails where a page differs from its records;
``--changed`` lists the figures whose code is no longer the measured one.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import timm

from ...backbones.checkpoints import write_atomically
from ...backbones.ops import selective_scan, ssd
from ..counting.counter import count_flops
from ..counting.criterion import Analyzer
from ..sources import build_model, pretrained_cfg
from ..timing.case import Row, read_rows
from ..timing.environment import source_hash
from ..timing.ratios import ratios
from .scaling import time_tables
from .tables import Column, Table, markdown, size_text, three_digits
from .timings import ratio_table

PUBLISHED = json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))
MARKS = re.compile(r"(<!-- table: (\w+) (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
PAGES = ("README.md", "docs/*.md")
RESULTS = Path("benchmarks/results")
OLD = "not measured on today's code"

# The prefixes of the zoo's families in timm's registry.
FAMILIES = {
    "mambaout": r"mambaout_\w+_gatedcnn",
    "controlled": r"mambaout_tiny_(?!gatedcnn)\w+",
    "vim": r"vim_\w+",
    "vmamba": r"vmamba_(tiny|small|base)_\w+",
    "vit": r"vit_\w+_causal",
    "dpt": r"(dpt|depth_anything)_\w+",
}


def _markdown(table: Table) -> str:
    """The table as GitHub draws it, without its title."""
    return markdown(table).partition("\n\n")[2]


def zoo(family: str, root: Path) -> str:
    """A family's models: parameters and GMACs counted now, published accuracy, and where its weights are."""
    del root  # from the registry and the published figures alone
    about = PUBLISHED["families"][family]
    names = [name for name in timm.list_models() if re.fullmatch(FAMILIES[family], name)]
    columns = [Column("model", text=True), Column("parameters", "M"), Column("input", "px"), Column("GMACs")]
    columns += [Column(head, text=True) for head in ("published", "source", "weights")]
    table = Table(about["title"], columns)
    for name in names:
        table.add(name, *_counted(name), *_published(name), _weights(name))
    table.note = f"Paper: {about['paper']}. Licence: {about['licence']}. {about['notes']}"
    return _markdown(table)


def _counted(name: str) -> tuple[str, str, str]:
    cfg = pretrained_cfg(name)
    size = tuple(cfg.input_size[1:])
    net = build_model(name, size, device="meta")
    parameters = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    return f"{parameters:.2f}", "×".join(map(str, size)), three_digits(count_flops(net, size).macs() / 1e9)


def _published(name: str) -> tuple[str, str]:
    results = [result for result in PUBLISHED["results"] if result["model"] == name and result["recipe"] is None]
    if not results:
        return "–", "–"
    figures = (f"{value} {metric}" for result in results for metric, value in result["metrics"].items())
    return ", ".join(figures), results[0]["source"]


def _weights(name: str) -> str:
    cfg = pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        return "none published"
    return f"`{cfg.hf_hub_id}`" if cfg.hf_hub_id else re.sub(r"^https://(.*)/[^/]*$", r"\1", cfg.url)


def criterion(models: str, root: Path) -> str:
    """ρ of some models at two image sizes, and the side of the square image where it reaches 1."""
    del root
    sizes = ((224, 224), (800, 1280))
    heads = [f"{what} at {size_text(size)}" for size in sizes for what in ("L/6D", "ρ")]
    table = Table("Criterion", [Column("model", text=True), *map(Column, heads), Column("ρ = 1 at", "px a side")])
    for model in models.split(","):
        analyzer = Analyzer(model)
        records = [analyzer.at(size) for size in sizes]
        figures = [value for record in records for value in (record.formula, record.rho)]
        side = records[0].crossover_side
        table.add(model, *map(three_digits, figures), f"{side:,.0f}" if side else "never")
    table.note = "L/6D is the paper's ratio at the stage of stride 16; ρ is what was counted, over the whole network."
    return _markdown(table)


def dense(task: str, root: Path) -> str:
    """Published detectors or segmentors, by backbone."""
    del root
    results = [result for result in PUBLISHED["results"] if result["task"] == task and result["recipe"]]
    metrics = list(dict.fromkeys(metric for result in results for metric in result["metrics"]))
    columns = [Column("backbone", text=True), Column("recipe", text=True), Column("parameters", "M"), Column("GMACs")]
    table = Table(task, [*columns, *map(Column, metrics), Column("source", text=True)])
    for result in results:
        cost = (str(result.get(key) or "–") for key in ("params_m", "gmacs"))
        figures = (str(result["metrics"].get(metric, "–")) for metric in metrics)
        source = "; ".join(filter(None, (result["source"], result.get("notes"))))
        table.add(result["model"], result["recipe"], *cost, *figures, source)
    return _markdown(table)


def growth(name: str, root: Path) -> str:
    """Milliseconds per image at every size of a result file."""
    rows, _ = read_rows(root / RESULTS / name)
    tables = "\n".join(map(_markdown, time_tables(rows)))
    return f"{tables}\n{_provenance_of_rows(name, rows)}"


def _provenance_of_rows(name: str, rows: list[Row]) -> str:
    today = {model: source_hash(model) for model in {row.case.model for row in rows}}
    return provenance(name, [row.fingerprint for row in rows], [today[row.case.model] for row in rows])


def timings(name: str, root: Path) -> str:
    """Ratios of time per image in a result file."""
    rows, _ = read_rows(root / RESULTS / name)
    return f"{_markdown(ratio_table(ratios(rows)))}\n{_provenance_of_rows(name, rows)}"


def scan(name: str, root: Path) -> str:
    """The scan on a CPU against other people's implementations, as ratios of medians."""
    record = json.loads((root / RESULTS / name).read_text(encoding="utf-8"))
    columns = [Column(head, text=True) for head in ("scan", "shape (B, D, L, N)", "pass")]
    columns += map(Column, ("ms", "mamba-ssm's reference takes", "mambapy's pscan takes"))
    table = Table("Scan", columns)
    for case in record["devices"]["cpu"]["cases"]:
        if case["shape"]["suite"] != "selective_scan":
            continue
        (ours,) = (row for row in case["results"] if row["name"] == "cpu")
        shape = ", ".join(str(case["shape"][key]) for key in ("batch", "channels", "length", "states"))
        found = (ours["speedups"].get(peer) for peer in ("selective_scan_ref", "mambapy pscan"))
        # A peer that was measured once has no interval; its ratio is not shown.
        times = (f"{ratio[0]:.0f}×" if ratio and ratio[1] < ratio[2] else "–" for ratio in found)
        table.add(case["shape"]["model"], f"({shape})", case["mode"], f"{ours['ms']:.2f}", *times)
    return f"{_markdown(table)}\n{provenance(name, [record['fingerprint']], [source_hash(selective_scan, ssd)])}"


def dpt(name: str, root: Path) -> str:
    """Our DPT against transformers', as the ratio of times with its interval."""
    record = json.loads((root / RESULTS / name).read_text(encoding="utf-8"))
    heads = ("time, ours over theirs", "95 % interval", "peak memory, ours (MB)", "theirs (MB)")
    table = Table("DPT", [Column("model", text=True), *map(Column, heads)])
    for result in record["results"]:
        memory = (f"{result[side]['peak_mb']:,.0f}" for side in ("ours_memory", "theirs_memory"))
        interval = f"{result['low']:.3f}–{result['high']:.3f}"
        table.add(result["model"], f"{result['ratio']:.3f}", interval, *memory)
    today = source_hash(*(result["model"] for result in record["results"])) if "fingerprint" in record else None
    return f"{_markdown(table)}\n{provenance(name, [record.get('fingerprint', record)], today and [today])}"


def training(name: str, root: Path) -> str:
    """Every seed's metric of each network that an experiment trained. No row is ranked: see the page's words."""
    record = json.loads((root / RESULTS / name).read_text(encoding="utf-8"))
    label = record["headline"]["label"]
    digits = 1 if "%" in label else 3
    heads = (f"{label}, each seed", "sd", "parameters (M)", "MMACs")
    table = Table("Training", [Column("network", text=True), *map(Column, heads)])
    for entry in record["entries"]:
        values = ", ".join(f"{value:.{digits}f}" for value in entry["values"])
        sd = f"{statistics.stdev(entry['values']):.{digits}f}" if len(entry["values"]) > 1 else "–"
        table.add(entry["name"], values, sd, f"{entry['parameters'] / 1e6:.2f}", f"{entry['macs'] / 1e6:.1f}")
    return f"{_markdown(table)}\n{provenance(name, [record])}"


def provenance(name: str, fingerprints: list[dict[str, Any]], current: list[str] | None = None) -> str:
    """One line: the file, the machine, the measured commit, and whether that code is still today's.

    Args:
        name: the result file.
        fingerprints: of its records.
        current: `source_hash` of what each record measured, as it is today; ``None`` where records have none.
    """
    machines = ", ".join(dict.fromkeys(map(_machine, fingerprints)))
    commits = dict.fromkeys(fingerprint.get("commit") for fingerprint in fingerprints)
    if None in commits:
        words = f"{OLD}: the record does not name its commit"
    elif [fingerprint.get("source_hash") for fingerprint in fingerprints] == current:
        words = f"code of {', '.join(commit[:7] for commit in commits)}, unchanged since"
    else:
        words = f"{OLD}: code of {', '.join(commit[:7] for commit in commits)}"
    return f"From `{RESULTS / name}`. {machines}; {words}.\n"


def _machine(fingerprint: dict[str, Any]) -> str:
    cpu = fingerprint.get("gpu") or fingerprint.get("cpu") or fingerprint.get("machine") or "The machine is not named"
    threads = fingerprint.get("threads")
    return f"{cpu}, {threads} threads" if threads else str(cpu)


TABLES: dict[str, Callable[[str, Path], str]] = {
    "zoo": zoo,
    "dense": dense,
    "criterion": criterion,
    "growth": growth,
    "timings": timings,
    "scan": scan,
    "training": training,
    "dpt": dpt,
}


def render(text: str, root: Path) -> str:
    """A page's text with every marked table written anew.

    Raises:
        ValueError: a mark names no table there is.
    """

    def fill(match: re.Match[str]) -> str:
        before, kind, argument, after = match.groups()
        if kind not in TABLES:
            raise ValueError(f"table: expected one of {', '.join(TABLES)}, got {kind!r}")
        return before + TABLES[kind](argument, root) + after

    return MARKS.sub(fill, text)


def pages(root: Path) -> list[Path]:
    """The pages of a checkout."""
    return sorted(path for pattern in PAGES for path in root.glob(pattern))


def changed(root: Path) -> list[str]:
    """``PAGE: RESULT FILE`` of every table that shows a measurement of code that is no longer today's."""
    found = []
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        for table in MARKS.finditer(render(text, root)):
            if OLD in table[0]:
                found.append(f"{page.relative_to(root)}: {table[3]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the tables of README.md and docs/ from records.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page differs")
    parser.add_argument("--changed", action="store_true", help="list the figures whose code has changed since")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout; default: here")
    options = parser.parse_args()
    if not (options.root / RESULTS).is_dir():
        parser.error(f"expected a checkout with {RESULTS}, found none in {options.root.resolve()}")
    if options.changed:
        print("\n".join(changed(options.root)) or "every measured figure is of today's code")
        return 0
    stale = []
    for page in pages(options.root):
        text = page.read_text(encoding="utf-8")
        rendered = render(text, options.root)
        if rendered == text:
            continue
        stale.append(str(page))
        if not options.check:
            write_atomically(rendered, page)
    print("\n".join(f"{'differs' if options.check else 'written'}: {page}" for page in stale) or "nothing to write")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
