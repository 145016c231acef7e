"""What models cost and how that grows: analysis records as tables, JSON, CSV or Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from ..counting.record import FLOP_CLASSES, AnalysisRecord, ModuleRecord, to_json
from .tables import Cell, Column, Table, markdown, print_tables, size_text, three_digits

FORMATS = ("json", "csv", "markdown")
STAGE_TABLES = 4  # with more records than this, the terminal shows no stages


def render(records: Sequence[AnalysisRecord], form: str | None) -> str:
    """The records in one of `FORMATS`, or as a terminal shows them."""
    if form == "json":
        return to_json(records) + "\n"
    if form == "csv":
        return to_csv(records)
    if form == "markdown":
        return to_markdown(records)
    text = io.StringIO()
    print_tables(for_console(records), text)
    return text.getvalue()


def for_console(records: Sequence[AnalysisRecord]) -> list[Table | RenderableType]:
    """For `print_tables`: the networks, their stages, what is and is not counted."""
    parts: list[Table | RenderableType] = [summary_table(records)]
    if len(records) <= STAGE_TABLES:
        parts += [stage_table(record) for record in records]
    else:
        parts.append(Text(f"Stages: with at most {STAGE_TABLES} models and sizes, or --json, --csv, --markdown.\n"))
    parts += [Text(line) for line in verdict_lines(records)]
    parts += [Text(line, style="dim") for line in uncounted_lines(records)]
    if any(record.trust for record in records):
        parts.append(trust_table(records))
    return parts + [module_tree(record) for record in records if record.modules]


def conditions(records: Sequence[AnalysisRecord]) -> str:
    """What every figure depends on, in a sentence."""
    record = records[0]
    causal = sorted({r.model for r in records if r.causal})
    pairs = "the pairs that exist" if record.convention == "exact" else "all pairs"
    attention = f"{', '.join(causal)}, counting {pairs}" if causal else "none"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        "ρ: FLOPs that grow with the square of the pixels over all others. px^: exponent of the FLOPs in the number of "
        "pixels. tokens/16: tokens of 16×16 pixels. "
        f"One forward pass of one image; convention {record.convention}, 1 MAC = 2 FLOPs. "
        f"Attention path: {record.attention_path}. Causal attention: {attention}. {versions}."
    )


def summary_table(records: Sequence[AnalysisRecord]) -> Table:
    """One line per network and image size."""
    kinds = [kind for kind in FLOP_CLASSES if any(record.flops_by_class[kind] for record in records)]
    columns = [
        Column("model", text=True),
        Column("input", "H×W px"),
        Column("params", "10⁶"),
        Column("cost", "GFLOPs"),
        Column("cost", "GMACs"),
        *(Column("act×act" if kind == "attention" else kind, "% FLOPs") for kind in kinds),
        Column("ρ", "quadr./rest"),
        Column("L/6D", "formula"),
        Column("grows", "px^"),
        Column("ρ = 1", "px a side"),
        Column("ρ = 1", "tokens/16"),
    ]
    table = Table("Cost and criterion", columns, note=conditions(records))
    for record in records:
        table.add(
            record.model,
            _sizes(record),
            f"{record.params / 1e6:.2f}",
            three_digits(record.flops / 1e9),
            three_digits(record.macs / 1e9),
            *(f"{100 * record.flops_by_class[kind] / max(record.flops, 1):.1f}" for kind in kinds),
            Cell("–" if record.rho is None else three_digits(record.rho), record.length_class, record.length_class),
            "–" if record.formula is None else three_digits(record.formula),
            "–" if record.exponent is None else f"{record.exponent:.2f}",
            f"{record.crossover_side:,.0f}" if record.crossover_side else record.length_class,
            f"{record.crossover_tokens:,.0f}" if record.crossover_tokens else "–",
        )
    return table


def stage_table(record: AnalysisRecord) -> Table:
    """Where the tokens are: one line per stage."""
    columns = [
        Column("stage", text=True),
        Column("stride", "pixels"),
        Column("grid", "tokens"),
        Column("L"),
        Column("D"),
        Column("mixer", text=True),
        Column("6D"),
        Column("L/6D"),
        Column("ρ", "measured"),
        Column("act×act", "over rest"),
        Column("exponent", "in pixels"),
        Column("cost", "GMACs"),
        Column("activations", "MB"),
        Column("intensity", "FLOP/byte"),
    ]
    table = Table(f"{record.model} at {size_text(record.image_size)}", columns)
    for stage in record.stages:
        prefix = f" + {stage.prefix_tokens}" if stage.prefix_tokens else ""
        table.add(
            stage.name,
            _figure(stage.stride, "g"),
            size_text(stage.grid) if stage.grid else "–",
            f"{stage.tokens:,}{prefix}" if stage.tokens else "–",
            _figure(stage.dim, ",d"),
            stage.mixer,
            _figure(stage.six_d, ",d"),
            "–" if stage.formula is None else three_digits(stage.formula),
            "–" if stage.rho is None else three_digits(stage.rho),
            three_digits(stage.attention_ratio),
            _figure(stage.exponent, ".2f"),
            three_digits(stage.macs / 1e9),
            three_digits(stage.activation_mb),
            three_digits(stage.intensity),
        )
    return table


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _sizes(record: AnalysisRecord) -> str:
    asked = size_text(record.image_size)
    return asked if record.counted_size == record.image_size else f"{asked} (as {size_text(record.counted_size)})"


def verdict_lines(records: Sequence[AnalysisRecord]) -> list[str]:
    """One sentence per network and size, and what rounding did to the figures."""
    lines = []
    for record in records:
        task = f"{record.task} " if record.task else ""
        lines.append(f"{record.model}, {task}{size_text(record.image_size)}: {record.verdict}.")
        if record.counted_size != record.image_size:
            lines.append(f"  counted at {size_text(record.counted_size)}, the next size that the architecture takes.")
        if record.rounding is not None and abs(record.rounding) >= 0.001:
            lines.append(
                f"  rounding and padding (windows, odd maps) make it {record.rounding:+.1%} of what the fit over "
                f"{', '.join(map(str, record.growth.sides))} px gives; ρ is of the counted FLOPs."
            )
    return lines


def uncounted_lines(records: Sequence[AnalysisRecord]) -> list[str]:
    """The operators of each network that no FLOPs are counted for."""
    lines = []
    for record in records:
        ops = [f"{u.op.removeprefix('aten.')} {u.calls}× {u.elements:,}" for u in record.uncounted]
        lines.append(
            f"Not counted in {record.model} at {size_text(record.counted_size)} (operator, calls, elements): "
            f"{'; '.join(ops) or 'nothing'}."
        )
    return lines


def trust_table(records: Sequence[AnalysisRecord]) -> Table:
    """The same networks through other counters."""
    columns = [
        Column("model", text=True),
        Column("input", "H×W px"),
        Column("counter", text=True),
        Column("cost", "GMACs"),
        Column("against ours"),
        Column("leaves out", text=True, wrap=True),
        Column("note", text=True, wrap=True),
    ]
    table = Table("Trust", columns)
    for record in records:
        size = size_text(record.counted_size)
        table.add(record.model, size, f"ours, convention {record.convention}", f"{record.macs / 1e9:.6f}", "", "", "")
        for other in record.trust:
            table.add(
                record.model,
                size,
                other.counter,
                "–" if other.macs is None else f"{other.macs / 1e9:.6f}",
                "–" if other.delta is None else f"{other.delta:+.2%}",
                ", ".join(f"{op} {calls}×" for op, calls in other.misses.items()),
                other.note,
            )
    return table


def module_tree(record: AnalysisRecord) -> Tree:
    """Every module that does arithmetic, with all inside it: its cost, its share, its exponent."""
    nodes: dict[str, Tree] = {}
    for module in record.modules:
        label = _module_label(module, record)
        parent = nodes.get(module.path.rpartition(".")[0]) if module.path else None
        nodes[module.path] = parent.add(label) if parent else Tree(label)
    return nodes[""]


def _module_label(module: ModuleRecord, record: AnalysisRecord) -> Text:
    name = module.path.rpartition(".")[2] or f"{record.model} at {size_text(record.counted_size)}"
    kinds = ", ".join(kind for kind, flops in module.flops_by_class.items() if flops)
    label = Text(f"{name}  ")
    label.append(f"{three_digits(module.macs / 1e9)} GMACs", style="bold")
    grows = "" if module.exponent is None else f"  grows as pixels^{module.exponent:.2f}"
    label.append(f"  {module.flops / max(record.flops, 1):.1%}  {kinds}{grows}", style="dim")
    return label


def to_markdown(records: Sequence[AnalysisRecord]) -> str:
    """GitHub's tables: the networks, their stages, the verdicts."""
    tables = [summary_table(records), *(stage_table(record) for record in records)]
    if any(record.trust for record in records):
        tables.append(trust_table(records))
    lists = [f"- {line.strip()}" for line in [*verdict_lines(records), *uncounted_lines(records)]]
    modules = [_module_markdown(record) for record in records if record.modules]
    return "\n".join([*map(markdown, tables), *lists, "", *modules])


