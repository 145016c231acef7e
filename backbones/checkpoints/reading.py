"""One reader for every file of weights: safetensors, and both layouts that ``torch.save`` has written.

What a file is, its content says, never its suffix. Archives that hold programs (TorchScript, torch.export,
torch.package, the tars of PyTorch 0.1) are refused by name. Pickles go through `pickling`, which calls nothing.

``torch.load`` is not used. With ``weights_only=False`` it hands TorchScript to ``torch.jit.load``, which runs the
archive's code; with ``weights_only=True`` it refuses the official Vim and VMamba files, which pickle an
``argparse.Namespace`` beside the weights, and it lets a forged size allocate any amount of memory. Here nothing is
allocated that the file does not hold.
"""

from __future__ import annotations

import errno
import io
import mmap
import pickle
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .pickling import Storage, TensorUnpickler, plain

__all__ = ["read_checkpoint"]

# What tells the other archives that PyTorch writes from a checkpoint, by the names in them.
_PROGRAMS = {
    "constants.pkl": "a TorchScript archive",
    ".data/extern_modules": "a torch.package",
    "archive_format": "a torch.export archive (.pt2)",
}
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_CHUNK = 1 << 24  # bytes
# What a damaged file makes of a parser, beside the ValueErrors it means to raise.
_DAMAGE = (
    pickle.UnpicklingError,
    SafetensorError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_checkpoint(path: str | Path) -> dict[Any, Any]:
    """Reads a checkpoint file onto the CPU, whatever device its tensors were saved from.

    Args:
        path: safetensors, or what ``torch.save`` wrote, under any suffix.

    Returns:
        The file's dictionary: tensors, numbers, texts, and the lists, tuples and dictionaries made of them. Whatever
        else it pickles is left out.

    Raises:
        ValueError: not a checkpoint, damaged, an archive with code, or a pickle that calls something; the message
            names the file and that, in one line.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _read(file, path)
    except (OSError, *_DAMAGE) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # what seeking to a forged offset gives
            raise
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise ValueError(f"{path}: not a checkpoint that can be read safely: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    return content


def _read(file: IO[bytes], path: Path) -> Any:
    size = path.stat().st_size
    start = file.read(512)
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        return _read_zip(file, size)
    if start[257:262] == b"ustar":
        raise ValueError(_holds_code("a tar archive of PyTorch 0.1"))
    if start[:1] == b"\x80":
        return _read_legacy(file, size)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return load_file(path)
    raise ValueError(f"neither safetensors nor a file of torch.save; it begins with {start[:16]!r}")


def _holds_code(kind: str) -> str:
    return (
        f"it is {kind}, which can hold code; expected tensors alone. Save the model's state_dict() with torch.save or "
        "safetensors where you trust the file"
    )


def _read_zip(file: IO[bytes], size: int) -> Any:
    """``torch.save`` since 1.6: ``NAME/data.pkl`` and one uncompressed ``NAME/data/KEY`` per storage."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise ValueError("two of its entries have the same name")
        folders = {name.partition("/")[0] for name in entries}
        names = {name.partition("/")[2] for name in entries} | set(entries)
        for name, kind in _PROGRAMS.items():
            if name in names:
                raise ValueError(_holds_code(kind))
        folder = next(iter(folders), "")
        if len(folders) > 1 or f"{folder}/data.pkl" not in entries:
            raise ValueError("a zip archive, but not of torch.save: expected one folder with data.pkl in it")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("compressed entries, which torch.save never writes")
        if f"{folder}/byteorder" in entries and archive.read(f"{folder}/byteorder") != b"little":
            raise ValueError("expected little-endian tensors")
        storages = _ZipStorages(archive, folder, size)
        unpickler = TensorUnpickler(io.BytesIO(archive.read(f"{folder}/data.pkl")), storages)
        return plain(unpickler.load())


class _ZipStorages:
    """Storages by key, read when a tensor first needs one; together never more than the file holds."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self.archive, self.folder, self.left = archive, folder, size
        self.known: dict[str, Storage] = {}

    def __call__(self, dtype: torch.dtype, key: str, numel: int) -> Storage:
        if key not in self.known:
            entry = self.archive.getinfo(f"{self.folder}/data/{key}")
            self.left -= entry.file_size
            if self.left < 0:
                raise ValueError("its tensors claim more bytes than the file has")
            data = torch.empty(entry.file_size, dtype=torch.uint8, device="cpu")
            with self.archive.open(entry) as source:
                _fill(data, source)
            self.known[key] = Storage(data.untyped_storage(), dtype)
        storage = self.known[key]
        if numel * dtype.itemsize > len(storage.data):
            raise ValueError(f"storage {key} has {len(storage.data)} bytes, {numel} numbers of {dtype} were announced")
        return Storage(storage.data, dtype)


def _fill(data: torch.Tensor, source: IO[bytes]) -> None:
    """Copies ``len(data)`` bytes from an open file."""
    view, done = memoryview(data.numpy()), 0
    while done < len(data):
        count = source.readinto(view[done : done + _CHUNK])
        if not count:
            raise EOFError("it ends within a tensor")
        done += count


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """``torch.save`` before 1.6: five pickles in a row, then the bytes of every storage."""
    storages = _LegacyStorages(size)
    # From a mapping, as reading from a file would allocate whatever length a forged pickle names.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        magic = TensorUnpickler(mapped, storages).load()
        if magic != _LEGACY_MAGIC:
            raise ValueError("a pickle, but none that torch.save wrote")
        if TensorUnpickler(mapped, storages).load() != _LEGACY_PROTOCOL:
            raise ValueError("of an unknown version of torch.save")
        if TensorUnpickler(mapped, storages).load().get("little_endian") is not True:
            raise ValueError("expected little-endian tensors")
        content = plain(TensorUnpickler(mapped, storages).load())
        keys = TensorUnpickler(mapped, storages).load()
        if not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages.known):
            raise ValueError("its list of storages is not that of its tensors")
        for key in keys:
            data, dtype = storages.known[key].data, storages.known[key].dtype
            (numel,) = struct.unpack("<q", mapped.read(8))
            if numel * dtype.itemsize != len(data):
                raise ValueError(f"storage {key} has {numel} numbers, {len(data) // dtype.itemsize} were announced")
            _fill_from(data, mapped)
        return content


def _fill_from(data: torch.UntypedStorage, mapped: mmap.mmap) -> None:
    """Copies as many bytes as ``data`` has from where a mapped file stands."""
    target = torch.empty(0, dtype=torch.uint8, device="cpu").set_(data, 0, (len(data),))
    view, done = memoryview(target.numpy()), 0
    while done < len(view):
        part = mapped.read(min(_CHUNK, len(view) - done))
        if not part:
            raise EOFError("it ends within a tensor")
        view[done : done + len(part)] = part
        done += len(part)


class _LegacyStorages:
    """Storages by key, made when a tensor first needs one and filled at the end."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.known: dict[str, Storage] = {}

    def __call__(self, dtype: torch.dtype, key: str, numel: int) -> Storage:
        if key not in self.known:
            self.left -= numel * dtype.itemsize
            if self.left < 0:
                raise ValueError("its tensors claim more bytes than the file has")
            self.known[key] = Storage(torch.UntypedStorage(numel * dtype.itemsize, device="cpu"), dtype)
        return self.known[key]
