"""The report of a comparison, drawn from its records alone: tables for the terminal, one self-contained HTML page."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from ...backbones._files import write_atomically
from .comparison import Records
from .costs import stage_table
from .findings import findings, presets_of, uncounted_table, verdict_table
from .sections import DENSE_TASK, block_picture, flop_picture, rho_picture, throughput_picture
from .tables import Table, environment_table
from .theme import FONTS, css_variables, standalone
from .timings import timing_table

PAGE_FILE, PICTURE_FILE = "compare.html", "rho_against_image_side.svg"


def terminal_tables(records: Records) -> list[Table]:
    """What the terminal shows at the end."""
    return [verdict_table(records), *([timing_table(records.rows)] if records.rows else [])]


def render_page(records: Records) -> str:
    """The HTML page: pictures and style sheet are inside it, nothing is loaded and no script is run."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    package = files(__package__)
    pictures = [rho_picture(records), flop_picture(records)]
    pictures += [block_picture(records.blocks)] if records.blocks else []
    pictures += [picture] if (picture := throughput_picture(records)) else []
    shown = next((preset for preset in presets_of(records) if preset[0] == DENSE_TASK), (None, records.inputs[-1]))
    return environment.from_string(package.joinpath("page.html").read_text(encoding="utf-8")).render(
        css=Markup(package.joinpath("page.css").read_text(encoding="utf-8")),
        light=Markup(css_variables(0)),
        dark=Markup(css_variables(1)),
        fonts=Markup(FONTS),
        records=records,
        findings=findings(records),
        verdicts=verdict_table(records),
        pictures=pictures,
        stages=[stage_table(records.of(model, *shown)) for model in records.models],
        uncounted=uncounted_table(records),
        environment=environment_table(records.environment),
    )


def write_report(records: Records, folder: Path) -> Path:
    """Writes the page, and its first picture as a file of its own, each in one piece; returns the page's path."""
    write_atomically(standalone(rho_picture(records).svg), folder / PICTURE_FILE)
    path = folder / PAGE_FILE
    write_atomically(render_page(records), path)
    return path
