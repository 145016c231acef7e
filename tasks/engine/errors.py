"""What is wrong with a config, or went wrong with it, in one line that names the file, the key and the remedy."""

from __future__ import annotations

import difflib
import inspect
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm.optim
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import Registry, root
from torch import nn

__all__ = [
    "ConfigError",
    "DivergenceError",
    "check_checkpoint_hook",
    "check_context",
    "check_fits",
    "check_foreign",
    "check_names",
    "explain",
    "require",
]


class DivergenceError(RuntimeError):
    """A training or an evaluation whose numbers are no longer finite; nothing that follows would mean anything."""


class ConfigError(ValueError):
    """A config that cannot be run; the message names the file, the key and the remedy."""


def explain(error: BaseException) -> str:
    """The innermost message (mmengine's registry wraps errors in its own, class by class), and what to do about it."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__
    if not str(error):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {frame.line}"
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    if match := re.match(r"(\S+) is not in the \S+?::(.+?) registry", text):
        name, kind = match.groups()
        return _unknown(kind, name, _registered(kind), "name the module that registers it in custom_imports")
    if match := re.match(r"Optimizer (\S+) not found in registry", text):
        return _unknown("optimizer", match[1], timm.optim.list_optimizers(), "see timm.optim.list_optimizers()")
    if match := re.search(r"unexpected keyword argument '(\w+)'", text):
        return f"{text}; rename or remove {match[1]}"
    return text


def _unknown(kind: str, name: str, names: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, sorted(names), n=2)
    return f"no {kind} is called {name}; " + (f"did you mean {' or '.join(close)}?" if close else otherwise)


def _registered(kind: str) -> set[str]:
    """Names in mmengine's registry of ``kind`` and in those that build on it."""
    registries = [item for item in vars(root).values() if isinstance(item, Registry) and item.name == kind]
    return {name for top in registries for part in (top, *top.children.values()) for name in part.module_dict}


def require(cfg: Config, *keys: str) -> None:
    """Refuses a config without one of ``keys``."""
    for key in keys:
        if cfg.get(key) is None:
            raise ConfigError(
                f"{cfg.filename}: {key}: not given; add it, or begin with _base_ = the path of a packaged config"
            )


def check_checkpoint_hook(file: str, hook: Mapping[str, Any]) -> None:
    """mmengine hands arguments that it does not know to ``torch.save``, at the end of the first epoch."""
    known = {"type", "priority", *inspect.signature(CheckpointHook.__init__).parameters} - {"self", "kwargs"}
    unknown = sorted(hook.keys() - known) if hook.get("type") == "CheckpointHook" else []
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        remedy = f"rename it to {close[0]}" if close else "remove it"
        raise ConfigError(f"{file}: default_hooks.checkpoint.{unknown[0]}: no such key; {remedy}")
    if hook.get("max_keep_ckpts") == 1:
        raise ConfigError(
            f"{file}: default_hooks.checkpoint.max_keep_ckpts is 1: the old checkpoint would be deleted before the new "
            "one is written; keep 2"
        )


def check_fits(model: nn.Module, content: Mapping[str, Any], path: Path) -> None:
    """Keys and shapes of a checkpoint against the model's: mmengine would only log a difference."""
    model = getattr(model, "module", model)
    state, own = content.get("state_dict"), model.state_dict()
    if state is None:
        raise ValueError(f"{path}: holds no state_dict; expected a file that `mixerzoo train` wrote")
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has another shape of", shapes)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(
                f"{path}: not of this config's model: it {what} {keys[0]}{more}; give the config it was trained with"
            )


def check_context(model: nn.Module, content: Mapping[str, Any], path: Path | str) -> None:
    """What weights mean but do not show (``context()`` of a model, e.g. the metres of its largest depth).

    Args:
        model: bare, or wrapped for several processes.
        content: of a checkpoint; one that another program wrote has no such note.
        path: of the checkpoint.

    Raises:
        ValueError: the model was trained with another; the message has both and the way to insist.
    """
    model = getattr(model, "module", model)
    noted = (content.get("meta") or {}).get("context") or {}
    context = model.context() if hasattr(model, "context") else {}
    for key in context:
        if key in noted and noted[key] != context[key]:
            raise ValueError(
                f"{path}: trained with model.{key} = {noted[key]}, the config has {context[key]}; set it to "
                f"{noted[key]}, or allow another by --cfg-options allow_other_context=True"
            )


def check_foreign(model: nn.Module, state: Mapping[str, Any], path: str) -> str | None:
    """How much of the weights that a training starts from (``load_from``) are this model's.

    Args:
        model: bare, or wrapped for several processes.
        state: of the file.
        path: of the file.

    Returns:
        If they do not all fit: one line that counts and names those that do not.

    Raises:
        ValueError: none fits; mmengine would go on from scratch.
    """
    own = getattr(model, "module", model).state_dict()
    state = {key.removeprefix("module."): x for key, x in state.items()}
    fitting = [key for key in own if key in state and own[key].shape == state[key].shape]
    if not fitting:
        raise ValueError(
            f"{path}: none of its {len(state)} weights is of this config's model: it has {next(iter(state), 'none')}, "
            f"the model has {next(iter(own))}; for a backbone alone set init_cfg or checkpoint of model.backbone"
        )
    left = {
        "not in the file": [key for key in own if key not in state],
        "of another shape": [key for key in own if key in state and key not in fitting],
        "only in the file": [key for key in state if key not in own],
    }
    said = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{' …' if len(keys) > 3 else ''})"
        for what, keys in left.items()
        if keys
    ]
    return f"{path}: {len(fitting)} of the model's {len(own)} weights are loaded; {'; '.join(said)}" if said else None


def check_names(cfg: Config, where: str, expected: Sequence[str] | None, key: str, names: Sequence[str] | None) -> None:
    """Labels are places in a list of classes, so two data sets must have the same list, unless one has bare numbers.

    Args:
        cfg: the config.
        where: what has the classes ``expected`` (None: unknown).
        expected: names of classes.
        key: ``train``, ``val`` or ``test``: whose data set has the classes ``names``.
        names: names of classes (None: unknown).

    Raises:
        ConfigError: they differ.
    """
    if expected is None or names is None or list(expected) == list(names):
        return
    if len(expected) == len(names) and (_are_numbers(expected) or _are_numbers(names)):
        return
    differing = [f"lacks {name}" for name in expected if name not in names]
    differing += [f"has {name} besides" for name in names if name not in expected]
    raise ConfigError(
        f"{cfg.filename}: {key}_dataloader.dataset: its {len(names)} classes are not the {len(expected)} of {where}: "
        f"it {differing[0] if differing else 'has another order'}; give both the same classes"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]
