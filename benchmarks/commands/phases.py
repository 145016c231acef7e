"""The phases of ``mixerzoo compare``: count, time a transformer block, time the models, write the report."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from PIL import ImageOps
from rich.console import Console
from rich.progress import Progress

from ..counting.criterion import TASKS, Analyzer
from ..report.comparison import RECORDS_FILE, Records
from ..report.findings import findings
from ..report.page import terminal_tables, write_report
from ..report.tables import print_tables
from ..sources import check_name, parse_image_size
from ..timing import environment
from ..timing.block_sweep import LENGTHS, MAX_ROUNDS, sweep_blocks
from ..timing.case import Case
from ..timing.photos import BUNDLED_SOURCE, Photo, load_photos
from ..timing.sweep import run_sweep
from .progress import Watcher, shown_on_terminals

# One macro-architecture with six mixers, and two networks that people know: one block of children (MAX_TOGETHER).
MODELS = (
    "mambaout_femto_gatedcnn",
    "mambaout_femto_s6",
    "mambaout_femto_bis6",
    "mambaout_femto_ss2d",
    "mambaout_femto_ssd",
    "mambaout_femto_attn",
    "vit_tiny_patch16_224",
    "vim_tiny_patch16_224",
)
INPUTS = ("224", "384")
MAX_BATCH = 2  # more would leave the slowest model fewer rounds than an interval needs
ROWS_FILE = "compare.jsonl"
# Channels and heads of the swept block, and its numbers of tokens: both sides of 6D within a few seconds.
BLOCKS = {"cpu": (192, 3, LENGTHS), "cuda": (384, 6, (*LENGTHS, 6400, 9216, 16384))}
BLOCK_SHARE = 0.25  # of the budget
THUMBNAIL = 192  # pixels


def compare(
    models: Sequence[str],
    inputs: Sequence[str],
    folder: Path,
    budget_s: float = 50.0,
    photos: str = BUNDLED_SOURCE,
    device: str | None = None,
    count_only: bool = False,
) -> None:
    """Counts, times, writes the records and the report into ``folder``, and prints the tables.

    Args:
        models: timm names; none takes `MODELS`.
        inputs: image sizes as text; none takes `INPUTS`.
        folder: where to write; made if need be.
        budget_s: seconds of timing, block sweep and models together; loading and warming up come on top.
        photos: `photos.BUNDLED_SOURCE` or a folder.
        device: ``cpu`` or ``cuda``; ``None`` takes CUDA if there is one.
        count_only: time nothing.

    Raises:
        ValueError: bad input of any kind; nothing has been measured then.
        OSError: the folder cannot be written; nothing has been measured then.
        RuntimeError: a model could not be timed; the report says so too.
        KeyboardInterrupt: with one line that says what was kept.
    """
    if not budget_s > 0:
        raise ValueError(f"--budget: expected seconds above 0, got {budget_s:g}")
    names = list(dict.fromkeys(models or MODELS))
    for name in names:
        check_name(name)
    sizes = list(dict.fromkeys(parse_image_size(text) for text in inputs or INPUTS))
    pictures = load_photos(photos)
    prepare_folder(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    records = Records(
        settings={
            "models": names,
            "inputs": [list(size) for size in sizes],
            "batch": min(len(pictures), MAX_BATCH),
            "budget_s": budget_s,
            "photos": photos,
            "device": device,
            "count_only": count_only,
        },
        photos=[{"name": photo.name, "uri": thumbnail(photo)} for photo in pictures[: 0 if count_only else MAX_BATCH]],
        environment=environment.collect(device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _measure(records, folder)
    show(records, folder)
    failed = [row for row in records.rows if row.status != "ok"]
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(records.rows)} timings failed: {failed[0].case}: {failed[0].message}"
        )


def redraw(folder: Path) -> None:
    """Draws the page of an earlier comparison again, from its records alone.

    Raises:
        ValueError: the folder holds no records.
        OSError: the folder cannot be written.
    """
    records = Records.load(folder)
    prepare_folder(folder)
    show(records, folder)


def show(records: Records, folder: Path) -> None:
    """Writes the page, and prints tables and findings."""
    path = write_report(records, folder)
    print_tables(terminal_tables(records))
    console = Console()
    for finding in findings(records):
        console.print(f"• {finding}", highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print(f"\n{path}", highlight=False, markup=False, soft_wrap=True)


def _measure(records: Records, folder: Path) -> None:
    """Fills the records, phase by phase, and keeps on disk what is done."""
    if (folder / RECORDS_FILE).exists() and Records.load(folder).finished:
        (folder / ROWS_FILE).unlink(missing_ok=True)  # a finished comparison is not gone on with but repeated
    with shown_on_terminals() as progress:
        try:
            _analyze(records, progress)
            records.save(folder)
            if not records.settings["count_only"]:
                _sweep_blocks(records, progress)
                records.save(folder)
                _time(records, folder, progress)
            records.finished = True
        except KeyboardInterrupt:
            if records.analyses:
                records.save(folder)
                write_report(records, folder)
            kept = f"{len(records.rows)} timings are in {folder}; the same command goes on from there"
            raise KeyboardInterrupt(kept) from None
    records.save(folder)


def _analyze(records: Records, progress: Progress) -> None:
    bar = progress.add_task("counting", total=len(records.models))
    found = []
    for model in records.models:
        progress.update(bar, description=f"counting {model}")
        analyzer = Analyzer(model)
        found += [analyzer.at(size) for size in records.inputs]
        found += [analyzer.at(size, task=task) for task, sizes in TASKS.items() for size in sizes]
        progress.advance(bar)
    # The trees of modules are the larger part by far, and no part of this report.
    records.analyses = [replace(record, modules=()) for record in found]
    progress.remove_task(bar)


def _sweep_blocks(records: Records, progress: Progress) -> None:
    budget = BLOCK_SHARE * records.settings["budget_s"]
    device = records.settings["device"]
    dim, num_heads, lengths = BLOCKS[device.partition(":")[0]]
    bar = progress.add_task("timing one transformer block", total=1.0)

    def on_round(done: int, spent: float) -> None:
        progress.update(bar, completed=min(1.0, max(spent / budget, done / MAX_ROUNDS)))

    records.blocks = sweep_blocks(dim, num_heads, lengths, device, budget_s=budget, on_round=on_round)
    progress.remove_task(bar)


def _time(records: Records, folder: Path, progress: Progress) -> None:
    settings = records.settings
    cases = [
        Case(model, size, batch=settings["batch"], device=settings["device"], photos=settings["photos"])
        for size in records.inputs
        for model in records.models
    ]
    watcher = Watcher(progress, lines=False)
    budget = (1 - BLOCK_SHARE) * settings["budget_s"] / len(cases)
    try:
        records.rows = run_sweep(cases, folder / ROWS_FILE, budget_s=budget, on_event=watcher)
    except KeyboardInterrupt:
        records.rows = watcher.rows
        raise


def prepare_folder(folder: Path) -> None:
    """Makes the folder and tries to write into it, before minutes are spent on measuring.

    Raises:
        OSError: it cannot be made or written; the message names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
        os.unlink(path)
    except OSError as error:
        raise OSError(f"--out: cannot write into {str(folder)!r}: {error.strerror or error}") from error


def thumbnail(photo: Photo) -> str:
    """A small square JPEG as a data URI."""
    buffer = io.BytesIO()
    ImageOps.fit(photo.image, (THUMBNAIL, THUMBNAIL)).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
