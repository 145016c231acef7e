"""Reading a config: a file or a packaged name, values overridden, and slips in its keys found before anything runs."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..recipes import MIXERZOO_KEYS, BackboneError, config_names, find, read, run_name
from .errors import ConfigError, explain

__all__ = ["config_names", "find_config", "load_config", "parse_options"]

RUNNER_KEYS = set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}
OTHER_KEYS = {"custom_imports", "compile", "model_wrapper_cfg", "sync_bn", "find_unused_parameters", "predictor"}
OTHER_KEYS |= {"allow_other_context", "checker", "classes", *MIXERZOO_KEYS}


def find_config(config: str | Path) -> Path:
    """The file of a config, given by path or by name as `recipes.find` takes it.

    Raises:
        FileNotFoundError: neither; the message lists the closest names.
    """
    return find(config).path


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """``["a.b=1", "c=name"]`` as ``{"a.b": 1, "c": "name"}``: Python literals, anything else is text.

    Raises:
        ValueError: an option without ``=``.
    """
    options = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ValueError(f"--cfg-options: expected KEY=VALUE, got {text!r}")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def load_config(
    config: str | Path,
    options: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    backbone: str | None = None,
) -> Config:
    """Reads a config and overrides values in it.

    Args:
        config: path, or name as `recipes.find` takes it.
        data: folder of the data; ``root`` (mmdet's and mmseg's: ``data_root``) of every data set.
        options: dotted key → value, e.g. ``{"train_cfg.max_epochs": 3}``; the part before the last dot must exist.
            ``backbone`` is the argument of that name.
        backbone: a backbone of the recipe's table, or any of timm's names; default: that of the name, or the recipe's.

    Returns:
        The config, with ``run_name``, which runs are called by.

    Raises:
        FileNotFoundError: no such config.
        ConfigError: it does not parse, a key is not known, or the backbone does not fit.
    """
    choice = find(config)
    path, options = choice.path, {**choice.options, **(options or {})}
    named = options.pop("backbone", choice.backbone)
    chosen = backbone or named
    try:
        cfg = read(path, chosen)
    except BackboneError as error:
        raise ConfigError(str(error)) from error
    except ImportError as error:  # mmengine's own says which module failed, but not why
        raise ConfigError(f"{path}: {explain(error)}") from error
    except Exception as error:  # whatever Python code raises
        raise ConfigError(f"{path}: not a config that can be read: {type(error).__name__}: {error}") from error
    cfg.run_name = run_name(cfg, choice, chosen)
    for key in ("backbones", "grid", "seeds"):
        cfg.pop(key, None)
    for key, value in options.items():
        _check_option(cfg, key, path)
        cfg.merge_from_dict({key: value})
    for key in cfg:
        _check_key(key, path)
    if cfg.get("classes") is not None:
        _set_classes(cfg, path)
    if data is not None:
        _set_data(cfg, Path(data))
    return cfg


def _set_classes(cfg: Config, path: Path) -> None:
    """The config's own ``classes`` reach its data sets, and their number every head; metrics have the data set's."""
    names = cfg.classes
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: classes: expected a list of names such as ('cat', 'dog'), got {names!r}")
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: classes: every name once, got {', '.join(names)}")
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in _innermost(cfg.get(key, {}).get("dataset")):
            if "data_root" in dataset or "data_prefix" in dataset:  # others find their classes on disk
                dataset.metainfo = {**(dataset.get("metainfo") or {}), "classes": tuple(names)}
    _set_numbers(cfg.model, len(names))


def _innermost(dataset: Any) -> list[Any]:
    """A data set, or those in RepeatDataset, ConcatDataset and the like."""
    if isinstance(dataset, list):
        return [inner for item in dataset for inner in _innermost(item)]
    if not isinstance(dataset, Mapping):
        return []
    inside = dataset.get("dataset", dataset.get("datasets"))
    return [dataset] if inside is None else _innermost(inside)


def _set_numbers(node: Any, number: int) -> None:
    """``num_classes`` of a model and its heads; that of a backbone, or of proposals, is its own."""
    if isinstance(node, Mapping):
        if "num_classes" in node:
            node["num_classes"] = number
        for key, value in node.items():
            if key not in ("backbone", "net", "rpn_head"):
                _set_numbers(value, number)
    elif isinstance(node, list | tuple):
        for value in node:
            _set_numbers(value, number)


def _set_data(cfg: Config, data: Path) -> None:
    """Points data sets at their files, and metrics that read annotations by themselves at those of their data set."""
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if key in cfg:
            dataset = cfg[key].dataset
            dataset["data_root" if "data_root" in dataset else "root"] = str(data)
            evaluator = cfg.get(key.replace("dataloader", "evaluator"))
            if isinstance(evaluator, dict) and "ann_file" in evaluator:
                evaluator.ann_file = str(data / dataset.ann_file)


def _check_option(cfg: Config, key: str, path: Path) -> None:
    *parents, _ = key.split(".")
    node: Any = dict(cfg.items())
    for depth, part in enumerate(parents):
        inside = isinstance(node, Mapping) and part in node
        if not inside and not (isinstance(node, list) and part.isdigit() and int(part) < len(node)):
            there = ", ".join(map(str, node)) if isinstance(node, Mapping) else "a value"
            name = ".".join(parents[: depth + 1])
            raise ConfigError(f"{path}: --cfg-options {key}: there is no {name}; at that place there is {there}")
        node = node[int(part)] if isinstance(node, list) else node[part]
    if not parents and key not in cfg and key not in RUNNER_KEYS | OTHER_KEYS:
        raise ConfigError(f"{path}: --cfg-options {key}: no such key; there are {', '.join(cfg)}")


def _check_key(key: str, path: Path) -> None:
    """Configs may define variables of their own; a name that is nearly one of the engine's is a slip."""
    known = RUNNER_KEYS | OTHER_KEYS
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    if key not in known and close and not key.startswith("_"):  # _classes: a variable of the config's own
        raise ConfigError(f"{path}: unknown key {key!r}; rename it to {close[0]!r}")
