"""``mixerzoo list``: which models there are, what they cost at their default size, how their tokens meet."""

from __future__ import annotations

import click


@click.command("list", short_help="Show registered models with parameters, GMACs and mixer.")
@click.argument("pattern", required=False)
@click.option("--limit", type=click.IntRange(min=0), default=60, show_default=True, help="At most so many; 0: all.")
def command(pattern: str | None, limit: int) -> None:
    """Lists this package's models, or all models, timm's included, whose name contains PATTERN (* and ? as usual)."""
    from ..report.tables import Column, Table, print_tables
    from ..sources import matching
    from .progress import shown_on_terminals

    names = matching(pattern)
    shown = names[: limit or None]
    table = Table("Models", [Column("model", text=True), Column("parameters", "10⁶"), Column("input", "H×W px")])
    table.columns = [*table.columns, Column("cost", "GMACs"), Column("act×act", "% FLOPs"), Column("mixer", text=True)]
    with shown_on_terminals() as progress:
        for name in progress.track(shown, description="counting"):
            table.add(*_row(name))
    left_out = len(names) - len(shown)
    table.note = f"One forward pass of one image at the default size; {len(shown)} of {len(names)} models" + (
        f"; {left_out} left out: narrow the pattern, or --limit 0 for all." if left_out else "."
    )
    if pattern is None:
        table.note += f" timm has {len(matching('*')) - len(names)} others: mixerzoo list PATTERN."
    print_tables([table])


def _row(name: str) -> tuple[str, ...]:
    from ..counting.counter import count_flops
    from ..counting.stages import name_all_mixers
    from ..report.tables import size_text, three_digits
    from ..sources import MetaModels

    models = MetaModels(name)
    size = models.default_image_size
    model = models.at(size)
    params = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}"
    try:
        count = count_flops(model, size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        return name, params, size_text(size), "–", "–", f"cannot be counted: {error}".splitlines()[0]
    flops = count.flops_by_class()
    share = 100 * flops["attention"] / max(sum(flops.values()), 1)
    return name, params, size_text(size), three_digits(count.macs() / 1e9), f"{share:.1f}", name_all_mixers(count)
