"""A pickle machine that cannot run code: opcodes in, plain data and inert records out.

Python's own unpickler imports what a file names and calls it. This one knows neither: a name is looked up in a table of
exact (module, name) pairs, each with a stand-in of ours, and any other name is refused. Declared lengths are held
against the bytes that are there before anything is made, and every opcode is taken from the file's allowance. What the
single opcodes do: see ``opcodes``.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from sis_rearrange.errors import InputError
from sis_rearrange.weights.inert import Allowed, Bytes, RawStorage
from sis_rearrange.weights.opcodes import STEPS
from sis_rearrange.weights.reading import Damaged, Reading, shown

_MAX_GLOBAL = 256  # bytes of a module's or a name's line
_STOP = ord(".")

AllowList = Mapping[tuple[str, str], Allowed]


class Machine:
    """Runs one pickle that begins at ``position`` of ``data``; afterwards ``position`` is that of what follows it.

    ``storage`` stands for ``persistent_load``: it gets the persistent id of a torch file (None: there are none).
    ``nested`` turns the bytes of a torch file inside the pickle into the storage they hold (None: refuse them).
    """

    def __init__(
        self,
        data: memoryview,
        reading: Reading,
        allowed: AllowList,
        position: int = 0,
        storage: Callable[[object], RawStorage] | None = None,
        nested: Callable[[memoryview], RawStorage] | None = None,
    ) -> None:
        self.data, self.position, self.reading = data, position, reading
        self.allowed, self.storage, self.nested = allowed, storage, nested
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below the open marks
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        """The pickled object. Raises ``InputError`` for whatever is not on the list and for senseless bytes."""
        data, spend = self.data, self.reading.spend_operations
        try:
            while True:
                opcode = data[self.position]
                self.position += 1
                spend()
                if opcode == _STOP:
                    return self.stack.pop()
                step = STEPS.get(opcode)
                if step is None:
                    raise self._unknown(opcode)
                step(self)
        except (Damaged, IndexError, KeyError, UnicodeDecodeError, struct.error) as error:
            reason = error if isinstance(error, Damaged) else f"it makes no sense at byte {self.position:,}"
            raise self.reading.damaged(reason) from error

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes, in place."""
        end = self.position + length
        if end > len(self.data):
            raise Damaged(f"it declares {length:,} bytes where {len(self.data) - self.position:,} are left")
        view = self.data[self.position : end]
        self.position = end
        return view

    def number(self, form: str) -> int:
        """The next integer in one of struct's forms."""
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> str:
        """The next line of text, of a GLOBAL opcode."""
        window = bytes(self.data[self.position : self.position + _MAX_GLOBAL])
        end = window.find(b"\n")
        if end < 0:
            raise Damaged("a name has no end")
        self.position += end + 1
        return window[:end].decode("utf-8")

    def binary(self, value: Any) -> Bytes:
        """Bytes of the file, also where an old protocol wrote them as a text of Latin-1 characters."""
        if isinstance(value, (bytes, memoryview)):
            return value
        if type(value) is not str:
            raise Damaged(f"it has a {type(value).__name__} where bytes belong")
        self.reading.spend_copy(len(value))
        try:
            return memoryview(value.encode("latin-1"))
        except UnicodeEncodeError as error:
            raise Damaged("a text of bytes is not Latin-1") from error

    def above_mark(self) -> list[Any]:
        """What lies above the topmost mark, which goes with it."""
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def find(self, module: object, name: object) -> Allowed:
        """Our stand-in for a name of the file; ``InputError`` where it has none."""
        found = self.allowed.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise self.reading.refused(
                f"asks for {shown(module)}.{shown(name)}, which could run code, so the pickle is not opened; give an "
                "official StyleGAN2 snapshot, or plain tensors saved with torch.save(model.state_dict(), ...)"
            )
        return found

    def _unknown(self, opcode: int) -> InputError:
        known = pickletools.code2op.get(chr(opcode))  # type: ignore[attr-defined]
        if known is None:
            return self.reading.damaged(f"byte {self.position - 1:,} is no pickle opcode")
        return self.reading.refused(
            f"uses the pickle opcode {known.name}, which weight files have no need of, so the pickle is not opened"
        )
