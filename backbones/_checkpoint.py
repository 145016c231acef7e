"""Reading published checkpoints that pickle more than tensors, without running anything in them.

The official Vim and VMamba files hold an ``argparse.Namespace`` and a yacs node beside the weights, so
``torch.load(weights_only=True)`` refuses them. Here every class that it does not know is replaced by an inert stand-in:
it can be created and filled, has no code, and is thrown away with whatever is in it. What a stand-in cannot be is
called. A pickle that calls something (``__reduce__``, the way to execute code) is refused by that name.

Archives that hold programs are refused before anything of them is read: ``torch.load`` would hand TorchScript to
``torch.jit.load``, which runs the archive's own ``__setstate__``, and would unpack PyTorch 0.1's tar files.
"""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import adapt_input_conv, clean_state_dict
from torch import nn

from ._files import replacing

_KNOWN = {  # what tensors, dictionaries and NumPy scalars are rebuilt with; none of it runs anything it is given
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _Inert(type):
    """Metaclass of stand-ins: a pickle may create one, which is harmless, but not call it, which is how code runs."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise pickle.UnpicklingError(f"it calls {cls.__module__}.{cls.__qualname__}, which only a trusted file may")


def _stand_in(module: str, name: str) -> type:
    """A class that passes for ``module.name``: it swallows constructor arguments, items and state."""

    def create(cls: type, *args: Any, **kwargs: Any) -> Any:
        return dict.__new__(cls)

    body = {"__module__": module, "__new__": create, "__setstate__": lambda self, state: None}
    return _Inert(name, (dict,), body)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN or isinstance(getattr(torch, name if module == "torch" else "", None), torch.dtype):
            return super().find_class(module, name)
        return _stand_in(module, name)


class _TensorsOnlyPickle:
    """What ``torch.load`` asks of a ``pickle_module``."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **kwargs: Any) -> Any:
        return _Unpickler(file, **kwargs).load()


# What tells the other archives that PyTorch writes from a checkpoint, by the names in them.
_PROGRAMS = {
    "constants.pkl": "a TorchScript archive",
    ".data/extern_modules": "a torch.package",
    "archive_format": "a torch.export archive (.pt2)",
}


def _refuse_programs(file: IO[bytes]) -> None:
    """Raises a ValueError if an open file is an archive with code in it. Looks at it with the reader ``torch.load``
    uses itself, as two readers can find different names in one forged archive."""
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        records = set(torch._C.PyTorchFileReader(file).get_all_records())
        kind = next((kind for name, kind in _PROGRAMS.items() if name in records), None)
    else:
        kind = "a tar archive of PyTorch 0.1" if _is_tar(file) else None
    file.seek(0)
    if kind:
        raise ValueError(
            f"it is {kind}, which can hold code; expected tensors alone. Save the model's state_dict() with torch.save "
            "or safetensors where you trust the file"
        )


def _is_tar(file: IO[bytes]) -> bool:
    try:
        tarfile.open(fileobj=file, mode="r:").close()
    except tarfile.TarError:
        return False
    return True


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads the tensors of a checkpoint file, on the CPU.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote.

    Returns:
        The file's dictionaries with their tensors; anything else in them is left out.

    Raises:
        ValueError: not a checkpoint, truncated, an archive with code, or a pickle that calls something; the message
            names the file and that.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            _refuse_programs(file)
            content = torch.load(file, map_location="cpu", weights_only=False, pickle_module=_TensorsOnlyPickle)
    except OSError:
        raise
    except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(f"{path}: not a checkpoint that can be read safely: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    return _tensors_only(content)


def _tensors_only(content: dict[Any, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            kept[key] = value
        elif isinstance(value, dict) and not isinstance(type(value), _Inert):
            kept[key] = _tensors_only(value)
    return kept


WRAPPERS = ("model", "state_dict", "model_ema", "state_dict_ema")


def unwrap(content: dict[str, Any]) -> dict[str, Any]:
    """The weights inside a training checkpoint: what its first wrapper of `WRAPPERS` holds, or else all of it.

    ``model`` comes before ``model_ema``: where a file of Vim or VMamba has both, the published accuracy is that of
    ``model`` (MambaOut's files have no wrapper). timm's own loader would take the average.
    """
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            return content[wrapper]
    return content


def convert(source: str | Path, destination: str | Path) -> int:
    """Writes the weights of a checkpoint as safetensors, which nothing can hide code in; keys stay as they are.

    Args:
        source: the file; of several `WRAPPERS` the first is taken.
        destination: a ``.safetensors`` path, written whole or not at all.

    Returns:
        Number of tensors written.

    Raises:
        ValueError: ``source`` cannot be read safely or holds no tensors, or ``destination`` has another suffix.
        OSError: a file cannot be read or written.
    """
    destination = Path(destination)
    if destination.suffix != ".safetensors":
        raise ValueError(f"expected an output file that ends in .safetensors, got {destination}")
    content = unwrap(read_checkpoint(source))
    tensors = {key: value.contiguous().clone() for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{source}: found no tensors at the top, or under {' or '.join(WRAPPERS)}")
    with replacing(destination) as partial:
        save_file(tensors, partial)
    return len(tensors)


def read_files_safely(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model's entry point, changed so that ``pretrained_cfg_overlay=dict(file=...)`` goes through the
    model's ``load_pretrained``; timm takes a file given that way for one of its own."""
    overlay = kwargs.get("pretrained_cfg_overlay")
    if not overlay or not overlay.get("file"):
        return kwargs
    return {**kwargs, "pretrained_cfg_overlay": {"custom_load": True, **overlay}}


def load_official(model: nn.Module, path: str | Path, filter_fn: Callable[..., dict[str, torch.Tensor]]) -> None:
    """Loads an official file strictly; a classifier for other classes or a first convolution for other channels is
    adapted as timm does.

    Args:
        model: a network with a ``pretrained_cfg`` that names ``classifier`` and ``first_conv``.
        path: the file.
        filter_fn: the family's ``checkpoint_filter_fn``.

    Raises:
        ValueError: the file cannot be read safely, or is of another family.
        RuntimeError: keys are missing, unexpected or misshapen; the message names them.
    """
    state = filter_fn(clean_state_dict(unwrap(read_checkpoint(path))), model)  # without DDP's prefix ``module.``
    cfg = model.pretrained_cfg
    first = f"{cfg['first_conv']}.weight"
    if first in state and state[first].shape[1] != model.in_chans:
        state[first] = adapt_input_conv(model.in_chans, state[first])
    if model.num_classes != cfg["num_classes"]:  # the classifier stays as it was made
        classifier = f"{cfg['classifier']}."
        state = {key: value for key, value in state.items() if not key.startswith(classifier)}
        state |= {key: value for key, value in model.state_dict().items() if key.startswith(classifier)}
    model.load_state_dict(state)
