"""One kind of table for the terminal and the page, and the tables of the report that need no analysis record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

# What a chip looks like in the terminal; on the page its style is a CSS class.
TERMINAL_STYLES = {"never": "dim", "short": "dim", "mixed": "bold", "long": "bold reverse", "warn": "bold yellow"}

PIPE_WIDTH = 200  # where there is no terminal rich assumes 80 columns


@dataclass(frozen=True)
class Column:
    """A column; text is set left, figures right, ``wrap`` lets long text break into lines."""

    name: str
    unit: str = ""
    text: bool = False
    wrap: bool = False


@dataclass(frozen=True)
class Cell:
    """One value, with an optional chip: a word that judges it."""

    text: str
    chip: str = ""
    style: str = ""


@dataclass
class Table:
    """Rows of cells; the first column names the row."""

    title: str
    columns: Sequence[Column]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: Cell | str) -> None:
        """Appends a row.

        Raises:
            ValueError: not one cell per column.
        """
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: expected {len(self.columns)} cells, got {len(cells)}")
        self.rows.append([cell if isinstance(cell, Cell) else Cell(cell) for cell in cells])


def for_terminal(table: Table) -> RichTable:
    """The table for rich's console."""
    out = RichTable(
        title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, caption=table.note
    )
    out.caption_justify = "left"
    for column in table.columns:
        heading = f"{column.name}\n{column.unit}" if column.unit else column.name
        first = column is table.columns[0]
        out.add_column(heading, justify="left" if first or column.text else "right", no_wrap=first, overflow="fold")
    for row in table.rows:
        out.add_row(*(_for_terminal(cell) for cell in row))
    return out


def print_tables(parts: Sequence[Table | RenderableType], file: TextIO | None = None) -> None:
    """Prints tables and what stands between them: into a file or a pipe as wide as they are, broken into column groups
    on a narrow terminal.

    Args:
        parts: tables, and what rich can print.
        file: where to; ``None`` is stdout.
    """
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=PIPE_WIDTH)
    for part in parts:
        if isinstance(part, Table):
            *first, last = fitting_parts(part, console)
            note = last.note if first else ""  # a caption would be as narrow as the last columns
            for fitting in (*first, replace(last, note="") if note else last):
                console.print(for_terminal(fitting))
            if note:
                console.print(note, style="table.caption", highlight=False, markup=False)
        else:
            console.print(part, soft_wrap=isinstance(part, Text) and not console.is_terminal)


def fitting_parts(table: Table, console: Console) -> list[Table]:
    """The table, or where the console is too narrow several with a share of the columns each, all led by the first."""
    parts: list[list[int]] = []
    for column in range(1, len(table.columns)):
        if parts and _width(_selected(table, [0, *parts[-1], column]), console) <= console.width:
            parts[-1].append(column)
        else:
            parts.append([column])
    tables = [_selected(table, [0, *part]) for part in parts] or [_selected(table, [0])]
    tables[0].title, tables[-1].note = table.title, table.note
    return tables


def markdown(table: Table) -> str:
    """The table as GitHub draws it, under its title, with its note below."""
    heads = [f"{column.name} ({column.unit})" if column.unit else column.name for column in table.columns]
    rules = [":--" if column.text else "--:" for column in table.columns]
    rows = [heads, rules, *([f"{cell.text} {cell.chip}".strip() for cell in row] for row in table.rows)]
    lines = [f"### {table.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines + ([table.note.strip(), ""] if table.note else []))


def _selected(table: Table, columns: list[int]) -> Table:
    """Some of the columns, without title and note."""
    rows = [[row[i] for i in columns] for row in table.rows]
    return Table("", [table.columns[i] for i in columns], rows)


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=10_000), for_terminal(table)).maximum


def _for_terminal(cell: Cell) -> Text:
    text = Text(cell.text)
    if cell.chip:
        text.append(" ")
        text.append(cell.chip, style=TERMINAL_STYLES.get(cell.style, ""))
    return text


def size_text(image_size: Sequence[int]) -> str:
    """``224×224``."""
    return "×".join(str(side) for side in image_size)


def environment_table(environment: Mapping[str, Any]) -> Table:
    """The fingerprint, one field per line."""
    table = Table("Environment", [Column("field", text=True), Column("value", wrap=True)])
    for name, value in environment.items():
        if value is None:
            continue
        table.add(name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    return table


def percent(share: float) -> str:
    """``12 %``, not to be broken into two lines."""
    return f"{100 * share:.0f}\u00a0%"


def three_digits(value: float) -> str:
    """``0.0123``, ``1.23``, ``12.3``, ``1230``: three significant digits without an exponent."""
    if value == 0:
        return "0"
    value = float(f"{value:.3g}") if abs(value) < 1000 else value  # 99.96 has the digits of 100
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
