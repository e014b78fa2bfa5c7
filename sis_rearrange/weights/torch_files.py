"""The two container formats of ``torch.save``, parsed as data: the zip archive and what came before it.

Both hold a pickle that refers to storages by persistent id, and the storages' bytes beside it. The bytes stay where
they are: a storage is a view into the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from sis_rearrange.weights.allowed import ALLOWED, ALLOWED_NESTED, NUMPY_FORMS
from sis_rearrange.weights.inert import Allowed, RawStorage
from sis_rearrange.weights.kinds import looks_like_zip
from sis_rearrange.weights.machine import AllowList, Machine
from sis_rearrange.weights.reading import Damaged, Reading, shown

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_MEMBERS = 20_000
ITEM_SIZES = {**{code: struct.calcsize(form) for code, form in NUMPY_FORMS.items()}, "bf16": 2, "raw": 1}


class Member(NamedTuple):
    """An uncompressed member of a zip archive: a view of its bytes, and the CRC-32 that the directory has of them."""

    data: memoryview
    crc: int

    def checked(self, name: str, reading: Reading) -> memoryview:
        """The bytes, once they have been held against their checksum; ``InputError`` where they have changed.

        torch can leave checksums out, and then writes 0.
        """
        reading.spend_check(len(self.data))  # names without end may stand for the same bytes
        if self.crc and zlib.crc32(self.data) != self.crc:
            raise reading.damaged(f"the checksum of its part {shown(name, 40)} is another", "torch file")
        return self.data


def read_pickle(data: memoryview, reading: Reading) -> object:
    """What a bare pickle or a legacy torch file holds."""
    machine = Machine(data, reading, ALLOWED, nested=lambda view: read_nested(view, reading))
    first = machine.run()
    if first != _LEGACY_MAGIC:
        return first
    return _read_legacy(data, machine.position, reading, ALLOWED)


def read_zip(data: memoryview, reading: Reading) -> object:
    """What a torch zip archive holds. Raises ``InputError`` for other archives and for TorchScript programs."""
    return _read_zip(data, reading, ALLOWED)


def read_nested(data: memoryview, reading: Reading) -> RawStorage:
    """The one storage of a torch file that lies as bytes inside a pickle; it may name nothing but storage classes."""
    if looks_like_zip(data):
        storage = _read_zip(data, reading, ALLOWED_NESTED)
    else:
        machine = Machine(data, reading, ALLOWED_NESTED)
        if machine.run() != _LEGACY_MAGIC:
            raise Damaged("the bytes of a storage are no torch file")
        storage = _read_legacy(data, machine.position, reading, ALLOWED_NESTED)
    if type(storage) is not RawStorage:
        raise Damaged("the bytes of a storage hold something else")
    return storage


def _read_legacy(data: memoryview, position: int, reading: Reading, allowed: AllowList) -> object:
    """After the magic number: protocol, system, objects and keys as pickles, then each storage's length and bytes."""
    storages: dict[str, RawStorage] = {}

    def storage(pid: object) -> RawStorage:
        if type(pid) is not tuple or len(pid) != 6 or pid[5] is not None:
            raise Damaged("a storage is a view of another, which no StyleGAN2 file needs")
        key, declared = _storage_id(pid[:5])
        found = storages.setdefault(key, declared)
        if (found.dtype, found.numel) != (declared.dtype, declared.numel):
            raise Damaged("a storage is declared in two ways")
        return found

    try:
        protocol = Machine(data, reading, {}, position)
        if protocol.run() != _LEGACY_PROTOCOL:
            raise Damaged("its torch protocol is not 1001")
        # byte order and sizes of C types on the writer's machine: torch writes little-endian data on any
        system = Machine(data, reading, {}, protocol.position)
        system.run()
        objects = Machine(data, reading, allowed, system.position, storage, _nested_in(reading, allowed))
        payload = objects.run()
        keys = Machine(data, reading, {}, objects.position)
        listed = keys.run()
        if type(listed) is not list or any(type(key) is not str for key in listed):
            raise Damaged("it has no list of storages")
        _fill(storages, listed, keys)
    except Damaged as error:
        raise reading.damaged(error, "torch file") from error
    return payload


def _nested_in(reading: Reading, allowed: AllowList) -> Callable[[memoryview], RawStorage] | None:
    return (lambda view: read_nested(view, reading)) if allowed is ALLOWED else None


def _fill(storages: dict[str, RawStorage], keys: list[str], rest: Machine) -> None:
    for key in keys:
        found = storages.get(key)
        if found is None or rest.number("<q") != found.numel:
            raise Damaged("the lengths of its storages do not agree")
        found.data = rest.take(found.numel * ITEM_SIZES[found.dtype])


def _storage_id(pid: object) -> tuple[str, RawStorage]:
    """Key and, still empty, storage of a persistent id ``("storage", class, key, device, numel)``."""
    if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not Allowed:
        raise Damaged("it refers to something that is no storage")
    kind, key, numel = pid[1], pid[2], pid[4]
    if kind.dtype is None or type(key) is not str or type(numel) is not int or not 0 <= numel < 1 << 40:
        raise Damaged("it refers to something that is no storage")
    return key, RawStorage(kind.dtype, numel)


