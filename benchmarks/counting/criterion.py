"""Does a network at this image size spend its arithmetic on what grows quadratically? The formula and the measurement.

MambaOut (arXiv 2405.07992, section 3.1): a Transformer block of width D with an MLP of ratio 4 costs 24·D²·L + 4·D·L²
FLOPs, so its attention outweighs the rest from L > 6·D on; tasks beyond are long-sequence ones, and only these, or
autoregressive ones, have a use for a state-space model. `analyze` measures the same ratio on any network:

    ρ = FLOPs of the operations that grow with the square of the pixels / FLOPs of all others.

For plain ViT blocks ρ = (L + t)/6D exactly (t class and register tokens). Windows, pooled keys, other MLP ratios and
whatever else an architecture does need no rule of their own: `growth.py` tells quadratic from linear by measurement.
With causal attention half of the pairs do not exist and the threshold is 12·D.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import timm
import torch
from torch import nn

from ..sources import Network, on_meta
from .counter import CONVENTIONS, Convention, Count, OpCount, count_flops
from .formulas import UnknownOperatorError
from .growth import Polynomial, Site, add, evaluate, exponent, fit, measure_growth
from .other_counters import compare_counters
from .record import FLOP_CLASSES, AnalysisRecord, GrowthRecord, ModuleRecord, StageRecord, UncountedRecord
from .stages import Grid, Stage, assign_paths, find_stages, name_mixer, output_grid

# (H, W) in pixels that the papers of each task state their FLOPs at; no task generates its output token by token.
TASKS: dict[str, tuple[tuple[int, int], ...]] = {
    "imagenet": ((224, 224),),
    "coco": ((800, 1280),),
    "ade20k": ((512, 2048), (512, 512)),
    "nyu": ((480, 640),),
    "kitti": ((352, 1216),),
}
AUTOREGRESSIVE_TASKS: frozenset[str] = frozenset()
SHORT, LONG = 0.1, 1.0
ATTENTION_PATH = "composite operators taken apart: fused and eager attention count alike"

_REFUSALS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)  # how timm models refuse an image size


def length_class(rho: float | None, *, grows: bool) -> str:
    """``never`` if nothing grows quadratically, else ``short`` (ρ < 0.1), ``mixed`` (< 1) or ``long``."""
    if rho is None:
        return "unknown"
    if not grows:
        return "never"
    return "short" if rho < SHORT else "mixed" if rho < LONG else "long"


def verdict(length: str, autoregressive: bool) -> str:
    """The class, whether the task is autoregressive, and what the paper's criterion concludes."""
    reasons = {
        "unknown": "unknown: the network takes one image size only, so its growth cannot be measured",
        "never": "never: nothing in it grows with the square of the pixels",
        "short": "short: what grows quadratically costs less than a tenth of the rest",
        "mixed": "mixed: what grows quadratically costs a tenth of the rest or more, but less than the rest",
        "long": "long: what grows quadratically costs as much as the rest or more",
    }
    if autoregressive or length == "long":
        conclusion = "an SSM has a case"
    else:
        conclusions = {"unknown": "no conclusion", "never": "nothing for an SSM to save"}
        conclusion = conclusions.get(length, "no case for an SSM")
    return f"{reasons[length]}; {'' if autoregressive else 'not '}autoregressive: {conclusion}"


def crossover(quadratic: Polynomial, rest: Polynomial) -> float | None:
    """The side s beyond which ``quadratic`` ≥ ``rest``; ``None`` if it never is."""
    if not any(quadratic):
        return None
    difference = [float(q - r) for q, r in zip(quadratic, rest, strict=True)]
    roots = np.roots(difference[::-1])
    return max(
        (float(root.real) for root in roots if root.real > 0 and abs(root.imag) < 1e-9 * abs(root)), default=None
    )


