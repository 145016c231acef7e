"""The page as a reader meets it: in a browser, on a desk and on a phone, light and dark."""

from __future__ import annotations

import html.parser
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from mixerzoo.benchmarks.counting.criterion import Analyzer
from mixerzoo.benchmarks.report.page import PICTURE_FILE, render_page, write_report
from mixerzoo.benchmarks.report.tables import three_digits
from mixerzoo.benchmarks.report.theme import PALETTE
from skimage.color import deltaE_ciede2000, rgb2lab

PICTURES = ("rho", "flops", "blocks", "throughput")
PHONE, DESK = 390, 1280

# Run inside the page; what it finds is posted to the frame around it.
MEASURE = """
<script>
addEventListener("load", () => {
  const box = (element) => element.getBoundingClientRect();
  const shown = (element) => box(element).width > 0;
  const seen = {
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    figures: [...document.querySelectorAll("figure")].map((figure) => {
      const svgs = [...figure.querySelectorAll("svg")].filter(shown);
      const texts = [...svgs[0].querySelectorAll("text")];
      return {
        name: figure.id,
        svgs: svgs.length,
        width: box(svgs[0]).width,
        height: box(svgs[0]).height,
        right: box(svgs[0]).right,
        title: svgs[0].querySelector("title").textContent,
        smallest: Math.min(...texts.map((text) => parseFloat(getComputedStyle(text).fontSize)))
          * box(svgs[0]).width / svgs[0].viewBox.baseVal.width,
        outside: texts.map((text) => [box(text), text.textContent])
          .filter(([at]) => at.right > box(svgs[0]).right + 2 || at.left < box(svgs[0]).left - 2)
          .map(([, text]) => text),
      };
    }),
    tables: [...document.querySelectorAll(".scroll")].filter(shown).map((table) => ({
      right: box(table).right, scrolls: table.scrollWidth > table.clientWidth, reachable: table.tabIndex === 0,
    })),
  };
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>
"""
FRAME = """<!doctype html><meta charset="utf-8">
<iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>addEventListener("message", (event) => {{
  const seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = event.data;
  document.body.append(seen);
}});</script>"""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--dump-dom",
)


@pytest.fixture(scope="module")
def page(_comparison):
    return render_page(_comparison)


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    return path


class Browser:
    """Opens a page in headless Chromium, in a frame of the width asked for (its windows are 500 pixels at least)."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def open(self, page, width, dark):
        self.folder.joinpath("page.html").write_text(page.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
        self.folder.joinpath("frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
        command = [
            self.path,
            *FLAGS,
            f"--user-data-dir={self.folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--window-size={max(width, 500) + 50},1000",
            (self.folder / "frame.html").as_uri(),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seen = re.search(r'<pre id="seen">(.*?)</pre>', out, re.DOTALL)
        assert seen, f"the page did not load: {err[-2000:]}"
        console = [line for line in err.splitlines() if "CONSOLE" in line]
        return json.loads(html.unescape(seen[1])), console


@pytest.fixture
def browser(chromium, tmp_path):
    return Browser(chromium, tmp_path)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_renders(browser, page, width, dark):
    seen, console = browser.open(page, width, dark)
    assert console == []
    assert seen["width"] == width
    assert seen["page"] <= width, "the page scrolls sideways"
    assert [figure["name"] for figure in seen["figures"]] == list(PICTURES)
    for figure in seen["figures"]:
        assert figure["svgs"] == 1
        assert figure["width"] > 0.75 * min(width, 800)
        assert figure["height"] > 100
        assert figure["right"] <= width
        assert figure["outside"] == []
        assert figure["smallest"] >= 8
        assert figure["title"]
    assert all(table["right"] <= width and table["reachable"] for table in seen["tables"])
    assert width != PHONE or any(table["scrolls"] for table in seen["tables"])
    paper, ink = (np.array([int(part) for part in re.findall(r"\d+", seen[key])[:3]]) for key in ("background", "ink"))
    assert (paper.mean() < 60) == dark
    assert (ink.mean() > 200) == dark


@pytest.mark.browser
def test_a_console_error_would_be_noticed(browser, page):
    page = page.replace("</main>", "<script>undefinedFunction()</script></main>")
    _, console = browser.open(page, DESK, dark=False)
    assert any("undefinedFunction" in line for line in console)


@pytest.mark.browser
def test_a_page_too_wide_would_be_noticed(browser, page):
    page = page.replace("</main>", "<div style='width: 600px'>wide</div></main>")
    seen, _ = browser.open(page, PHONE, dark=False)
    assert seen["page"] > PHONE


class Elements(html.parser.HTMLParser):
    """Ids, references and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.outside, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            self.references += re.findall(r"url\(#(.+?)\)", value)
            self.references += [value[1:]] if name.endswith("href") and value.startswith("#") else []
            self.references += value.split() if name == "aria-labelledby" else []
            if name in ("src", "href", "xlink:href", "srcset", "action") and not value.startswith(("#", "data:")):
                self.outside.append(value)


