"""The record of an analysis: what one model costs at one input size and how that grows.

Tables, JSON, CSV and pictures are drawn from these records alone. Exact ratios travel as strings such as
``"4001/2304"`` beside their decimal value, so that JSON keeps them. ``SCHEMA_VERSION`` changes when a field does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

SCHEMA_VERSION = 1
FLOP_CLASSES = ("linear", "convolution", "attention", "scan", "other")


@dataclass(frozen=True)
class GrowthRecord:
    """FLOPs as polynomials of the image side, for square images.

    Attributes:
        unit: side in pixels of which ``sides`` are multiples.
        sides: the three sides in pixels that were counted.
        quadratic: coefficients c_0 … c_4, as fractions, of Σ c_k·(side/unit)^k: FLOPs of the operations that grow with
            the square of the number of pixels.
        rest: the same for all other operations.
    """

    unit: int
    sides: tuple[int, ...]
    quadratic: tuple[str, ...]
    rest: tuple[str, ...]

    def flops_at(self, side: float) -> tuple[float, float]:
        """(quadratic, rest) FLOPs at an image of ``side``×``side`` pixels."""
        s = side / self.unit
        quadratic, rest = (
            sum(float(Fraction(c)) * s**k for k, c in enumerate(cs)) for cs in (self.quadratic, self.rest)
        )
        return quadratic, rest

    def rho_at(self, side: float) -> float:
        """ρ at an image of ``side``×``side`` pixels."""
        quadratic, rest = self.flops_at(side)
        return quadratic / rest


@dataclass(frozen=True)
class StageRecord:
    """A run of blocks at one stride.

    Attributes:
        name: module path, the first and the last where there are several; ``stem``, ``head`` and ``between`` are what
            runs before, after and around the stages.
        stride: pixels per token side, ``None`` where the output is no grid.
        grid: (H, W) in tokens, ``None`` where the output is a sequence that is no grid.
        tokens: L, without prefix tokens.
        prefix_tokens: class and register tokens t.
        dim: D.
        mixer: how tokens meet, inferred from the operators' shapes and growth.
        causal: whether some attention in it is causal.
        six_d: 6·D, the paper's threshold (arXiv 2405.07992, section 3.1).
        formula: L/6D.
        rho: FLOPs that grow quadratically over all others; ``rho_exact`` the same as a fraction; ``None`` where growth
            is unknown.
        attention_ratio: act×act FLOPs, quadratic or not, over all others; ``attention_ratio_exact`` as a fraction.
        exponent: d log FLOPs / d log pixels at this size; ``None`` where growth is unknown.
        flops, macs, flops_by_class: cost of the stage.
        activation_mb: megabytes (10⁶) that its operators write, float32, batch 1, nothing fused.
        intensity: FLOPs per byte that its operators read and write, nothing fused.
    """

    name: str
    stride: float | None
    grid: tuple[int, int] | None
    tokens: int | None
    prefix_tokens: int
    dim: int | None
    mixer: str
    causal: bool
    six_d: int | None
    formula: float | None
    rho: float | None
    rho_exact: str | None
    attention_ratio: float
    attention_ratio_exact: str
    exponent: float | None
    flops: int
    macs: int
    flops_by_class: dict[str, int]
    activation_mb: float
    intensity: float


@dataclass(frozen=True)
class ModuleRecord:
    """Cost of one module with all inside it; ``growth`` as in `GrowthRecord`, all operations together."""

    path: str
    flops: int
    macs: int
    flops_by_class: dict[str, int]
    exponent: float | None
    growth: tuple[str, ...] | None


@dataclass(frozen=True)
class UncountedRecord:
    """An operator that no FLOPs are counted for: its calls and the elements that it reads or writes, the larger."""

    op: str
    calls: int
    elements: int


@dataclass(frozen=True)
class TrustRecord:
    """The same model through another counter, at the counted size.

    Attributes:
        counter: name and version.
        macs: its figure in multiply-adds.
        delta: its figure over ours in the same convention, less one.
        misses: operators that it says or is known to leave out, with their calls.
        note: why there is no figure, if there is none.
    """

    counter: str
    macs: int | None
    delta: float | None
    misses: dict[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class AnalysisRecord:
    """One model at one input size.

    Attributes:
        model: timm name.
        params: number of parameters.
        task: preset that the size comes from (`criterion.TASKS`), if any.
        autoregressive: whether the task generates its output token by token.
        image_size: (H, W) in pixels that was asked for.
        counted_size: (H, W) in pixels that was counted; larger where the architecture takes multiples only.
        convention: ``exact`` or ``paper`` (`flops.py`).
        attention_path: how attention was seen.
        causal: whether some attention is causal.
        flops, macs, flops_by_class, macs_by_class: the cost of one image in that convention.
        macs_paper: MACs as fvcore's convention has them, whatever ``convention`` is.
        rho: FLOPs that grow quadratically over all others; ``rho_exact`` the same as a fraction; ``None`` where growth
            is unknown.
        attention_ratio: act×act FLOPs, quadratic or not, over all others.
        formula: L/6D of ``formula_stage`` (the stage of stride 16, else the costliest).
        exponent: d log FLOPs / d log pixels at this size.
        crossover_side: side in pixels of the square image where ρ = 1; ``None`` for never.
        crossover_tokens: the same as tokens of stride 16, (side/16)².
        length_class: ``never``, ``short`` (ρ < 0.1), ``mixed`` (< 1) or ``long``; ``unknown`` where growth is.
        verdict: the same in a sentence.
        growth: ``None`` for a network that takes one size only.
        rounding: counted FLOPs over those that ``growth`` gives for the same pixels, less one: padding and rounding.
        stages, modules, uncounted, trust: see there. ``modules`` in order of execution, the network itself first.
        versions: of torch, timm and mixerzoo.
    """

    model: str
    params: int
    task: str | None
    autoregressive: bool
    image_size: tuple[int, int]
    counted_size: tuple[int, int]
    convention: str
    attention_path: str
    causal: bool
    flops: int
    macs: int
    flops_by_class: dict[str, int]
    macs_by_class: dict[str, int]
    macs_paper: int
    rho: float | None
    rho_exact: str | None
    attention_ratio: float
    formula: float | None
    formula_stage: str | None
    exponent: float | None
    crossover_side: float | None
    crossover_tokens: float | None
    length_class: str
    verdict: str
    growth: GrowthRecord | None
    rounding: float | None
    stages: tuple[StageRecord, ...]
    modules: tuple[ModuleRecord, ...]
    uncounted: tuple[UncountedRecord, ...]
    versions: dict[str, str]
    trust: tuple[TrustRecord, ...] = ()
    batch: int = 1
    schema_version: int = SCHEMA_VERSION


def to_dict(record: AnalysisRecord) -> dict[str, Any]:
    """``record`` as plain JSON types."""
    return json.loads(json.dumps(asdict(record), allow_nan=False))


def to_json(records: Sequence[AnalysisRecord], indent: int | None = 2) -> str:
    """A JSON array of ``records``."""
    return json.dumps([asdict(record) for record in records], indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> list[AnalysisRecord]:
    """Reads what `to_json` wrote.

    Raises:
        ValueError: no array of records of this schema version.
    """
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError(f"analysis: expected a JSON array of records, got {type(rows).__name__}")
    return [_from_dict(row) for row in rows]


def _from_dict(row: Any) -> AnalysisRecord:
    version = row.get("schema_version") if isinstance(row, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"analysis: expected a record of schema_version {SCHEMA_VERSION}, got {version}")
    growth = row["growth"]
    return AnalysisRecord(
        **{
            **_tuples(row),
            "growth": None if growth is None else GrowthRecord(**_tuples(growth)),
            "stages": tuple(StageRecord(**_tuples(stage)) for stage in row["stages"]),
            "modules": tuple(ModuleRecord(**_tuples(module)) for module in row["modules"]),
            "uncounted": tuple(UncountedRecord(**op) for op in row["uncounted"]),
            "trust": tuple(TrustRecord(**counter) for counter in row["trust"]),
        }
    )


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def kind_of(record: AnalysisRecord) -> str:
    """The kind of mixer that decides a model's colour.

    A model with attention in one stage and convolutions in the others is an attention model: its attention is what
    the criterion is about.
    """
    mixers = " ".join(stage.mixer for stage in record.stages)
    if "scan" in mixers:
        return "scan"
    if "attention" in mixers:
        return "causal" if record.causal else "attention"
    return next((kind for kind in ("pooling", "convolution") if kind in mixers), "identity")
