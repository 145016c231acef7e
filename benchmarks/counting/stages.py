"""The stages of a network, and how tokens meet in them, read off from what it did.

timm's ``feature_info`` names the modules that end a stage; adjacent entries of one stride (the blocks of a ViT) are one
stage. What runs between two of them (down-sampling, blocks that are no feature) belongs to the later one. A network
without it is divided into its children, lists opened, adjacent ones with outputs of one shape together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .counter import Count
from .formulas import Product
from .growth import Growth, Site, leading_power

STEM, HEAD, BETWEEN = "stem", "head", "between"


@dataclass(frozen=True)
class Stage:
    """Modules that form a stage, in order of execution; ``stride`` and ``dim`` as ``feature_info`` has them."""

    modules: tuple[str, ...]
    stride: int | None = None
    dim: int | None = None

    @property
    def name(self) -> str:
        first, last = self.modules[0], self.modules[-1]
        return first if first == last else f"{first}…{last.rpartition('.')[2]}"


def find_stages(model: nn.Module, count: Count) -> list[Stage]:
    """The stages by ``feature_info``, else by the network's structure: see the module."""
    infos = _feature_infos(model)
    known = {path for path, _ in model.named_modules()}
    if not infos or not all(info.get("module") in known for info in infos):
        return _stages_by_structure(model, count)
    stages: list[Stage] = []
    for info in infos:
        stage = Stage((info["module"],), info.get("reduction"), info.get("num_chs"))
        if stages and stages[-1].stride == stage.stride:
            stage = Stage((*stages.pop().modules, *stage.modules), stage.stride, stage.dim)
        stages.append(stage)
    return stages


def _stages_by_structure(model: nn.Module, count: Count) -> list[Stage]:
    busy = {prefix for path, module in count.modules.items() if module.ops for prefix in _prefixes(path)}
    stages: list[Stage] = []
    for name, child in model.named_children():
        opened = isinstance(child, nn.ModuleList | nn.Sequential)
        paths = [f"{name}.{inner}" for inner, _ in child.named_children()] if opened else [name]
        latest = None
        for path in paths:
            if path not in busy:
                continue
            shape = _output_shape(Stage((path,)), count)
            if shape is not None and shape == latest:
                stages[-1] = Stage((*stages[-1].modules, path))
            else:
                stages.append(Stage((path,)))
            latest = shape
    return stages


def _feature_infos(model: nn.Module) -> list[dict[str, Any]]:
    infos = getattr(model, "feature_info", None) or []
    return infos if isinstance(infos, list) else infos.get_dicts()


def assign_paths(stages: Sequence[Stage], paths: Iterable[str]) -> dict[str, Stage | str]:
    """The stage of each module path, given in order of execution, or `STEM`, `HEAD` or `BETWEEN`."""
    owner = {module: stage for stage in stages for module in stage.modules}
    assigned: dict[str, Stage | str] = {}
    latest = -1  # the stage that ran last
    for path in paths:
        stage = next((owner[prefix] for prefix in _prefixes(path) if prefix in owner), None)
        if stage is not None:
            latest = max(latest, stages.index(stage))
            assigned[path] = stage
        elif any(module == path or module.startswith(f"{path}.") or not path for module in owner):
            assigned[path] = BETWEEN  # holds stages: what it does itself is around them
        elif latest < 0:
            assigned[path] = STEM
        else:
            assigned[path] = stages[latest + 1] if latest + 1 < len(stages) else HEAD
    return assigned


def _prefixes(path: str) -> Iterable[str]:
    """``a.b.c`` → ``a.b.c``, ``a.b``, ``a``."""
    while path:
        yield path
        path = path.rpartition(".")[0]


@dataclass(frozen=True)
class Grid:
    """What a stage puts out: L tokens (and t prefix tokens) of D channels, on an (H, W) grid if it is one."""

    tokens: int
    dim: int
    prefix_tokens: int = 0
    shape: tuple[int, int] | None = None


