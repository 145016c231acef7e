"""Files that are written whole or not at all. The lowest room has it, so that all others can use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_atomically"]


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
