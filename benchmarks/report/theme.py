"""Colours of the report, and matplotlib figures as SVG that follows the reader's light or dark setting.

A figure is drawn in the light palette; in the SVG each of those colours is a variable. Inside the page the variables
come from its style sheet, a picture that stands alone carries them itself.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"

# Each role in light and in dark. The kinds of mixer keep 3:1 against the paper and apart from each other under
# protanopia, deuteranopia and tritanopia (tests/benchmarks/test_page.py measures both).
PALETTE: dict[str, tuple[str, str]] = {
    "paper": ("#fcfcfb", "#15181c"),
    "ink": ("#1c2024", "#e8eaed"),
    "muted": ("#5b636d", "#a2abb6"),
    "grid": ("#dfe2e6", "#2c323a"),
    "convolution": ("#415fbb", "#3a9bf5"),
    "attention": ("#e06d03", "#e8854a"),
    "causal": ("#740356", "#ffbded"),
    "scan": ("#3f9c74", "#6aebb4"),
    "pooling": ("#69581e", "#e6e04a"),
    "identity": ("#6c6e77", "#85878d"),
    "linear": ("#8792a1", "#697686"),
    "other": ("#c6cbd1", "#424a54"),
}
LIGHT = {name: colours[0] for name, colours in PALETTE.items()}
FONTS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"

STYLE = {
    "svg.fonttype": "none",  # text stays text: it scales, can be selected and is read aloud
    "svg.hashsalt": "mixerzoo",  # the same figure is the same file
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


WIDTH = 5.5  # inches of 72 SVG units: text of 10 units stays readable on a phone


def new_figure(height: float) -> Figure:
    """An empty figure, outside pyplot's global state; ``height`` is in inches."""
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(WIDTH, height), layout="constrained")


def css_variables(theme: int) -> str:
    """Declarations of the palette, ``theme`` 0 for light and 1 for dark."""
    return " ".join(f"--{name}: {colours[theme]};" for name, colours in PALETTE.items())


def to_svg(figure: Figure, name: str, title: str, description: str, hints: Mapping[str, str] | None = None) -> str:
    """The figure as an ``<svg>`` element for use inside HTML.

    Args:
        figure: drawn in colours of `LIGHT`.
        name: prefix of every id, unique in the page.
        title: what the picture is.
        description: what it shows, for those who do not see it.
        hints: text to show where the pointer rests, by the ``gid`` of the artist.

    Returns:
        One element without prolog, metadata and external references.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):  # a style sheet would apply to the whole page
                parent.remove(child)
        if hint := (hints or {}).get(parent.get("id", "")):
            parent.insert(0, _element("title", hint))
    del root.attrib["width"], root.attrib["height"], root.attrib["version"]
    root.attrib |= {"role": "img", "aria-labelledby": "title desc", "stroke-linejoin": "round"}
    root[:0] = [_element("title", title, id="title"), _element("desc", description, id="desc")]
    text = ET.tostring(root, encoding="unicode")
    # Figures share a page, and matplotlib calls every first axes `axes_1`.
    for start in (' id="', 'href="#', "url(#"):
        text = text.replace(start, f"{start}{name}-")
    text = text.replace("title desc", f"{name}-title {name}-desc").replace("'DejaVu Sans'", "inherit")
    for role, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{role})")
    return text


def _element(tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.Element(f"{{{SVG}}}{tag}", attributes)
    element.text = text
    return element


def standalone(svg: str) -> str:
    """An SVG file from `to_svg`'s element: carries its own colours, font and background."""
    ET.register_namespace("", SVG)
    root = ET.fromstring(svg)
    width, height = root.get("viewBox", "").split()[2:]
    root.attrib |= {"width": width, "height": height}
    light = f":root {{ {css_variables(0)} font-family: {FONTS}; }}"
    style = _element("style", f"{light} @media (prefers-color-scheme: dark) {{ :root {{ {css_variables(1)} }} }}")
    background = _element("rect", "", width="100%", height="100%", style="fill: var(--paper)")
    root[2:2] = [style, background]  # behind <title> and <desc>
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
