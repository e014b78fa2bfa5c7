"""The allow-list: every name a weight file may ask for, and the inert thing it gets instead.

Pairs are exact. A name with dots in it, a module that only begins like one of these, or a class that one of these
imports is not on the list. Nothing here imports or calls what the pair names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from sis_rearrange.weights.inert import Allowed, RawArray, RawDtype, RawObject, RawStorage, RawTensor
from sis_rearrange.weights.machine import AllowList, Machine
from sis_rearrange.weights.opcodes import dimensions, key_of
from sis_rearrange.weights.reading import Damaged, shown

PERSISTENCE_VERSIONS = range(1, 7)
NUMPY_FORMS = {  # numpy's code: struct's
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "b1": "?",
}
_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}


def _ordered_dict(machine: Machine, args: tuple[Any, ...]) -> object:
    if not args:
        return {}
    pairs = args[0]  # how Python 2 wrote it
    if len(args) > 1 or type(pairs) is not list:
        raise Damaged("an ordered dictionary has no plain entries")
    machine.reading.spend_operations(len(pairs))
    if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
        raise Damaged("an ordered dictionary has no plain entries")
    return {key_of(key): value for key, value in pairs}


def _set(machine: Machine, args: tuple[Any, ...]) -> object:
    if len(args) > 1 or (args and type(args[0]) not in (list, tuple)):
        raise Damaged("a set has no plain items")
    machine.reading.spend_operations(len(args[0]) if args else 0)
    return {key_of(item) for item in args[0]} if args else set()


def _empty_bytes(machine: Machine, args: tuple[Any, ...]) -> object:
    if args:
        raise Damaged("bytes are made from something else")
    return b""


def _encode(machine: Machine, args: tuple[Any, ...]) -> object:
    """Bytes as protocols 0 to 2 write them: a text of Latin-1 characters."""
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        raise Damaged("a text is encoded in an unknown way")
    return machine.binary(args[0])


def _array(machine: Machine, args: tuple[Any, ...]) -> object:
    return RawArray()


def _dtype(machine: Machine, args: tuple[Any, ...]) -> object:
    code = args[0] if args else None
    if type(code) is not str or code not in NUMPY_FORMS:
        raise Damaged(f"its numbers are of the unsupported numpy type {shown(code, 20)}")
    return RawDtype(code)


def _array_from_buffer(machine: Machine, args: tuple[Any, ...]) -> object:
    if len(args) != 4 or type(args[1]) is not RawDtype:
        raise Damaged("a numpy array has no plain numbers")
    return RawArray(dimensions(args[2]), args[1], args[3] == "F", machine.binary(args[0]))


def _scalar(machine: Machine, args: tuple[Any, ...]) -> object:
    """A single numpy number becomes a Python one."""
    if len(args) != 2 or type(args[0]) is not RawDtype:
        raise Damaged("a numpy number has no type")
    order = ">" if args[0].big_endian else "<"
    return struct.unpack(order + NUMPY_FORMS[args[0].code], machine.binary(args[1]))[0]


def _tensor(machine: Machine, args: tuple[Any, ...]) -> object:
    if len(args) < 4 or type(args[0]) is not RawStorage:
        raise Damaged("a tensor has no storage")
    if len(args) > 6 and args[6]:  # a pending negation or conjugation
        raise Damaged("a tensor is not plain")
    (offset,), size, stride = dimensions((args[1],)), dimensions(args[2]), dimensions(args[3])
    if len(size) != len(stride):
        raise Damaged("a tensor has no sensible shape")
    return RawTensor(args[0], offset, size, stride)


def _parameter(machine: Machine, args: tuple[Any, ...]) -> object:
    if not args or type(args[0]) is not RawTensor:
        raise Damaged("a parameter has no tensor")
    return args[0]


def _size(machine: Machine, args: tuple[Any, ...]) -> object:
    return dimensions(args[0] if len(args) == 1 else None)


def _nested_storage(machine: Machine, args: tuple[Any, ...]) -> object:
    if machine.nested is None or len(args) != 1 or not isinstance(args[0], (bytes, memoryview)):
        raise Damaged("a storage is not where storages belong")
    return machine.nested(memoryview(args[0]))


def _persistent_object(machine: Machine, args: tuple[Any, ...]) -> object:
    """The class name and the state; the source code that the file has for the class is left lying."""
    meta = args[0] if len(args) == 1 else None
    if type(meta) is not dict or meta.get("type") != "class" or type(meta.get("state")) is not dict:
        raise Damaged("a persistent object is not a class instance with a state")
    name, version = meta.get("class_name"), meta.get("version")
    if type(name) is not str or type(version) is not int:
        raise Damaged("a persistent object has no class name or version")
    if version not in PERSISTENCE_VERSIONS:
        raise machine.reading.refused(
            f"has persistent objects of format version {version}; versions 1 to 6 are known, so save it with those"
        )
    return RawObject("persistent", shown(name), version, meta["state"])


def _instance(kind: str) -> Callable[[], object]:
    return lambda: RawObject(kind)


def _make_list() -> AllowList:
    pairs: dict[tuple[str, str], Allowed] = {}

    def add(module: str, name: str, **stand_in: Any) -> None:
        pairs[module, name] = Allowed(f"{module}.{name}", **stand_in)

    add("collections", "OrderedDict", call=_ordered_dict, new=dict)
    add("_codecs", "encode", call=_encode)
    for module in ("builtins", "__builtin__"):  # the second is its name in Python 2, which protocol 2 keeps
        add(module, "set", call=_set)
        add(module, "bytes", call=_empty_bytes)
    add("numpy", "ndarray")
    add("numpy", "dtype", call=_dtype)
    for core in ("numpy.core", "numpy._core"):  # the second since numpy 2
        add(f"{core}.multiarray", "_reconstruct", call=_array)
        add(f"{core}.multiarray", "scalar", call=_scalar)
        add(f"{core}.numeric", "_frombuffer", call=_array_from_buffer)
    add("torch", "Size", call=_size)
    for name, dtype in _STORAGES.items():
        add("torch", name, dtype=dtype)
    for module in ("torch", "torch.storage"):
        add(module, "UntypedStorage", dtype="raw")
    add("torch.storage", "_load_from_bytes", call=_nested_storage)
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        add("torch._utils", name, call=_tensor)
    for name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        add("torch._utils", name, call=_parameter)
    add("torch_utils.persistence", "_reconstruct_persistent_obj", call=_persistent_object)
    for module in ("dnnlib.util", "dnnlib"):
        add(module, "EasyDict", call=_ordered_dict, new=dict)
    add("dnnlib.tflib.network", "Network", new=_instance("network"))
    add("argparse", "Namespace", new=_instance("namespace"))
    return pairs


ALLOWED = _make_list()
# Of a torch file inside a pickle, which holds one storage and nothing else.
ALLOWED_NESTED: AllowList = {pair: allowed for pair, allowed in ALLOWED.items() if allowed.dtype is not None}
