"""Files that are written whole or not at all. The lowest room has it, so that all others can use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save

from .reading import read_checkpoint
from .unwrapping import AVERAGES, WRAPPERS, unwrap

__all__ = ["convert", "replacing", "write_atomically"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` once that went well.

    A reader, or a kill at any moment, finds the old content or the new, never a part.

    Raises:
        OSError: it could not be written; what was at ``path`` before is still there.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error.strerror}); what was there before is intact") from error
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(content: bytes | str, path: str | Path) -> None:
    """Writes ``content`` (text as UTF-8) to ``path`` as `replacing` does."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def convert(source: str | Path, destination: str | Path, ema: bool = False) -> int:
    """Writes the weights of a checkpoint as safetensors, which nothing can hide code in.

    Names stay as they are, but for prefixes that all of them have (`unwrapping.bare_names`).

    Args:
        source: the file.
        destination: a ``.safetensors`` path in a folder that is there, written whole or not at all.
        ema: write the averaged weights.

    Returns:
        Number of tensors written.

    Raises:
        ValueError: ``source`` cannot be read safely, holds no tensors or ones that safetensors has no dtype for, or
            ``destination`` has another suffix.
        OSError: a file cannot be read or written.
    """
    destination = Path(destination)
    if destination.suffix != ".safetensors":
        raise ValueError(f"expected an output file that ends in .safetensors, got {destination}")
    content = read_checkpoint(source)
    try:
        state = unwrap(content, ema)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not state:
        raise ValueError(f"{source}: found no tensors at the top, or under {' or '.join((*WRAPPERS, *AVERAGES))}")
    try:
        data = save({key: value.contiguous().clone() for key, value in state.items()})
    except KeyError as error:
        raise ValueError(f"{source}: safetensors cannot hold tensors of {error.args[0]}") from error
    write_atomically(data, destination)
    return len(state)
