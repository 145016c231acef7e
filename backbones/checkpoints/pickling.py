"""Pickled tensors without pickle's power: names stay names, and only what rebuilds a tensor is ever done.

A pickle is a program for a small machine. Python's own machine imports the names in it and calls them. This one keeps
every name as a `Name`, and knows a dozen of them: the functions with which ``torch.save`` rebuilds tensors, done here
with bounds checked, and what makes plain containers. An object of any other class is created as an `Absent` one, which
swallows its state. A call of any other name (``__reduce__``, the way to execute code) is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import IO, Any, ClassVar, NamedTuple

import torch

__all__ = ["Absent", "Name", "Storage", "TensorUnpickler", "plain"]

# An expanded tensor (stride 0) may have more elements than its storage, up to this many.
MAX_EXPANDED = 1 << 28

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}


class Name(NamedTuple):
    """What a pickle calls ``module.name``; nothing is imported for it."""

    module: str
    name: str


class Absent:
    """Stands for an object that is not read."""

    __slots__ = ()


class Storage(NamedTuple):
    """Bytes, and how a tensor without a dtype of its own reads them."""

    data: torch.UntypedStorage
    dtype: torch.dtype


class TensorUnpickler(pickle._Unpickler):
    """Reads one pickle from an open file that has all of it in memory or mapped.

    The base is Python's own machine written in Python, each of whose instructions can be replaced; the C one would let
    a pickle set attributes of real objects, and clear memory for as large a memo as it names.

    Args:
        file: at the beginning of the pickle.
        storages: ``(dtype, key, numel) -> Storage``.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: IO[bytes], storages: Callable[[torch.dtype, str, int], Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Name:
        return Name(module, name)

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError("it uses copyreg's extension codes, which only a trusted file may")

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage, key, _, numel, *view = pid  # the fourth is the device it was saved from
        dtype = _STORAGES.get(storage.name) if isinstance(storage, Name) else None
        if kind != "storage" or dtype is None or type(key) is not str or any(part is not None for part in view):
            raise pickle.UnpicklingError("it holds a storage of an unknown kind")
        return self.storages(dtype, key, _size(numel))

    def _instantiate(self, klass: Any, args: Any) -> None:  # INST and OBJ
        self.append(Absent())

    def load_newobj(self) -> None:
        del self.stack[-2:]
        self.append(Absent())

    def load_newobj_ex(self) -> None:
        del self.stack[-3:]
        self.append(Absent())

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], args)

    def load_build(self) -> None:
        self.stack.pop()  # attributes, also those of an OrderedDict: not read

    def load_dict(self) -> None:
        self.append(_dictionary(self.pop_mark()))

    def load_frozenset(self) -> None:
        self.append(_set(self.pop_mark()))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(dict, dict.update, _dictionary([key, value]))

    def load_setitems(self) -> None:
        self._fill(dict, dict.update, _dictionary(self.pop_mark()))

    def load_append(self) -> None:
        self._fill(list, list.append, self.stack.pop())

    def load_appends(self) -> None:
        self._fill(list, list.extend, self.pop_mark())

    def load_additems(self) -> None:
        self._fill(set, set.update, _set(self.pop_mark()))

    def _fill(self, kind: type, how: Callable[[Any, Any], None], what: Any) -> None:
        target = self.stack[-1]
        if type(target) is kind:
            how(target, what)
        elif not isinstance(target, Absent):
            raise pickle.UnpicklingError(f"it fills a {type(target).__name__} like a {kind.__name__}")

    for _name in ("newobj", "newobj_ex", "reduce", "build", "dict", "frozenset", "setitem", "setitems", "append"):
        dispatch[getattr(pickle, _name.upper())[0]] = locals()[f"load_{_name}"]
    dispatch[pickle.APPENDS[0]], dispatch[pickle.ADDITEMS[0]] = load_appends, load_additems
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]  # which does not clear memory of any named length


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("it names a size that is none")
    return value


_SCALARS = (bool, int, float, complex, str, bytes, type(None))


def _dictionary(items: Sequence[Any]) -> dict[Any, Any]:
    """Of keys and values in turns. Keys of another kind are left out, as a nested one can take for ever to hash."""
    pairs = zip(items[::2], items[1::2], strict=True)
    return {key: value for key, value in pairs if type(key) in _SCALARS}


def _set(items: Sequence[Any]) -> set[Any]:
    return {item for item in items if type(item) in _SCALARS}