def _module_markdown(record: AnalysisRecord) -> str:
    table = Table(
        f"Modules of {record.model} at {size_text(record.counted_size)}",
        [Column("module", text=True), Column("cost", "GMACs"), Column("exponent", "in pixels")],
    )
    for module in record.modules:
        exponent = "–" if module.exponent is None else f"{module.exponent:.2f}"
        table.add(f"`{module.path or record.model}`", three_digits(module.macs / 1e9), exponent)
    return markdown(table)


_SHARED = ("flops", "macs", "rho", "rho_exact", "attention_ratio", "formula", "exponent")
_OF_NETWORK = ("params", "crossover_side", "crossover_tokens", "length_class", "autoregressive")
_OF_STAGE = ("stride", "tokens", "prefix_tokens", "dim", "mixer", "activation_mb", "intensity")


def to_csv(records: Sequence[AnalysisRecord]) -> str:
    """One line per network and size (scope ``model``), then one per stage, and per module where there are any."""
    text = io.StringIO()
    shapes = ("height", "width", "counted_height", "counted_width")
    classes = tuple(f"flops_{kind}" for kind in FLOP_CLASSES)
    head = ("model", "task", *shapes, "convention", "torch", "scope", *_SHARED, *classes, *_OF_NETWORK, *_OF_STAGE)
    writer = csv.DictWriter(text, head, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        common = {
            **{name: getattr(record, name) for name in ("model", "task", "convention")},
            **dict(zip(shapes, (*record.image_size, *record.counted_size), strict=True)),
            "torch": record.versions["torch"],
        }
        for scope, part in _scopes(record):
            by_class = {f"flops_{kind}": flops for kind, flops in part["flops_by_class"].items()}
            writer.writerow({**part, **common, **by_class, "scope": scope})
    return text.getvalue()


def _scopes(record: AnalysisRecord) -> Iterable[tuple[str, dict]]:
    parts = asdict(record)
    yield "model", parts
    for stage in parts["stages"]:
        yield f"stage {stage['name']}", stage
    for module in parts["modules"]:
        yield f"module {module['path']}", module
