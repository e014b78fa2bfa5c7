"""What each pickle opcode does to the machine: the binary ones that protocols 2 to 5 write, and no others.

Those of protocols 0 and 1 alone, the extension registry and out-of-band buffers have no place in weight files. Keys of
dictionaries are texts or integers, whose hashes nobody can make collide by the thousand.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sis_rearrange.weights.inert import Allowed, Bytes, RawArray, RawDtype, RawObject
from sis_rearrange.weights.reading import Damaged

if TYPE_CHECKING:
    from sis_rearrange.weights.machine import Machine

_COPIED = 64  # bytes up to which a bytes object is copied out of the file
_LONG_TEXT = 1 << 20  # bytes from which a text must be Latin-1: then it takes no more memory than the file
_MAX_INTEGER = 16  # bytes; the largest one needed is torch's magic number, of 10


def key_of(value: Any) -> Any:
    """``value`` where it may be a key of a dictionary or an item of a set."""
    if type(value) is str or (type(value) is int and abs(value) < 1 << 60):
        return value
    raise Damaged(f"a {type(value).__name__} is used as a key")


def _of(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Damaged(f"it has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _bytes(view: memoryview) -> Bytes:
    return bytes(view) if len(view) <= _COPIED else view


def _text(view: memoryview) -> str:
    # One rare character in a long ASCII text makes Python store it in four bytes a character.
    if len(view) > _LONG_TEXT and int(np.frombuffer(view, np.uint8).max()) >= 0xC4:
        raise Damaged(f"it has a text of {len(view):,} bytes that is not Latin-1")
    return str(view, "utf-8")


def _python2_text(view: memoryview) -> str | memoryview:
    # Python 2 wrote texts and binary data alike with these opcodes; long ones are data, or source code nobody needs.
    return str(view, "latin-1") if len(view) <= 1024 else view


def _pushes(value: Callable[[Machine], object]) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine.stack.append(value(machine))

    return step


def _sized(form: str, convert: Callable[[memoryview], object]) -> Callable[[Machine], None]:
    """Push what a length in struct's ``form`` and as many bytes hold."""
    return _pushes(lambda machine: convert(machine.take(machine.number(form))))


def _integer(view: memoryview) -> int:
    if len(view) > _MAX_INTEGER:
        raise Damaged(f"it has an integer of {len(view):,} bytes")
    return int.from_bytes(view, "little", signed=True)


def _tuple(count: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        if len(machine.stack) < count:
            raise Damaged("its stack is empty")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return step


def _marked_tuple(machine: Machine) -> None:
    items = machine.above_mark()
    machine.stack.append(tuple(items))


def _protocol(machine: Machine) -> None:
    version = machine.number("<B")
    if version > 5:
        raise Damaged(f"it declares pickle protocol {version}")


def _frame(machine: Machine) -> None:
    length = machine.number("<Q")
    if length > len(machine.data) - machine.position:
        raise Damaged(f"it declares {length:,} bytes where {len(machine.data) - machine.position:,} are left")


def _mark(machine: Machine) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.above_mark()


def _pop_mark(machine: Machine) -> None:
    machine.above_mark()


def _put(form: str) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine.memo[machine.number(form)] = machine.stack[-1]

    return step


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    _of(machine.stack[-1], list).append(value)


def _appends(machine: Machine) -> None:
    items = machine.above_mark()
    _of(machine.stack[-1], list).extend(items)


def _add_items(machine: Machine) -> None:
    items = machine.above_mark()
    _of(machine.stack[-1], set).update(key_of(item) for item in items)


def _frozen_set(machine: Machine) -> None:
    items = machine.above_mark()
    machine.stack.append(frozenset(key_of(item) for item in items))


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _of(machine.stack[-1], dict)[key_of(key)] = value


def _set_items(machine: Machine) -> None:
    items = machine.above_mark()
    if len(items) % 2:
        raise Damaged("a dictionary has a key without a value")
    target = _of(machine.stack[-1], dict)
    for i in range(0, len(items), 2):
        target[key_of(items[i])] = items[i + 1]


def _global(machine: Machine) -> None:
    module = machine.line()
    machine.stack.append(machine.find(module, machine.line()))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.find(module, name))


