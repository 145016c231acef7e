"""Colours of the report, and matplotlib figures as SVG that follows the reader's light or dark setting.

A figure is drawn in the light palette; in the SVG each of those colours becomes ``var(--name, #colour)``. Inside the
page the variables come from its style sheet, a picture that stands alone carries them itself.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

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
MARKERS = {
    "convolution": "s",
    "attention": "o",
    "causal": "^",
    "scan": "D",
    "pooling": "v",
    "identity": "X",
}
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


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches (72 SVG units each), outside pyplot's global state."""
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


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
    root = _parse(figure)
    root.attrib.pop("version", None)
    width, height = root.attrib.pop("width"), root.attrib.pop("height")
    root.set("style", f"max-width: {float(width.removesuffix('pt')):g}px")
    root.set("viewBox", f"0 0 {width.removesuffix('pt')} {height.removesuffix('pt')}")
    root.set("role", "img")
    _describe(root, name, title, description)
    _hint(root, hints or {})
    _make_ids_unique(root, name)
    _style(root)
    return ET.tostring(root, encoding="unicode")


def standalone(svg: str) -> str:
    """An SVG file from `to_svg`'s element: carries its own colours, font and background."""
    ET.register_namespace("", SVG)
    root = ET.fromstring(svg)
    width, height = root.get("viewBox", "").split()[2:]
    root.attrib.pop("style")
    root.set("width", width)
    root.set("height", height)
    style = ET.Element(f"{{{SVG}}}style")
    style.text = (
        f":root {{ {css_variables(0)} font-family: {FONTS}; }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {css_variables(1)} }} }}"
    )
    background = ET.Element(f"{{{SVG}}}rect", {"width": "100%", "height": "100%", "style": "fill: var(--paper)"})
    root[2:2] = [style, background]  # behind <title> and <desc>
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _parse(figure: Figure) -> ET.Element:
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(buffer.getvalue())
    for child in list(root):
        if child.tag == f"{{{SVG}}}metadata":
            root.remove(child)
    return root


def _describe(root: ET.Element, name: str, title: str, description: str) -> None:
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(position, element)


def _hint(root: ET.Element, hints: Mapping[str, str]) -> None:
    for element in root.iter():
        text = hints.get(element.get("id", ""))
        if text:
            title = ET.Element(f"{{{SVG}}}title")
            title.text = text
            element.insert(0, title)


def _make_ids_unique(root: ET.Element, name: str) -> None:
    """Several figures share a page, and matplotlib calls every first axes ``axes_1``."""
    for element in root.iter():
        identifier = element.get("id")
        if identifier and not identifier.startswith(f"{name}-"):
            element.set("id", f"{name}-{identifier}")
        for attribute, value in element.attrib.items():
            if value.startswith("#"):
                element.set(attribute, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{name}-"))


def _style(root: ET.Element) -> None:
    """Colours become variables, fonts are the page's, and matplotlib's style sheet does not leak into the page."""
    roles = {colour: role for role, colour in LIGHT.items()}
    for element in root.iter():
        style = element.get("style", "")
        style = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{roles[m[0]]}, {m[0]})" if m[0] in roles else m[0], style)
        style = re.sub(r"font-family: [^;]+", "font-family: inherit", style)
        if style:
            element.set("style", style)
        for child in list(element):
            if child.tag == f"{{{SVG}}}style":
                element.remove(child)
    root.set("stroke-linejoin", "round")
