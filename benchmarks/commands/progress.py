"""How far a command is: a bar on a terminal, lines or nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from ..timing.case import Row
    from ..timing.sweep import Event


@contextmanager
def shown_on_terminals() -> Iterator[Progress]:
    """A progress display on stderr that vanishes at the end; where that is no terminal, it shows nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


class Watcher:
    """Shows the events of a sweep and remembers its rows.

    Args:
        progress: where to.
        lines: where that is no terminal, print a line for whatever begins.
    """

    def __init__(self, progress: Progress, lines: bool) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=1.0)
        self._lines = lines and progress.disable
        self._last = ""
        self.rows: list[Row] = []

    def __call__(self, event: Event) -> None:
        if event.row is not None:
            self.rows.append(event.row)
        doing = {"prepare": "building and checking ", "round": "timing "}.get(event.kind, "")
        self._progress.update(self._task, completed=event.fraction, description=doing + event.message)
        next_round = event.kind == self._last == "round"
        if event.kind in ("note", "resumed") or (self._lines and not next_round):
            self._progress.console.print(doing + event.message, highlight=False, markup=False, soft_wrap=True)
        self._last = event.kind
