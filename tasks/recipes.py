"""Recipes: one packaged config for all the backbones that it trains, with a table of what is published of each.

A recipe is a config that mmengine reads as it stands, with its default backbone, and has three variables of its own::

    run_name = "mask_rcnn_{backbone}_1x_coco"  # a name of this form means the recipe with that backbone
    backbone = "mambaout_tiny_gatedcnn"        # the default, whose row the file has written into `model`
    backbones = dict(mambaout_tiny_gatedcnn=dict(drop_path_rate=0.2), …)

A row holds arguments of the network (``model.backbone``; in classification and depth ``model.net``), ``name`` where the
key is not timm's name, and in ``cfg`` what else of the config changes. A backbone that has no row gets no arguments.
An experiment is a config with a ``grid`` (`experiments.grid`), whose cells have names too. Nothing here imports torch
before a backbone without a row asks for it, so that listing recipes is quick.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from mmengine.config import Config, ConfigDict

from .. import configs as packaged
from .experiments.grid import Cell, expand

__all__ = [
    "CONFIGS",
    "BackboneError",
    "Choice",
    "Recipe",
    "config_names",
    "experiment",
    "find",
    "read",
    "read_recipe",
    "run_name",
]

CONFIGS = Path(packaged.__file__).parent
SCOPE = "mixerzoo::"
MIXERZOO_KEYS = ("run_name", "backbone", "backbones", "grid", "seeds")


class BackboneError(ValueError):
    """A backbone that a config cannot have."""


@dataclass(frozen=True)
class Recipe:
    """A config of which there are variants.

    Attributes:
        path: its file.
        about: its docstring.
        run_name: names of its variants, with ``{backbone}``; empty where it has none.
        backbone: the default.
        backbones: name → row.
        cells: of its grid; without one, of its backbones.
        seeds: runs of each cell.
    """

    path: Path
    about: str
    run_name: str
    backbone: str
    backbones: Mapping[str, Any]
    cells: list[Cell]
    seeds: int

    @property
    def name(self) -> str:
        """As commands take it."""
        return str(self.path.relative_to(CONFIGS).with_suffix("")) if _is_packaged(self.path) else str(self.path)


@dataclass(frozen=True)
class Choice:
    """What a name stands for: a file, and what the name says beside."""

    path: Path
    backbone: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    run_name: str | None = None


def config_names(folder: str = "") -> list[str]:
    """Names of the packaged configs, or of those in one folder of them."""
    paths = [path.relative_to(CONFIGS).with_suffix("") for path in sorted((CONFIGS / folder).rglob("*.py"))]
    return [path.as_posix() for path in paths if not any(part.startswith("_") for part in path.parts)]


def find(config: str | Path) -> Choice:
    """What a path or a name stands for.

    A name is that of a packaged file (``detection/mask_rcnn_1x_coco``), of a recipe with a backbone in it
    (``detection/mask_rcnn_vmamba_tiny_s1l8_1x_coco``), or of a cell of an experiment (``detection/h2/s6_long``).

    Raises:
        FileNotFoundError: none of them; the message lists the closest names.
        ValueError: several recipes could be meant.
    """
    for path in (Path(config), CONFIGS / f"{config}.py", CONFIGS / config, _experiment_file(str(config))):
        if path is not None and path.is_file():
            return Choice(path.resolve())
    found = _cell(str(config)) or _variant(str(config))
    if found is None:
        names = [*config_names(), *(f"{_folder(recipe)}/{name}" for recipe in _recipes() for name in _variants(recipe))]
        close = difflib.get_close_matches(str(config), names, n=3, cutoff=0.3) or names[:5]
        raise FileNotFoundError(
            f"{config}: no such config file, nor a packaged one; the closest are {', '.join(close)}"
        )
    return found


def experiment(name: str | Path) -> Recipe:
    """The experiment of a name: ``detection_h2`` (or ``detection/h2``), a recipe (all of its backbones), or a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file has neither a grid nor backbones.
    """
    path = _experiment_file(str(name))
    if path is None:
        there = ", ".join(entry.rpartition("/")[2] for entry in config_names("experiments"))
        raise FileNotFoundError(f"{name}: no such experiment; there are {there}, and every recipe")
    recipe = read_recipe(path)
    if not recipe.cells:
        raise ValueError(f"{path}: expected a config with a grid or with backbones; it has neither")
    return recipe


def read_recipe(path: Path) -> Recipe:
    """What a file says of its variants; none of what it is about need be installed.

    Raises:
        ValueError: its grid is none.
    """
    return _packaged_recipe(path) if _is_packaged(path) else _read_recipe(path)


def _read_recipe(path: Path) -> Recipe:
    cfg = read(path, imports=False)
    rows = cfg.get("backbones", {})
    grid = cfg.get("grid") or ({"backbone": list(rows)} if rows else {})
    try:
        cells = expand(grid) if grid else []
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    about = ast.get_docstring(ast.parse(path.read_text())) or ""
    form = "" if "grid" in cfg else cfg.get("run_name", "")
    return Recipe(path, about, form, cfg.get("backbone", ""), rows, cells, cfg.get("seeds", 3))


_packaged_recipe = cache(_read_recipe)


def _is_packaged(path: Path) -> bool:
    return path.is_relative_to(CONFIGS.resolve())


def _recipes(folder: str = "") -> list[Recipe]:
    """Packaged configs that have variants."""
    read_all = [read_recipe((CONFIGS / f"{name}.py").resolve()) for name in config_names(folder)]
    return [recipe for recipe in read_all if "{backbone}" in recipe.run_name]


def _folder(recipe: Recipe) -> str:
    return recipe.name.rpartition("/")[0]


def _variants(recipe: Recipe) -> list[str]:
    return [recipe.run_name.format(backbone=backbone) for backbone in recipe.backbones]


def _cell(name: str) -> Choice | None:
    where, _, label = name.rpartition("/")
    path = _experiment_file(where) if where else None
    for cell in read_recipe(path).cells if path else ():
        if cell.name == label:
            return Choice(path, options=cell.options, run_name=f"{path.stem}/{label}")
    return None


def _experiment_file(name: str) -> Path | None:
    """`detection/h2` is what `experiments/detection_h2` was called."""
    folder = CONFIGS / "experiments"
    short = name.removeprefix("experiments/").replace("/", "_")
    candidates = (Path(name), folder / f"{short}.py", CONFIGS / f"{name}.py")
    return next((path.resolve() for path in candidates if path.is_file()), None)


def _variant(name: str) -> Choice | None:
    folder, _, stem = name.rpartition("/")
    if not folder or not (CONFIGS / folder).is_dir():
        return None
    found = []
    for recipe in _recipes(folder):
        match = re.fullmatch(re.escape(recipe.run_name).replace(r"\{backbone\}", "(.+)"), stem)
        if match:
            found.append((recipe, match[1]))
    listed = [(recipe, backbone) for recipe, backbone in found if _row(recipe.backbones, backbone)[0] is not None]
    if not listed and found:
        found = [(recipe, backbone) for recipe, backbone in found if _timm_has(backbone)]
    if len(listed or found) > 1:
        names = " or ".join(recipe.name for recipe, _ in listed or found)
        raise ValueError(f"{name}: choose the recipe: {names}, with --backbone {found[0][1]}")
    return next((Choice(recipe.path, backbone) for recipe, backbone in listed or found), None)


def _timm_has(name: str) -> bool:
    import timm

    from .. import backbones  # noqa: F401  (registers ours)

    return timm.is_model(name)


def read(path: Path, backbone: str | None = None, imports: bool = True) -> Config:
    """The config of a file with another backbone than its default.

    A file may begin with ``_base_ = "mixerzoo::NAME"``, where NAME is as `find` takes it. Then the backbone is chosen
    in what it inherits, and what the file says of it has the last word.

    Args:
        path: of the file.
        backbone: a row's key, or any of timm's names; None: the default.
        imports: import what its ``custom_imports`` name.

    Raises:
        BackboneError: it has no network to replace, or there is no such one.
        FileNotFoundError: of an inherited name.
        Exception: whatever the file itself raises.
    """
    with _packaged_bases(backbone) as bases:
        cfg = Config.fromfile(path, import_custom_modules=imports)
    if backbone is not None and not bases.chosen:
        _choose(cfg, backbone, path)
    return cfg


def run_name(cfg: Config, choice: Choice, backbone: str | None) -> str:
    """What runs are called: the recipe's name with the backbone in it, a cell's, or that of the user's own file."""
    if choice.run_name:
        return choice.run_name
    if _is_packaged(choice.path) and "run_name" in cfg and "grid" not in cfg:
        return cfg.run_name.format(backbone=cfg.backbone.replace("/", "_"))
    return choice.path.stem + (f"_{backbone.replace('/', '_')}" if backbone else "")