def test_page_is_self_contained(page, records):
    elements = Elements(page)
    assert elements.outside == []
    assert "script" not in elements.tags
    assert not re.search(r"@import|url\((?!#)", page)
    assert elements.tags.count("svg") == len(PICTURES)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, nothing is fetched


def test_ids_are_unique_and_references_resolve(page):
    elements = Elements(page)
    assert len(elements.ids) == len(set(elements.ids))
    assert elements.references
    assert set(elements.references) <= set(elements.ids)


def test_text_from_outside_is_escaped(records):
    records.settings["photos"] = "/photos/<script>alert(1)</script>"
    page = render_page(records)
    assert "<b>photo</b>" not in page
    assert "a &lt;b&gt;photo&lt;/b&gt;" in page
    assert "<script>" not in page
    assert "a processor &amp; its cores" in page


def test_page_says_which_units(page):
    text = re.sub(r"<[^>]+>", " ", page)
    assert not re.search(r"\d\s*[GMT]?FLOPs\b(?! per multiply)", text), "a figure in bare FLOPs"
    for unit in ("GMACs", "GFLOP/s", "images/s", "MiB", "pixels", "One GMAC is two GFLOP"):
        assert unit in page


def test_every_figure_of_the_environment_is_there(page):
    assert '<td class="wrap">0, 1</td>' in page
    assert "gpu driver" not in page  # None: there is none


def test_an_interrupted_comparison_says_so(page, records):
    assert "interrupted" not in page
    records.finished, records.blocks, records.rows = False, None, []
    page = render_page(records)
    assert "interrupted: not everything was measured" in page
    assert 'id="blocks"' not in page
    assert 'id="throughput"' not in page


def test_page_depends_on_the_records_alone(page, records, tmp_path):
    assert write_report(records, tmp_path).read_text(encoding="utf-8") == page


def test_picture_for_the_readme_stands_alone(records, tmp_path):
    write_report(records, tmp_path)
    path = tmp_path / PICTURE_FILE
    root = ET.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.get("width")) > 350
    text = path.read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert set(re.findall(r"var\(--(\w+)", text)) <= set(PALETTE)
    assert f"--attention: {PALETTE['attention'][1]}" in text


# Simulation matrices of severity 1 in linear RGB (Machado, Oliveira and Fernandes 2009, table 1).
VISION = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
MIXERS = ("convolution", "attention", "causal", "scan", "pooling", "identity")
FLOP_CLASSES = ("linear", "convolution", "attention", "scan", "other")


def linear_rgb(colour):
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2 contrast ratio."""
    dark, light = sorted(linear_rgb(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_the_paper(theme):
    colours = {name: pair[theme] for name, pair in PALETTE.items()}
    assert contrast(colours["ink"], colours["paper"]) >= 7
    assert contrast(colours["muted"], colours["paper"]) >= 4.5  # it is text, too
    for name in (*MIXERS, "linear"):
        assert contrast(colours[name], colours["paper"]) >= 3, name


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("roles", [MIXERS, FLOP_CLASSES], ids=["mixers", "FLOP classes"])
def test_colours_can_be_told_apart(theme, vision, roles):
    def seen(name):
        c = np.clip(np.array(VISION[vision]) @ linear_rgb(PALETTE[name][theme]), 0, 1)
        return rgb2lab(np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1 / 2.4) - 0.055))

    for one, other in itertools.combinations(roles, 2):
        assert deltaE_ciede2000(seen(one), seen(other)) >= 12, (one, other)


def test_picture_in_the_readme_is_fresh():
    """Drawn by `mixerzoo compare --count-only MODEL...`; its description names the models."""
    root = ET.parse(Path(__file__).parents[3] / "docs" / PICTURE_FILE).getroot()
    described = root.find("{http://www.w3.org/2000/svg}desc").text
    drawn = {model: float(end) for model, end in re.findall(r"(\w+) from \S+ to ([\d.]+)", described)}
    assert len(drawn) >= 6
    for model in ("vit_tiny_patch16_224", "mambaout_tiny_gatedcnn"):
        rho = Analyzer(model).at((224, 224)).growth.rho_at(2048)
        assert drawn[model] == float(three_digits(rho))
