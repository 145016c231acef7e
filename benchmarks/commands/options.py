"""How the commands read options that several of them have."""

from __future__ import annotations

import click


def values(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Values of an option that may be repeated, or given once with commas."""
    return tuple(part.strip() for text in given for part in text.split(",") if part.strip())
