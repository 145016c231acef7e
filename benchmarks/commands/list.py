"""``mixerzoo list``: which models there are."""

from __future__ import annotations

import click


@click.command("list", short_help="Show registered models with parameters, GMACs and mixer.")
@click.argument("pattern", required=False)
@click.option("--limit", type=click.IntRange(min=0), default=60, show_default=True, help="At most so many; 0: all.")
def command(pattern: str | None, limit: int) -> None:
    """Lists this package's models, or all models, timm's included, whose name contains PATTERN (* and ? as usual)."""
    from .. import listing

    listing.list_models(pattern, limit)
