"""What an experiment consists of: its cells, the contrasts between networks, and the readings that predict them.

A grid is a Python file in ``configs/experiments/``. A *cell* is a task at one length and width, with the networks that
are trained on it; a *run* is a cell, a mixer and a seed. A *contrast* is a difference, or a difference of differences,
between networks of equal seed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmengine import Config

from .... import configs

__all__ = ["Cell", "Contrast", "Control", "Grid", "load_grid", "paired_names", "protocol_digest"]

FOLDER = Path(configs.__file__).parent / "experiments"
ROOT = Path(__file__).parents[3]  # of a checkout
PROTOCOL = ROOT / "docs" / "protocol.md"


@dataclass(frozen=True)
class Control:
    """What must succeed for a cell to say anything: per seed, the best of ``mixers`` reaches ``threshold``."""

    mixers: Sequence[str]
    threshold: float


@dataclass(frozen=True)
class Cell:
    """One task at one length and width.

    Attributes:
        name: e.g. ``far-784``.
        task: cells of one task share the tuned learning rates.
        data: arguments of the data set, with its ``type``.
        network: arguments of `backbones.isotropic.Isotropic` but mixer, sides, channels and classes.
        steps, batch: of training.
        test_size: pictures of the fixed test set.
        mixers: networks.
        control: positive control, or ``None`` for cells that are only described.
        tune: learning rates of the task are tuned on this cell.
        points: of the learning curve, evenly spaced, the last at the end.
    """

    name: str
    task: str
    data: Mapping[str, Any]
    network: Mapping[str, Any]
    steps: int
    batch: int
    test_size: int
    mixers: Sequence[str]
    control: Control | None = None
    tune: bool = False
    points: int = 20

    def settings(self) -> str:
        """Digest of everything that a run's outcome depends on, but mixer, seed and rate."""
        parts = {key: asdict(self)[key] for key in ("data", "network", "steps", "batch", "test_size")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Contrast:
    """A difference between networks of one seed, and what is predicted of it.

    Attributes:
        name: e.g. ``P1``.
        label: in words.
        terms: (sign, cell, mixer), summed.
        criterion, rival: what the criterion (C) and its rival (R) predict: ``+`` (the first network is better), ``0``
            (no difference within the margin), or ``""`` (nothing).
    """

    name: str
    label: str
    terms: Sequence[tuple[int, str, str]]
    criterion: str = ""
    rival: str = ""

    def cells(self) -> list[str]:
        """Names of the cells it is about."""
        return list(dict.fromkeys(cell for _, cell, _ in self.terms))


@dataclass(frozen=True)
class Grid:
    """An experiment.

    Attributes:
        name: of its file.
        title: in words.
        metric: what a run is judged by: ``accuracy`` or ``bits``.
        margin: differences within ± this are none.
        tolerance: a mean learning curve that moves by more in its last fifth is not at its end.
        cells: the most important first.
        primary, sanity, secondary: contrasts.
        family: experiments whose primary contrasts are tested together.
        rates: learning rates to tune over.
        seeds, tuning_seeds: of the runs.
    """

    name: str
    title: str
    metric: str
    margin: float
    tolerance: float
    cells: Mapping[str, Cell]
    primary: Sequence[Contrast]
    sanity: Sequence[Contrast]
    secondary: Sequence[Contrast]
    family: Sequence[str]
    rates: Sequence[float]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int]
    train: Mapping[str, Any] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """Of the metric."""
        return self.metric == "accuracy"

    def cell(self, name: str) -> Cell:
        """The cell called ``name``.

        Raises:
            ValueError: there is none; the message lists them.
        """
        if name not in self.cells:
            raise ValueError(f"experiment {self.name}: no cell {name!r} (cells: {', '.join(self.cells)})")
        return self.cells[name]

    def parse_run(self, text: str) -> tuple[Cell, tuple[str, ...]]:
        """``far-784`` or ``far-784-s6`` -> the cell and its mixers, or the one.

        Raises:
            ValueError: neither a cell nor a cell and one of its mixers.
        """
        if text in self.cells:
            return self.cells[text], tuple(self.cells[text].mixers)
        cell, _, mixer = text.rpartition("-")
        found = self.cell(cell or text)
        if mixer not in found.mixers:
            raise ValueError(f"cell {found.name}: no mixer {mixer!r} (mixers: {', '.join(found.mixers)})")
        return found, (mixer,)


def paired_names() -> list[str]:
    """Experiments of this kind; the other grids in ``configs/experiments`` are ablations of recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if re.search(r"^cells = ", path.read_text(), re.MULTILINE))


def load_grid(name: str) -> Grid:
    """Reads ``configs/experiments/{name}.py``.

    Raises:
        FileNotFoundError: no such grid; the message lists them.
        ValueError: it does not hold together.
    """
    path = FOLDER / f"{name}.py"
    if name not in paired_names():
        raise FileNotFoundError(f"no experiment {name!r} (experiments: {', '.join(paired_names())})")
    cfg = {key: value for key, value in Config.fromfile(path).to_dict().items() if not key.startswith("_")}
    cells = {}
    for key, values in cfg.pop("cells").items():
        control = values.pop("control", None)
        cells[key] = Cell(name=key, control=Control(**control) if control else None, **values)
    kinds = {
        kind: tuple(Contrast(**{**given, "terms": [tuple(term) for term in given["terms"]]}) for given in cfg.pop(kind))
        for kind in ("primary", "sanity", "secondary")
    }
    grid = Grid(name=name, cells=cells, **kinds, **cfg)
    for contrast in (*grid.primary, *grid.sanity, *grid.secondary):
        for _, cell, mixer in contrast.terms:
            if mixer not in grid.cell(cell).mixers:
                raise ValueError(f"{path}: {contrast.name}: cell {cell} has no mixer {mixer!r}")
    return grid


def protocol_digest() -> str:
    """SHA-256 of ``docs/protocol.md``.

    Raises:
        FileNotFoundError: this is no checkout, so there is no protocol to stand by.
    """
    if not PROTOCOL.is_file():
        raise FileNotFoundError(f"{PROTOCOL}: no protocol; experiments run from a checkout of the repository")
    return hashlib.sha256(PROTOCOL.read_bytes()).hexdigest()