@dataclass
class Tally:
    """FLOPs of some operations at one image size."""

    quadratic: int = 0
    total: int = 0
    macs: int = 0
    by_class: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FLOP_CLASSES, 0))

    def book(self, op: OpCount, quadratic: bool, convention: Convention) -> None:
        flops = op.cost(convention)
        self.total += flops
        self.quadratic += flops * quadratic
        self.macs += op.macs(convention)
        self.by_class[op.kind] += flops

    @property
    def rho(self) -> Fraction:
        return _ratio(self.quadratic, self.total)

    @property
    def attention_ratio(self) -> Fraction:
        return _ratio(self.by_class["attention"], self.total)


def _ratio(part: int, total: int) -> Fraction:
    """``part`` over what is left of ``total``; 0 where there is nothing."""
    return Fraction(part, total - part) if total > part else Fraction(0)


class Analyzer:
    """One architecture, its growth measured once, to be analyzed at any image size.

    Args:
        model: a name as `sources` has it, or a network.

    Raises:
        ValueError: unknown name.
        UnknownOperatorError: an operator that multiplies has no formula.
    """

    def __init__(self, model: str | Network) -> None:
        self.models = on_meta(model)
        self.growth = measure_growth(self.models)
        self.powers = self.growth.powers() if self.growth else {}

    def at(
        self,
        image_size: tuple[int, int] | None = None,
        *,
        task: str | None = None,
        convention: Convention = "exact",
        trust: bool = False,
    ) -> AnalysisRecord:
        """Counts one forward pass of one image.

        Args:
            image_size: (H, W) in pixels; ``None`` for the model's default.
            task: the preset that the size comes from, for the record.
            convention: see `flops`.
            trust: also ask other counters (`trust.py`; slow and large at large images).

        Raises:
            ValueError: the network cannot take such images; unknown convention.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")
        image_size = image_size or self.models.default_image_size
        counted_size, count = self._count(image_size)
        record = _Draft(self, image_size, counted_size, count, convention).record(task)
        if not trust:
            return record
        model = self.models.at(counted_size)
        return replace(record, trust=compare_counters(self.models.name, model, counted_size, count))

    def _count(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], Count]:
        """Counts at ``image_size``, or at the next size up that the architecture takes."""
        refusal: Exception | None = None
        for size in self._sizes(image_size):
            try:
                return size, count_flops(self.models.at(size), size)
            except UnknownOperatorError:
                raise
            except _REFUSALS as error:
                refusal = refusal or error
        height, width = image_size
        reason = (str(refusal).strip() or type(refusal).__name__).splitlines()[0]
        expected = self._expected(image_size)
        raise ValueError(f"{self.models.name} cannot take {height}×{width} images{expected}: {reason}")

    def _sizes(self, image_size: tuple[int, int]) -> Iterable[tuple[int, int]]:
        """``image_size``, then larger ones: whole patches or windows, then squares of as many pixels."""
        yield image_size
        steps = {14, 16, 28, 32, 64, 192, 224, 256, *([self.growth.unit] if self.growth else [])}
        side = math.sqrt(math.prod(image_size))
        for shape in (image_size, (side, side)):
            sizes = {tuple(math.ceil(length / step) * step for length in shape) for step in steps}
            for size in sorted(sizes - {image_size}, key=math.prod):
                if all(new < 2 * old for new, old in zip(size, shape, strict=True)):
                    yield size

    def _expected(self, image_size: tuple[int, int]) -> str:
        if self.growth is not None:
            return f" (expected the likes of {', '.join(f'{side}×{side}' for side in self.growth.sides)})"
        default = self.models.default_image_size
        return "" if image_size == default else f" (expected {default[0]}×{default[1]}, its only size)"


def analyze(
    name: str, image_size: tuple[int, int] | None = None, *, task: str | None = None, convention: Convention = "exact"
) -> AnalysisRecord:
    """Analyzes one model at one image size; see `Analyzer`."""
    return Analyzer(name).at(image_size, task=task, convention=convention)


class _Draft:
    """The numbers of one record on their way."""

    def __init__(
        self,
        analyzer: Analyzer,
        image_size: tuple[int, int],
        counted_size: tuple[int, int],
        count: Count,
        convention: Convention,
    ) -> None:
        self.analyzer, self.growth, self.count, self.convention = analyzer, analyzer.growth, count, convention
        self.image_size, self.counted_size = image_size, counted_size
        self.model: nn.Module = analyzer.models.at(counted_size)
        self.sites: dict[str, list[Site]] = defaultdict(list)
        for site in self.growth.sites if self.growth else ():
            self.sites[site.path].append(site)

    @property
    def scale(self) -> float:
        """Side in units of the growth's, of the square with as many pixels."""
        return math.sqrt(math.prod(self.counted_size)) / self.growth.unit

    def _tally(self, paths: Iterable[str]) -> Tally:
        tally = Tally()
        for path in paths:
            ops = self.count.modules[path].ops
            calls: dict[str, int] = defaultdict(int)
            for op in ops:
                power = self._power(path, op.kind, calls[op.kind])
                calls[op.kind] += 1
                tally.book(op, power == 4, self.convention)
        return tally

    def _power(self, path: str, kind: str, index: int) -> int:
        powers = self.analyzer.powers
        return powers.get((path, kind, index), powers.get((path, kind, -1), 0))

    def _polynomials(self, paths: Iterable[str]) -> tuple[Polynomial, Polynomial]:
        """FLOPs of what grows quadratically and of the rest, over the side."""
        sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        for path in paths:
            for site in self.sites[path]:
                total = sums[site.power]
                total[:] = [a + b for a, b in zip(total, site.costs(self.convention), strict=True)]
        fits = {power: fit(values, power) for power, values in sums.items()}
        return add(fits[p] for p in fits if p == 4), add(fits[p] for p in fits if p != 4)

    def _exponent(self, paths: Iterable[str]) -> float | None:
        return exponent(add(self._polynomials(paths)), self.scale) if self.growth else None

    def record(self, task: str | None) -> AnalysisRecord:
        whole = self._tally(self.count.modules)
        stages = self._stages()
        formula = _formula_stage(stages)
        growth = rounding = side = None
        if self.growth:
            quadratic, rest = self._polynomials(self.count.modules)
            growth = GrowthRecord(self.growth.unit, self.growth.sides, _strings(quadratic), _strings(rest))
            rounding = whole.total / (evaluate(quadratic, self.scale) + evaluate(rest, self.scale)) - 1
            s = crossover(quadratic, rest)
            side = s and s * self.growth.unit
        rho = whole.rho if self.growth else None
        length = length_class(rho, grows=side is not None)
        autoregressive = task in AUTOREGRESSIVE_TASKS
        return AnalysisRecord(
            model=self.analyzer.models.name,
            params=sum(p.numel() for p in self.model.parameters()),
            task=task,
            autoregressive=autoregressive,
            image_size=self.image_size,
            counted_size=self.counted_size,
            convention=self.convention,
            attention_path=ATTENTION_PATH,
            causal=self.count.causal,
            flops=whole.total,
            macs=whole.macs,
            flops_by_class=whole.by_class,
            macs_by_class=self._macs_by_class(),
            macs_paper=self.count.macs("paper"),
            rho=None if rho is None else float(rho),
            rho_exact=None if rho is None else str(rho),
            attention_ratio=float(whole.attention_ratio),
            formula=formula.formula if formula else None,
            formula_stage=formula.name if formula else None,
            exponent=self._exponent(self.count.modules),
            crossover_side=side,
            crossover_tokens=side and (side / 16) ** 2,
            length_class=length,
            verdict=verdict(length, autoregressive),
            growth=growth,
            rounding=rounding,
            stages=stages,
            modules=tuple(self._modules()),
            uncounted=tuple(UncountedRecord(op, u.calls, u.elements) for op, u in self.count.uncounted.items()),
            versions={
                "torch": torch.__version__,
                "timm": timm.__version__,
                "mixerzoo": importlib.metadata.version("mixerzoo"),
            },
        )

    def _macs_by_class(self) -> dict[str, int]:
        macs = dict.fromkeys(FLOP_CLASSES, 0)
        for module in self.count.modules.values():
            for op in module.ops:
                macs[op.kind] += op.macs(self.convention)
        return macs

    def _stages(self) -> tuple[StageRecord, ...]:
        stages = find_stages(self.model, self.count)
        members: dict[Stage | str, list[str]] = defaultdict(list)
        for path, stage in assign_paths(stages, self.count.modules).items():
            members[stage].append(path)
        records = (self._stage(stage, paths) for stage, paths in members.items())
        order = {stage.name: i for i, stage in enumerate(stages)} | {"stem": -1}
        return tuple(sorted((r for r in records if r.flops), key=lambda r: order.get(r.name, len(order))))

    def _stage(self, stage: Stage | str, paths: list[str]) -> StageRecord:
        tally = self._tally(paths)
        known = isinstance(stage, Stage)
        grid = output_grid(stage, self.count, self.growth, self.counted_size) if known else None
        modules = [self.count.modules[path] for path in paths]
        mixer = name_mixer([s for path in paths for s in self.sites[path]], set().union(*(m.mixers for m in modules)))
        moved = sum(module.bytes_moved for module in modules)
        return StageRecord(
            name=stage.name if known else stage,
            stride=_stride(stage, grid, self.counted_size) if known and grid else None,
            grid=grid.shape if grid else None,
            tokens=grid.tokens if grid else None,
            prefix_tokens=grid.prefix_tokens if grid else 0,
            dim=grid.dim if grid else None,
            mixer=mixer,
            causal=any(op.causal for module in modules for op in module.ops),
            six_d=6 * grid.dim if grid else None,
            formula=grid.tokens / (6 * grid.dim) if grid else None,
            rho=float(tally.rho) if self.growth else None,
            rho_exact=str(tally.rho) if self.growth else None,
            attention_ratio=float(tally.attention_ratio),
            attention_ratio_exact=str(tally.attention_ratio),
            exponent=self._exponent(paths),
            flops=tally.total,
            macs=tally.macs,
            flops_by_class=tally.by_class,
            activation_mb=sum(module.bytes_written for module in modules) / 1e6,
            intensity=tally.total / moved if moved else 0.0,
        )

    def _modules(self) -> Iterable[ModuleRecord]:
        """Every module that does arithmetic, with all inside it."""
        inside: dict[str, list[str]] = {}
        for path in self.count.modules:
            parts = path.split(".") if path else []
            for depth in range(len(parts) + 1):
                inside.setdefault(".".join(parts[:depth]), []).append(path)
        for path, paths in inside.items():
            tally = self._tally(paths)
            if not tally.total:
                continue
            growth = add(self._polynomials(paths)) if self.growth else None
            yield ModuleRecord(
                path=path,
                flops=tally.total,
                macs=tally.macs,
                flops_by_class=tally.by_class,
                exponent=exponent(growth, self.scale) if growth else None,
                growth=_strings(growth) if growth else None,
            )


def _stride(stage: Stage, grid: Grid, image_size: tuple[int, int]) -> float:
    return stage.stride or math.sqrt(math.prod(image_size) / grid.tokens)


def _formula_stage(stages: tuple[StageRecord, ...]) -> StageRecord | None:
    """The stage that L/6D is stated for: stride 16 as in the paper, else the costliest."""
    grids = [stage for stage in stages if stage.formula is not None]
    sixteen = [stage for stage in grids if stage.stride == 16]
    return max(sixteen or grids, key=lambda stage: stage.flops, default=None)


def _strings(polynomial: Polynomial) -> tuple[str, ...]:
    return tuple(map(str, polynomial))