def output_grid(stage: Stage, count: Count, growth: Growth | None, image_size: tuple[int, int]) -> Grid | None:
    """Tokens and channels of a stage's output; ``None`` if it is no map and no sequence.

    Channels are the axis that does not grow with the image, whatever the layout; prefix tokens are the constant part
    of a sequence's length. Where growth is unknown, ``feature_info`` says how many channels there are.
    """
    shape = _output_shape(stage, count)
    if shape is None or len(shape) not in (3, 4):
        return None
    if growth is None:
        axes = [axis for axis in range(1, len(shape)) if shape[axis] != stage.dim]
        prefix = 0
    else:
        small, double = (_output_shape(stage, counted) for counted in growth.counts[:2])
        if small is None or double is None or len(small) != len(shape) or len(double) != len(shape):
            return None
        axes = [axis for axis in range(1, len(shape)) if small[axis] != double[axis]]
        prefix = 0 if len(axes) != 1 else small[axes[0]] - (double[axes[0]] - small[axes[0]]) // 3  # N = a·s² + t
    if len(axes) != len(shape) - 2:
        return None
    (dim,) = (shape[axis] for axis in range(1, len(shape)) if axis not in axes)
    if len(axes) == 2:
        grid = (shape[axes[0]], shape[axes[1]])
        return Grid(math.prod(grid), dim, shape=grid)
    tokens = shape[axes[0]] - prefix
    roundings = (math.floor, math.ceil) if stage.stride else ()
    grids = [tuple(rounding(side / stage.stride) for side in image_size) for rounding in roundings]
    return Grid(tokens, dim, prefix, next((grid for grid in grids if math.prod(grid) == tokens), None))


def _output_shape(stage: Stage, count: Count) -> tuple[int, ...] | None:
    """Output shape of the stage's last module; a list of modules is never called itself, its last child is."""
    last = stage.modules[-1]
    if last in count.modules:
        return count.modules[last].out_shape
    children = [path for path in count.modules if path.rpartition(".")[0] == last]
    return count.modules[children[-1]].out_shape if children else None


def name_mixer(sites: Sequence[Site], operators: set[str]) -> str:
    """How tokens meet in a stage, inferred from the shapes of its operations and their growth.

    Args:
        sites: the stage's operations.
        operators: `flops.ModuleCount.mixers` of its modules.
    """
    kinds = dict.fromkeys(kind for site in sites if (kind := _site_mixer(site)))
    # The two halves of a linear attention look alike but for what they sum over.
    if "linear attention" in kinds or "class attention" in kinds:
        kinds.pop("attention to pooled keys", None)
    kinds.update(dict.fromkeys(sorted(operators)))
    return " + ".join(kinds) or "none"


def _site_mixer(site: Site) -> str | None:
    if site.kind == "scan":
        return "scan"
    if site.ops and site.ops[0].op in ("aten.lstm", "aten.gru"):
        return "recurrent"
    if site.products is None:
        return None
    batch, m, k, n = (leading_power(values) for values in zip(*site.products, strict=True))
    if site.kind == "linear":
        return "token MLP" if not batch and not m and (k or n) else None  # relative positions have m growing, too
    if site.kind != "attention":
        return None
    if m and n and site.power < 4:
        return "axial attention"
    if m and n:
        return _global_attention(site.products[-1], site.ops[-1].causal)
    if k:  # sums over the tokens
        return "linear attention" if not (m or n) and site.products[0].m > 1 else None
    if m:
        return "attention to pooled keys"
    if n:
        return "class attention" if site.products[0].m == 1 else None
    return "window attention" if batch else None


def _global_attention(product: Product, causal: bool) -> str:
    """q·kᵀ of every query with every key, one of which may have been thinned out."""
    name = "causal attention" if causal else "attention"
    if product.m > 1.5 * product.n:
        return f"{name}, keys/{round(product.m / product.n)}"
    if product.n > 1.5 * product.m:
        return f"{name}, queries/{round(product.n / product.m)}"
    return name


def name_all_mixers(count: Count) -> str:
    """The operators by which tokens meet, anywhere in the network; how they grow takes `mixerzoo analyze`."""
    ops = [op for module in count.modules.values() for op in module.ops]
    found = {
        "scan": any(op.kind == "scan" for op in ops),
        "causal attention": any(op.causal for op in ops),
        "attention": any(op.kind == "attention" and not op.causal for op in ops),
        "recurrent": any(op.op in ("aten.lstm", "aten.gru") for op in ops),
        "convolution": any("convolution" in module.mixers for module in count.modules.values()),
        "pooling": any("pooling" in module.mixers for module in count.modules.values()),
    }
    return " + ".join(name for name, present in found.items() if present) or "none"
