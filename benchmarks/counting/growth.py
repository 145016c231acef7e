"""How the arithmetic of a network grows with the image: an exact fit over three sizes.

A network is counted at three square images of side u, 2u and 3u. Every operation (the n-th product in a module) then
has three integers, which determine a polynomial of the side exactly. Which powers it may contain follows from its
leading power, the slope between the two largest sizes: s⁴ is the square of the number of pixels (global attention),
s² is linear in it, s³ occurs in relative positions along an axis. Nothing has to be known about the architecture:
windows, pooled keys, class tokens and odd widths are in the integers.

Rounding would spoil the fit: a map of 57 rows at stride 2, or one padded to whole windows. So u is a side at which the
network rounds nowhere: its own default, or else another common one. Whether it does is checked operation by operation:
each dimension of a matrix product must be constant, a multiple of s, or a·s² + t. Where no side is clean (such as
convolutions without padding) the cleanest is taken, and `Growth.rounded` says how much of the arithmetic was rounded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from ..sources import MetaModels, Network
from .counter import Convention, Count, OpCount, count_flops
from .formulas import Product, UnknownOperatorError

STEPS = (1, 2, 3)
COMMON_SIDES = (224, 256, 384)
Polynomial = tuple[Fraction, Fraction, Fraction, Fraction, Fraction]  # coefficients of s⁰ … s⁴
ZERO: Polynomial = (Fraction(0),) * 5


def leading_power(values: Sequence[int]) -> int:
    """Power of the side, 0 … 4, that a quantity counted at `STEPS` grows with."""
    _, middle, last = values
    if not middle or not last:
        return 0
    return min(4, max(0, round(math.log(last / middle) / math.log(STEPS[2] / STEPS[1]))))


def fit(values: Sequence[int], power: int) -> Polynomial:
    """The polynomial of leading ``power`` through ``values`` at s = 1, 2, 3, with exact rational coefficients.

    The three powers that it may contain: 0, 2, 4 under s⁴ (such as (s²L + t)²), 0, 2, 3 under s³, else 0, 1, 2.
    """
    powers = {4: (0, 2, 4), 3: (0, 2, 3)}.get(power, (0, 1, 2))
    rows = [[Fraction(s**p) for p in powers] + [Fraction(value)] for s, value in zip(STEPS, values, strict=True)]
    for i in range(3):  # Gauss-Jordan; the leading minors of these Vandermonde matrices do not vanish
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(3):
            if j != i:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    coefficients = dict(zip(powers, (row[3] for row in rows), strict=True))
    return tuple(coefficients.get(p, Fraction(0)) for p in range(5))


def add(polynomials: Iterable[Polynomial]) -> Polynomial:
    """The sum."""
    return tuple(map(sum, zip(ZERO, *polynomials, strict=True)))


def evaluate(polynomial: Polynomial, s: float) -> float:
    """Its value at side s."""
    return sum(float(c) * s**k for k, c in enumerate(polynomial))


def exponent(polynomial: Polynomial, s: float) -> float | None:
    """d log F / d log x at side s, x = s² being the number of pixels; ``None`` for F = 0."""
    value = evaluate(polynomial, s)
    slope = sum(k * float(c) * s**k for k, c in enumerate(polynomial))
    return slope / (2 * value) if value else None


@dataclass(frozen=True)
class Site:
    """One operation at the three sizes (or, where its module calls a varying number of them, their sum).

    Attributes:
        path: the module that executes it.
        kind: its class.
        index: its position among the operations of this class in this module; -1 for the sum of all.
        ops: its call at each size, ``None`` for a sum.
        flops: FLOPs at each size in convention ``exact``.
        paper: FLOPs at each size in convention ``paper``.
    """

    path: str
    kind: str
    index: int
    ops: tuple[OpCount, OpCount, OpCount] | None
    flops: tuple[int, int, int]
    paper: tuple[int, int, int]

    def costs(self, convention: Convention) -> tuple[int, int, int]:
        return self.flops if convention == "exact" else self.paper

    @cached_property
    def power(self) -> int:
        """Leading power of the side."""
        return leading_power(self.flops if any(self.flops) else self.paper)

    @property
    def products(self) -> tuple[Product, Product, Product] | None:
        """Shapes of the product at each size, if it is one."""
        products = tuple(op.product for op in self.ops) if self.ops else (None,)
        return None if None in products else products

    @property
    def clean(self) -> bool:
        """Whether no rounding shows: see the module."""
        if self.products:
            return all(map(_clean, zip(*self.products, strict=True)))
        return _clean(self.flops if any(self.flops) else self.paper)


def _clean(values: Sequence[int]) -> bool:
    """Whether three values are a·s² + t, or a·s or a·s³ without a remainder."""
    first, second, third = values
    if 5 * (second - first) == 3 * (third - second):
        return True
    return any((second, third) == (first * 2**p, first * 3**p) for p in (1, 3, 4))


@dataclass(frozen=True)
class Growth:
    """A network counted at three sizes.

    Attributes:
        unit: u, in pixels.
        counts: at u, 2u and 3u.
        sites: every operation.
    """

    unit: int
    counts: tuple[Count, Count, Count]
    sites: tuple[Site, ...]

    @property
    def sides(self) -> tuple[int, int, int]:
        return tuple(self.unit * s for s in STEPS)

    @property
    def rounded(self) -> float:
        """Share of the FLOPs at the largest size in operations that are not `Site.clean`."""
        total = sum(site.flops[-1] for site in self.sites)
        return sum(site.flops[-1] for site in self.sites if not site.clean) / total if total else 0.0

    @property
    def attention_is_clean(self) -> bool:
        """Whether no act×act product is rounded; others cannot change what grows quadratically."""
        return all(site.clean for site in self.sites if site.kind == "attention")

    def powers(self) -> dict[tuple[str, str, int], int]:
        """Leading power of the side for every (path, class, index); index -1 is all of the class in the module."""
        powers = {(site.path, site.kind, site.index): site.power for site in self.sites}
        summed: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        for site in self.sites:
            totals = summed[site.path, site.kind]
            totals[:] = [a + b for a, b in zip(totals, site.flops, strict=True)]
        return {**{(*key, -1): leading_power(totals) for key, totals in summed.items()}, **powers}


def measure_growth(models: MetaModels | Network) -> Growth | None:
    """Counts an architecture at three sizes; ``None`` if it takes images of one size only.

    Raises:
        UnknownOperatorError: an operator that multiplies has no formula.
    """
    best = None
    for unit in _units(models.default_image_size):
        growth = _measure(models, unit)
        if growth is None:
            continue
        if growth.attention_is_clean:
            return growth
        best = growth if best is None else min(best, growth, key=lambda g: g.rounded)
    return best


def _units(default_size: tuple[int, int]) -> list[int]:
    """Sides to try: the default rounded up to whole tokens of stride 32 (14-pixel patches divide 224), then others."""
    default = max(default_size)
    rounded = default if default % 14 == 0 else math.ceil(default / 32) * 32
    return list(dict.fromkeys((rounded, default, *COMMON_SIDES)))


def _measure(models: MetaModels | Network, unit: int) -> Growth | None:
    try:
        counts = tuple(count_flops(models.at((unit * s,) * 2), (unit * s,) * 2) for s in STEPS)
    except UnknownOperatorError:
        raise
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError):
        return None  # this architecture does not take one of these sizes
    return Growth(unit, counts, tuple(_sites(counts)))


def _sites(counts: tuple[Count, Count, Count]) -> Iterable[Site]:
    for path in counts[0].modules:
        by_kind = [_by_kind(count.modules[path].ops if path in count.modules else []) for count in counts]
        for kind in dict.fromkeys(kind for kinds in by_kind for kind in kinds):
            calls = [kinds.get(kind, []) for kinds in by_kind]
            if len({len(ops) for ops in calls}) == 1:
                for index, ops in enumerate(zip(*calls, strict=True)):
                    yield Site(path, kind, index, ops, *_costs([(op,) for op in ops]))
            else:
                yield Site(path, kind, -1, None, *_costs(calls))


def _by_kind(ops: Iterable[OpCount]) -> dict[str, list[OpCount]]:
    kinds: dict[str, list[OpCount]] = defaultdict(list)
    for op in ops:
        kinds[op.kind].append(op)
    return kinds


def _costs(calls: Sequence[Iterable[OpCount]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """FLOPs of the calls at each size, in both conventions."""
    return (
        tuple(sum(op.flops for op in ops) for ops in calls),
        tuple(sum(op.cost("paper") for op in ops) for ops in calls),
    )
