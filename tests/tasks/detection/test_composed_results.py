"""The tables of what the small detectors and segmentors reached are those of the files that are checked in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mixerzoo.tasks import engine

pytest.importorskip("mmdet", reason="needs the extra mm")
pytest.importorskip("mmseg", reason="needs the extra mm")

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("task", "digits", "order", "asked"), [("detection", 3, (1, 0, 2), 0.5), ("segmentation", 1, (0, 1, 2), 50)]
)
def test_composed(task, digits, order, asked):
    """A row is the config, its epochs, three metrics of which the first is what was asked for, and minutes."""
    file = ROOT / "benchmarks" / "results" / f"composed_{task}_amd_epyc.json"
    entries = {entry["name"]: entry for entry in json.loads(file.read_text())["entries"]}
    text = (ROOT / "docs" / f"{task}.md").read_text()
    rows = re.findall(r"^\| (\w+_composed) \| (\d+) \| (.*) \| (\d+) \|$", text, re.MULTILINE)
    assert {row[0] for row in rows} == entries.keys()
    for name, epochs, figures, minutes in rows:
        entry = entries[name]
        metrics = [*entry["values"], *entry["others"]]
        assert int(epochs) == engine.load_config(f"{task}/{name}").train_cfg.max_epochs
        assert figures.split(" | ") == [f"{metrics[i]:.{digits}f}" for i in order]
        assert minutes == f"{entry['train_s'] / 60:.0f}"
        assert metrics[order[0]] >= asked
        assert int(minutes) < 40
