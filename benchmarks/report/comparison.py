"""What a comparison has measured, as one JSON file from which its report is drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backbones._files import write_atomically
from ..counting.record import AnalysisRecord, from_json, to_dict
from ..timing.case import Row

SCHEMA_VERSION = 1
RECORDS_FILE = "compare.json"


@dataclass
class Records:
    """Everything a report is drawn from.

    Attributes:
        settings: what was asked for: ``models``, ``inputs`` as lists of [H, W], ``batch``, ``budget_s``, ``photos``.
        analyses: for each model one record per input size and one per task preset.
        rows: the timings.
        blocks: record of `blocks.sweep_blocks`; ``None`` before it was run.
        photos: ``name`` and ``uri`` (a small JPEG) of the photographs used.
        environment: fingerprint of the machine.
        created: UTC, ISO 8601.
        finished: whether all of it was measured.
    """

    settings: dict[str, Any]
    analyses: list[AnalysisRecord] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    blocks: dict[str, Any] | None = None
    photos: list[dict[str, str]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    finished: bool = False

    def save(self, folder: Path) -> None:
        """Writes ``compare.json`` in one piece."""
        record = {
            "schema_version": SCHEMA_VERSION,
            "created": self.created,
            "finished": self.finished,
            "settings": self.settings,
            "analyses": [to_dict(record) for record in self.analyses],
            "rows": [json.loads(row.to_json()) for row in self.rows],
            "blocks": self.blocks,
            "photos": self.photos,
            "environment": self.environment,
        }
        content = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        write_atomically(content, folder / RECORDS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Records:
        """Reads what `save` wrote.

        Raises:
            ValueError: no such file there, or one of another kind or schema version.
        """
        path = folder / RECORDS_FILE
        if not path.is_file():
            raise ValueError(
                f"expected the records of an earlier `mixerzoo compare` in {str(path)!r}, found no such file"
            )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            version = record.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise ValueError(f"expected schema_version {SCHEMA_VERSION}, got {version}")
            record["analyses"] = from_json(json.dumps(record["analyses"]))
            record["rows"] = [Row.from_json(json.dumps(row)) for row in record["rows"]]
            return cls(**record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not the records of a comparison: {error}") from error

    def of(self, model: str, task: str | None, image_size: tuple[int, int]) -> AnalysisRecord:
        """The record of a model at an image size, as a task's preset or (``None``) as an input asked for."""
        for record in self.analyses:
            if (record.model, record.task, record.image_size) == (model, task, image_size):
                return record
        raise KeyError(f"no analysis of {model} for {task or 'input'} {image_size}")

    @property
    def models(self) -> list[str]:
        return self.settings["models"]

    @property
    def inputs(self) -> list[tuple[int, int]]:
        return [tuple(size) for size in self.settings["inputs"]]
