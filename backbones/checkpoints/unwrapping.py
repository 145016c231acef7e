"""The weights inside a training checkpoint, under the names that the network itself uses."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

__all__ = ["bare_names", "unwrap"]

State = dict[str, torch.Tensor]

WRAPPERS = ("model", "state_dict", "model_state_dict", "network", "net", "module", "student", "params")
AVERAGES = ("model_ema", "state_dict_ema", "ema", "ema_model", "ema_state_dict", "teacher", "params_ema")
# What wraps a network puts its own name in front: DistributedDataParallel, torch.compile, then trainers and detectors.
WHOLE = ("module.", "_orig_mod.")
PARTS = ("model.", "net.", "backbone.")


def unwrap(content: dict[Any, Any], ema: bool = False, own: Collection[str] | None = None) -> State:
    """The weights of a checkpoint.

    ``model`` comes before ``model_ema``: where a file of Vim or VMamba has both, the published accuracy is that of
    ``model`` (MambaOut's files have no wrapper). timm's own loader would take the average.

    Args:
        content: of the file, in any nesting of `WRAPPERS`.
        ema: take the exponential moving average instead (`AVERAGES`).
        own: see `bare_names`.

    Returns:
        Name → tensor; nothing if there are none.

    Raises:
        ValueError: tensors under keys that are no names, or no average where it was asked for.
    """
    if ema:
        found = next((content[name] for name in AVERAGES if isinstance(content.get(name), dict)), None)
        if found is None:
            there = ", ".join(map(str, content)) or "nothing"
            raise ValueError(f"no averaged weights: expected one of {', '.join(AVERAGES)}, found {there}")
        content = found
    while wrapped := next((content[name] for name in (*WRAPPERS, *AVERAGES) if isinstance(content.get(name), dict)), 0):
        content = wrapped
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    wrong = next((key for key in tensors if not isinstance(key, str)), None)
    if wrong is not None:
        raise ValueError(f"expected tensors under their names, found one under the {type(wrong).__name__} {wrong}")
    return bare_names(tensors, own)


def bare_names(state: State, own: Collection[str] | None = None) -> State:
    """Weights without the prefixes of what wrapped the network.

    A prefix goes if all names have it. Of a larger whole (a detector, a Lightning module with a loss of its own) the
    network's part is taken, and the rest is left out, if it is known what the network's own names begin with.

    Args:
        state: name → tensor.
        own: first parts of the network's own names, which are no prefixes.
    """
    for prefix in (*WHOLE, *PARTS):
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        part = own is not None and prefix in PARTS
        if inside and prefix[:-1] not in (own or ()) and (part or len(inside) == len(state)):
            return bare_names(inside, own)
    return state