def _read_zip(data: memoryview, reading: Reading, allowed: AllowList) -> object:
    size = f"{reading.size:,} bytes"
    try:
        members = zip_members(data, reading)
    except (Damaged, struct.error, UnicodeDecodeError) as error:
        raise reading.damaged(error, "zip file") from error
    last = {name.rsplit("/", 1)[-1]: name for name in members}
    if "constants.pkl" in last:
        raise reading.refused(f"is a TorchScript program ({size}), which is code; save its state_dict instead")
    pickled = members.get(last.get("data.pkl", ""))
    if pickled is None or any(member is None for member in members.values()):
        raise reading.refused(f"is a zip archive ({size}) but not one that torch.save wrote; unpack it first")
    folder = last["data.pkl"].removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order is not None and bytes(order.data[:16]) == b"big":
        raise reading.refused("has big-endian tensors; save it again on a little-endian machine")
    storages: dict[str, RawStorage] = {}

    def storage(pid: object) -> RawStorage:
        key, declared = _storage_id(pid)
        found = storages.setdefault(key, declared)
        member = members.get(f"{folder}data/{key}")
        if member is None or len(member.data) < declared.numel * ITEM_SIZES[declared.dtype]:
            raise Damaged("a storage is missing or too short")
        if (found.dtype, found.numel) != (declared.dtype, declared.numel):
            raise Damaged("a storage is declared in two ways")
        if found.data is None:  # once, however many tensors are views into it
            found.data = member.checked(f"data/{key}", reading)
        return found

    try:
        program = pickled.checked("data.pkl", reading)
        return Machine(program, reading, allowed, 0, storage, _nested_in(reading, allowed)).run()
    except Damaged as error:
        raise reading.damaged(error, "torch file") from error


def zip_members(data: memoryview, reading: Reading) -> dict[str, Member | None]:
    """The members of a zip archive, not yet checked, None for compressed or encrypted ones: nothing is ever inflated.

    Raises ``Damaged`` or ``struct.error`` where the directory makes no sense.
    """
    count, start, size = _zip_directory(data)
    if count > _MAX_MEMBERS or start + size > len(data) or count * 46 > size:
        raise Damaged(f"its directory of {count:,} members does not fit")
    reading.spend_operations(count)
    members: dict[str, Member | None] = {}
    position = start
    for _ in range(count):
        fields = struct.unpack_from("<4s6H3L5H2L", data, position)
        name_length, extra_length, comment_length = fields[10:13]
        begin = position + 46
        position = begin + name_length + extra_length + comment_length
        if fields[0] != b"PK\x01\x02" or position > start + size:
            raise Damaged("its directory is broken")
        name = str(data[begin : begin + name_length], "utf-8")
        if name in members:
            raise Damaged("its directory lists a member twice")
        extra = data[begin + name_length : begin + name_length + extra_length]
        packed, unpacked, offset = _wide([*fields[8:10], fields[16]], extra)
        stored = fields[4] == 0 and packed == unpacked and not fields[3] & 1
        members[name] = Member(_stored(data[:start], offset, packed), fields[7]) if stored else None
    return members


def _zip_directory(data: memoryview) -> tuple[int, int, int]:
    """Number of members, first byte and length of the directory."""
    tail = bytes(data[-(22 + 0xFFFF) :])
    found = tail.rfind(b"PK\x05\x06")
    if found < 0:
        raise Damaged("its directory is missing")
    count, size, start = struct.unpack_from("<HLL", tail, found + 10)
    if count != 0xFFFF and 0xFFFFFFFF not in (size, start):
        return count, start, size
    end = len(data) - len(tail) + found
    if end < 20 or data[end - 20 : end - 16] != b"PK\x06\x07":
        return count, start, size
    (wide,) = struct.unpack_from("<Q", data, end - 12)
    if wide + 56 > len(data) or data[wide : wide + 4] != b"PK\x06\x06":
        raise Damaged("its directory is missing")
    count, size, start = struct.unpack_from("<QQQ", data, wide + 32)
    return count, start, size


def _wide(fields: list[int], extra: memoryview) -> list[int]:
    """Sizes and offset of a member, those that need more than 32 bits from its zip64 field."""
    for _ in range(8):  # fields of any kind; torch writes one or none
        if len(extra) < 4 or 0xFFFFFFFF not in fields:
            break
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            for number in (n for n in range(3) if fields[n] == 0xFFFFFFFF):
                (fields[number],) = struct.unpack_from("<Q", extra, 4)
                extra = extra[8:]
            break
        extra = extra[4 + length :]
    return fields


def _stored(data: memoryview, offset: int, size: int) -> memoryview:
    """The bytes of an uncompressed member whose local header begins at ``offset``."""
    if offset + 30 > len(data) or data[offset : offset + 4] != b"PK\x03\x04":
        raise Damaged("a member is missing")
    name_length, extra_length = struct.unpack_from("<HH", data, offset + 26)
    begin = offset + 30 + name_length + extra_length
    if begin + size > len(data):
        raise Damaged("a member is cut off")
    return data[begin : begin + size]