@contextmanager
def _packaged_bases(backbone: str | None) -> Iterator[SimpleNamespace]:
    """While it lasts, mmengine reads ``mixerzoo::NAME``; its own ``package::`` knows OpenMMLab's packages alone."""
    own, done = Config._get_cfg_path, SimpleNamespace(chosen=False)
    with tempfile.TemporaryDirectory() as folder:

        def path_of(base: str, filename: str) -> tuple[str, str | None]:
            if not base.startswith(SCOPE):
                return own(base, filename)
            choice = find(base.removeprefix(SCOPE).removesuffix(".py"))
            chosen = backbone or choice.options.get("backbone", choice.backbone)
            if chosen is None and not choice.options:
                return str(choice.path), None
            done.chosen |= backbone is not None
            cfg = Config.fromfile(choice.path, import_custom_modules=False)
            if chosen is not None:
                _choose(cfg, chosen, choice.path)
            cfg.merge_from_dict({key: value for key, value in choice.options.items() if key != "backbone"})
            copy = Path(folder) / f"{abs(hash(base))}.py"
            copy.write_text("".join(f"{key} = {value!r}\n" for key, value in cfg.to_dict().items()))
            return str(copy), None

        with mock.patch.object(Config, "_get_cfg_path", staticmethod(path_of)):
            yield done