def _reduce(machine: Machine) -> None:
    args, function = _of(machine.stack.pop(), tuple), _of(machine.stack.pop(), Allowed)
    if function.call is None:
        raise Damaged(f"it calls {function.label}")
    machine.stack.append(function.call(machine, args))


def _new_object(machine: Machine) -> None:
    args, kind = _of(machine.stack.pop(), tuple), _of(machine.stack.pop(), Allowed)
    if kind.new is None or args:
        raise Damaged(f"it makes a {kind.label}")
    machine.stack.append(kind.new())


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if type(target) is RawObject and target.kind != "persistent":
        target.state = _of(state, dict)
    elif type(target) is RawArray:
        _build_array(machine, target, _of(state, tuple))
    elif type(target) is RawDtype:
        if len(_of(state, tuple)) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise Damaged("a number type has no byte order")
        target.big_endian = state[1] == ">"
    elif type(target) is not dict:  # of an ordered dictionary: module versions, which nothing here asks for
        raise Damaged(f"it gives a state to a {type(target).__name__}")


def _build_array(machine: Machine, array: RawArray, state: tuple[Any, ...]) -> None:
    if len(state) != 5 or type(state[2]) is not RawDtype:
        raise Damaged("a numpy array has no plain numbers")
    array.shape, array.dtype, array.fortran = dimensions(state[1]), state[2], bool(state[3])
    array.data = machine.binary(state[4])


def dimensions(value: Any, limit: int = 1 << 40) -> tuple[int, ...]:
    """A shape or strides of the file: up to eight integers from 0 to ``limit``."""
    if type(value) is not tuple or len(value) > 8 or any(type(n) is not int or not 0 <= n <= limit for n in value):
        raise Damaged("a tensor has no sensible shape")
    return value


def _persistent(machine: Machine) -> None:
    if machine.storage is None:
        raise Damaged("it refers to data outside of it")
    machine.stack.append(machine.storage(machine.stack.pop()))


STEPS: dict[int, Callable[[Machine], None]] = {
    0x80: _protocol,
    0x95: _frame,
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _pushes(lambda machine: machine.stack[-1]),
    ord("N"): _pushes(lambda machine: None),
    0x88: _pushes(lambda machine: True),
    0x89: _pushes(lambda machine: False),
    ord("J"): _pushes(lambda machine: machine.number("<i")),
    ord("K"): _pushes(lambda machine: machine.number("<B")),
    ord("M"): _pushes(lambda machine: machine.number("<H")),
    ord("G"): _pushes(lambda machine: struct.unpack(">d", machine.take(8))[0]),
    0x8A: _sized("<B", _integer),
    0x8B: _sized("<I", _integer),
    ord("C"): _sized("<B", _bytes),
    ord("B"): _sized("<I", _bytes),
    0x8E: _sized("<Q", _bytes),
    0x96: _sized("<Q", _bytes),
    ord("U"): _sized("<B", _python2_text),
    ord("T"): _sized("<I", _python2_text),
    0x8C: _sized("<B", _text),
    ord("X"): _sized("<I", _text),
    0x8D: _sized("<Q", _text),
    ord(")"): _pushes(lambda machine: ()),
    ord("]"): _pushes(lambda machine: []),
    ord("}"): _pushes(lambda machine: {}),
    0x8F: _pushes(lambda machine: set()),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): _marked_tuple,
    ord("a"): _append,
    ord("e"): _appends,
    ord("s"): _set_item,
    ord("u"): _set_items,
    0x90: _add_items,
    0x91: _frozen_set,
    ord("q"): _put("<B"),
    ord("r"): _put("<I"),
    0x94: _memoize,
    ord("h"): _pushes(lambda machine: machine.memo[machine.number("<B")]),
    ord("j"): _pushes(lambda machine: machine.memo[machine.number("<I")]),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new_object,
    ord("b"): _build,
    ord("Q"): _persistent,
}