def _tensor(storage: Storage, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """``torch._utils._rebuild_tensor`` and its second version; hooks and gradients are left out."""
    return _tensor_of(storage, offset, size, stride, storage.dtype)


def _tensor_with_dtype(
    storage: Storage, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> torch.Tensor:
    """``torch._utils._rebuild_tensor_v3``, for dtypes that have no storage class of their own (float8)."""
    dtype = getattr(torch, dtype.name) if isinstance(dtype, Name) and dtype.module == "torch" else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError("expected a tensor with a dtype")
    return _tensor_of(storage, offset, size, stride, dtype)


def _tensor_of(storage: Storage, offset: Any, size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    """A view of a storage, refused where it would reach beyond it: ``Tensor.set_`` would enlarge the storage."""
    offset, size, stride = _size(offset), tuple(map(_size, size)), tuple(map(_size, stride))
    if not isinstance(storage, Storage) or len(size) != len(stride) or len(size) > 64:
        raise ValueError("expected a tensor's storage, size and stride")
    numel, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        numel *= n
        last += (n - 1) * step
    held = len(storage.data) // dtype.itemsize
    if numel and (last >= held or numel > max(held, MAX_EXPANDED)):
        raise ValueError(f"a tensor of the size {size} does not fit the {held} numbers that it is made of")
    if not numel and max(size, default=0) > MAX_EXPANDED:
        raise ValueError(f"a tensor of the size {size}")
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage.data, offset if numel else 0, size, stride)


def _as_it_is(data: Any, *rest: Any) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise ValueError("expected a parameter's tensor")
    return data


def _encoded(text: str, encoding: str) -> bytes:
    """Protocol 2 writes bytes as text; any other encoding would import its codec."""
    if encoding != "latin1":
        raise ValueError("it encodes text in another way than latin1")
    return str.encode(text, "latin-1")


def _of_pairs(pairs: Sequence[Any]) -> dict[Any, Any]:
    return _dictionary([part for key, value in pairs for part in (key, value)])


def _absent(*args: Any) -> Absent:
    return Absent()


_CALLS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_with_dtype,
    Name("torch._utils", "_rebuild_parameter"): _as_it_is,
    Name("torch._utils", "_rebuild_parameter_with_state"): _as_it_is,
    Name("torch._tensor", "_rebuild_from_type_v2"): lambda function, kind, args, state: _call(function, args),
    Name("collections", "OrderedDict"): lambda items=(): _of_pairs(items),
    Name("collections", "defaultdict"): lambda factory=None, items=(): _of_pairs(items),
    Name("torch", "Size"): lambda sizes=(): tuple(map(_size, sizes)),
    Name("_codecs", "encode"): _encoded,
    # What is not read, and frequent: devices, and NumPy's arrays and scalars, whose own code trusts the file.
    Name("torch", "device"): _absent,
    Name("copyreg", "_reconstructor"): _absent,
    Name("numpy", "dtype"): _absent,
    **{
        Name(f"numpy.{core}.multiarray", function): _absent
        for core in ("core", "_core")
        for function in ("_reconstruct", "scalar")
    },
    **{Name(module, "set"): lambda items=(): _set(items) for module in ("builtins", "__builtin__")},
}


def _call(function: Any, args: Any) -> Any:
    if not isinstance(function, Name) or function not in _CALLS:
        what = ".".join(function) if isinstance(function, Name) else type(function).__name__
        raise pickle.UnpicklingError(f"it calls {what[:80]}, which only a trusted file may")
    if not isinstance(args, tuple):
        raise pickle.UnpicklingError(f"it calls {'.'.join(function)} without arguments")
    return _CALLS[function](*args)


_MISSING = object()


def plain(value: Any) -> Any:
    """What of an unpickled value is tensors, numbers and texts, and containers of them; None if it is none of it.

    A dictionary loses the items that are something else; a list or a tuple with such an item goes as a whole. Each
    container is visited once, as a small pickle can hold one in more places than can be visited.
    """
    found = _plain(value, {})
    return None if found is _MISSING else found


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _SCALARS or isinstance(value, torch.Tensor):
        return value
    if kind not in (dict, list, tuple, set):
        return _MISSING
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = _MISSING  # of a container within itself
    if kind is dict:
        items = ((key, _plain(item, seen)) for key, item in value.items())
        made: Any = {key: item for key, item in items if item is not _MISSING}
    else:
        made = kind(_plain(item, seen) for item in value)
        made = _MISSING if any(item is _MISSING for item in made) else made
    seen[id(value)] = made
    return made