def _choose(cfg: Config, backbone: str, path: Path) -> None:
    """Takes the default's row out of the network's arguments, and puts another one in."""
    model = cfg.get("model", {})
    key = next((key for key in ("backbone", "net") if key in model), None)
    if key is None or model[key].get("type", "TimmBackbone") != "TimmBackbone":
        found = f"model.{key} is {model[key].type}" if key else "it has neither model.backbone nor model.net"
        raise BackboneError(f"{path}: --backbone: expected a TimmBackbone or a network of timm's; {found}")
    network, rows = model[key], cfg.get("backbones", {})
    default = rows.get(cfg.get("backbone"), {})
    listed, row = _row(rows, backbone)
    for stale in ("name", *default):
        network.pop(stale, None)
    network.update({"name": backbone, **{argument: row[argument] for argument in row if argument != "cfg"}})
    cfg.merge_from_dict(row.get("cfg", {}))
    cfg.backbone = listed or backbone
    if listed is None:
        if key == "backbone":
            try:
                _fit(model, "init_cfg" in default)
            except ValueError as error:
                raise BackboneError(f"{path}: --backbone: {error}") from error
        said = ", ".join(
            f"{argument}={value}" for argument, value in network.items() if argument not in ("type", "name")
        )
        print(f"{backbone} is not in the table of {path.stem}: {said or 'no arguments'}", file=sys.stderr)


def _row(rows: Mapping[str, Any], backbone: str) -> tuple[str | None, Mapping[str, Any]]:
    """Key and row of a backbone by its key or timm's name; a tag of weights that the caller wrote stays."""
    if backbone in rows:
        return backbone, rows[backbone]
    bare, _, tag = backbone.partition(".")
    for key, row in rows.items():
        name = row.get("name", key)
        if name.partition(".")[0] == bare:
            return key, {**row, "name": backbone if tag else name}
    return None, {}


def _fit(model: ConfigDict, with_weights: bool) -> None:
    """To a backbone without a row: a pyramid where it needs one, timm's weights where there are some, channels."""
    import timm
    import torch

    from .backbone import TimmBackbone, create_dense_network

    network = model.backbone
    with torch.device("meta"):
        strides = {info["reduction"] for info in create_dense_network(network.name).feature_info}
        if strides == {16}:
            network.pyramid = True
        if with_weights and timm.get_pretrained_cfg(network.name).has_weights:
            network.init_cfg = ConfigDict(type="Pretrained", checkpoint="timm")
        built = TimmBackbone(**{key: value for key, value in network.items() if key not in ("type", "init_cfg")})
    if "neck" in model:
        model.neck.in_channels = built.out_channels
    for head in (model.get("decode_head"), model.get("auxiliary_head")):
        if head is not None:
            several = isinstance(head.in_index, list | tuple)
            head.in_channels = (
                [built.out_channels[i] for i in head.in_index] if several else built.out_channels[head.in_index]
            )
