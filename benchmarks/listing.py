"""``mixerzoo list``: which models there are, what they cost at their default size, how their tokens meet."""

from __future__ import annotations

import difflib

import timm
from rich.console import Console
from rich.progress import track

from .flops import Count, count_flops
from .sources import MetaModels, default_image_size
from .tables import Column, Table, print_tables, size_text, three_digits


def list_models(pattern: str | None, limit: int) -> None:
    """Prints a table of models.

    Args:
        pattern: part of a name, or a pattern with ``*`` and ``?``; ``None`` for this package's own models.
        limit: at most so many models; 0 for all.

    Raises:
        ValueError: no model matches.
    """
    names = matching(pattern)
    shown = names[: limit or None]
    table = Table("Models", [Column("model", text=True), Column("parameters", "10⁶"), Column("input", "H×W px")])
    table.columns = [*table.columns, Column("cost", "GMACs"), Column("act×act", "% FLOPs"), Column("mixer", text=True)]
    progress = Console(stderr=True)
    for name in track(shown, "counting", console=progress, transient=True, disable=not progress.is_terminal):
        table.add(*_row(name))
    left_out = len(names) - len(shown)
    table.note = f"One forward pass of one image at the default size; {len(shown)} of {len(names)} models" + (
        f"; {left_out} left out: narrow the pattern, or --limit 0 for all." if left_out else "."
    )
    if pattern is None:
        table.note += f" timm has {len(timm.list_models()) - len(names)} others: mixerzoo list PATTERN."
    print_tables([table])


def matching(pattern: str | None) -> list[str]:
    """Names of the models that match; see `list_models`."""
    if pattern is None:
        return [name for name in timm.list_models() if is_ours(name)]
    wild = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    names = timm.list_models(wild)
    if not names:
        near = difflib.get_close_matches(pattern, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"no model matches {pattern!r}{hint}")
    return names


def is_ours(name: str) -> bool:
    """Whether this package registered the model."""
    return timm.model_entrypoint(name).__module__.startswith("mixerzoo.")


def _row(name: str) -> tuple[str, ...]:
    size = default_image_size(name)
    model = MetaModels(name).at(size)
    params = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}"
    try:
        count = count_flops(model, size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        return name, params, size_text(size), "–", "–", f"cannot be counted: {error}".splitlines()[0]
    flops = count.flops_by_class()
    share = 100 * flops["attention"] / max(sum(flops.values()), 1)
    return name, params, size_text(size), three_digits(count.macs() / 1e9), f"{share:.1f}", mixers_of(count)


def mixers_of(count: Count) -> str:
    """The operators by which tokens meet, anywhere in the network; how they grow takes `mixerzoo analyze`."""
    ops = [op for module in count.modules.values() for op in module.ops]
    found = {
        "scan": any(op.kind == "scan" for op in ops),
        "causal attention": any(op.causal for op in ops),
        "attention": any(op.kind == "attention" and not op.causal for op in ops),
        "recurrent": any(op.op in ("aten.lstm", "aten.gru") for op in ops),
        "convolution": any("convolution" in module.mixers for module in count.modules.values()),
        "pooling": any("pooling" in module.mixers for module in count.modules.values()),
    }
    return " + ".join(name for name, present in found.items() if present) or "none"
