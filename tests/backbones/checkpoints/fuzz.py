"""Damaged and forged files of every kind that PyTorch writes, through the one reader, under an audit hook.

The reader may return tensors, or raise a ValueError of one line or an OSError. It may not import, compile or start
anything, open a file to write, change the file system, take long, or take much memory.

    python tests/backbones/checkpoints/fuzz.py --count 20000 --seed 0

The default suite runs a few hundred (`test_fuzz.py`); ``tests/data/fuzz_checkpoints.txt`` is the log of the command
above.
"""

from __future__ import annotations

import argparse
import codecs
import collections
import io
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import FrameType

import numpy as np
import torch
import torch.package
from mixerzoo.backbones.checkpoints import read_checkpoint
from safetensors.torch import save as save_safetensors

SECONDS, MEGABYTES = 20, 300  # for one file; for the whole run
FORBIDDEN = (
    "import",
    "exec",
    "compile",
    "code.__new__",
    "function.__new__",
    "object.__setattr__",
    "marshal.",
    "ctypes.",
)
FORBIDDEN += ("subprocess.", "os.", "shutil.", "socket.", "pty.", "tempfile.", "pickle.find_class", "builtins.input")
HARMLESS = ("os.listdir", "os.scandir", "object.__getattr__")


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Adds(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def contents() -> list[object]:
    """What people save: weights in any dtype, shared and strided, beside an optimizer, a Namespace, NumPy's numbers."""
    weight = torch.arange(12.0).reshape(3, 4)
    state = {"a.weight": weight, "a.view": weight.t(), "b": torch.ones(2).half(), "c": torch.zeros(3).bfloat16()}
    adam = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    return [
        collections.OrderedDict(state, p=torch.nn.Parameter(torch.ones(2)), f8=torch.ones(4).to(torch.float8_e4m3fn)),
        {"model": state, "optimizer": adam.state_dict(), "args": argparse.Namespace(lr=0.1), "best": np.float64(3)},
        {"state_dict": state, "array": np.ones(3), "set": {1, 2}, "bytes": b"\xff\x00", "nested": [[1, (2.5, None)]]},
        {"x": Calls(os.system, "touch executed"), "model": state},
        {"x": Calls(eval, "open('executed', 'w')"), "model": state},
        {"x": Calls(bytes.fromhex, "00"), "model": state},
    ]


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Whole files by kind."""
    made: dict[str, list[bytes]] = collections.defaultdict(list)
    for content in contents():
        for kind, options in {
            "zip": {},
            "zip, protocol 4": {"pickle_protocol": 4},
            "legacy": {"_use_new_zipfile_serialization": False},
        }.items():
            file = io.BytesIO()
            torch.save(content, file, **options)
            made[kind].append(file.getvalue())
    made["safetensors"].append(save_safetensors({"a": torch.ones(3, 4), "b": torch.zeros(2).half()}))
    torch.jit.script(Adds()).save(folder / "script.pt")
    made["TorchScript"].append((folder / "script.pt").read_bytes())
    with torch.package.PackageExporter(folder / "package.pt") as package:
        package.save_source_string("evil", "open('executed', 'w')")
        package.save_pickle("model", "model.pkl", {"weight": torch.zeros(2)})
    made["package"].append((folder / "package.pt").read_bytes())
    file = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), file)
    made[".pt2"].append(file.getvalue())
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Calls(open, "executed", "w"))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    made["tar"].append(file.getvalue())
    made["bare pickle"] += [pickle.dumps(content, protocol) for content in contents()[3:5] for protocol in (0, 2, 4)]
    return made


SIZES = [0, 1, 2, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
OPCODES = [
    value for name, value in vars(pickle).items() if isinstance(value, bytes) and name.isupper() and len(value) == 1
]
PIECES = [
    b"cos\nsystem\n", b"c__builtin__\neval\n", b"cbuiltins\n__import__\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"c_codecs\nencode\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"X\x04\x00\x00\x00rot1", b"(tR", b"}b",
    b"X\x0e\x00\x00\x00touch executed\x85R", b"\x8c\x02os\x8c\x06system\x93", b"cnumpy.core.multiarray\nscalar\n",
]  # fmt: skip


def damage(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to four changes: bits, bytes, sizes, pickle instructions, cuts, repetitions, parts of other files."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(made) + 1) if rng.random() < 0.5 else rng.randrange(min(len(made), 400) + 1)
        change = rng.randrange(9)
        if change == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            made[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(1, 8))
        elif change == 2:
            form = rng.choice(["<B", "<H", "<I", "<Q"])
            limit = 256 ** struct.calcsize(form) - 1
            made[at : at + struct.calcsize(form)] = struct.pack(form, min(rng.choice(SIZES), limit))
        elif change == 3:
            made[at : at + rng.randint(0, 1)] = rng.choice(OPCODES)
        elif change == 4:
            made[at:at] = rng.choice(PIECES)
        elif change == 5:
            del made[at : at + rng.randint(1, 64)]
        elif change == 6:
            made[at:at] = made[at : at + rng.randint(1, 64)]
        elif change == 7:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            made[at : at + rng.randint(0, 64)] = other[start : start + rng.randint(1, 64)]
        elif rng.random() < 0.2:
            del made[at:]
    return bytes(made)


def damage_inside(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Changes one entry of a zip archive, and writes it again with checksums that fit, so that a reader gets there."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        pickles = [name for name in names if name.endswith(".pkl")] or names
        victim = rng.choice(pickles if rng.random() < 0.8 else names)
        for name in names:
            entry = old.read(name)
            new.writestr(name, damage(entry, rng, others) if name == victim else entry)
    return out.getvalue()


def cases(folder: Path, count: int, seed: int):
    """``count`` pairs (kind, file), every kind in turn."""
    rng = random.Random(seed)
    whole = seeds(folder)
    everything = [data for files in whole.values() for data in files]
    for index in range(count):
        kind = list(whole)[index % len(whole)]
        data = rng.choice(whole[kind])
        inside = data[:2] == b"PK" and rng.random() < 0.7
        yield kind, (damage_inside if inside else damage)(data, rng, everything)


class Watch:
    """Notes what Python's audit events say while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                self.seen.append(f"open {path} {mode}")
        elif event.startswith(FORBIDDEN) and event not in HARMLESS:
            self.seen.append(f"{event} {str(args)[:200]}")


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise BaseException(f"longer than {SECONDS} s")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    watch, wrong = Watch(), []
    outcomes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for codec in ("cp437", "raw_unicode_escape"):  # Python's own, which zipfile and pickle import when first needed
        codecs.lookup(codec)
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        files = cases(folder, args.count, args.seed)
        path = folder / "file.pth"
        before = None
        for index, (kind, data) in enumerate(files):
            path.write_bytes(data)
            inside = sorted(os.listdir(folder))
            before = before or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            watch.on = True
            signal.alarm(SECONDS)
            try:
                read_checkpoint(path)
                outcome = "read"
            except (ValueError, OSError) as error:
                outcome = type(error).__name__ if isinstance(error, ValueError) else "OSError"
                if "\n" in str(error) or len(str(error)) > 1000:
                    wrong.append(f"{index} {kind}: a message of {len(str(error))} characters")
            except BaseException as error:
                outcome = "other"
                wrong.append(f"{index} {kind}: {type(error).__name__}: {str(error)[:200]}")
            finally:
                signal.alarm(0)
                watch.on = False
            if watch.seen or sorted(os.listdir(folder)) != inside:
                wrong.append(f"{index} {kind}: {watch.seen} {os.listdir(folder)}")
                watch.seen.clear()
            outcomes[kind][outcome] += 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        if grown > MEGABYTES:
            wrong.append(f"memory grew by {grown} MiB")
        os.chdir("/")
    print(f"{args.count} files, seed {args.seed}, Python {sys.version.split()[0]}, PyTorch {torch.__version__}")
    for kind, counts in outcomes.items():
        print(f"{kind}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    print(f"wrong: {len(wrong)}", *wrong[:20], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
