"""What the objects of a pickle become here: records that hold data and do nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sis_rearrange.weights.machine import Machine

Bytes = bytes | memoryview  # short ones are copied out of the file, long ones are views into it


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """An allow-listed name of a pickle, such as ``torch._utils._rebuild_tensor_v2``: our stand-in for it."""

    label: str  # module and name, for messages
    call: Callable[[Machine, tuple[Any, ...]], object] | None = None  # stands in for calling it
    new: Callable[[], object] | None = None  # stands in for making an empty instance
    dtype: str | None = None  # of a torch storage class


@dataclass(slots=True, eq=False)
class RawStorage:
    """The memory of tensors. ``data`` stays None until the part of the file that holds it has been reached."""

    dtype: str  # "f4" and so on as numpy calls them, "bf16", or "raw" for bytes of no type
    numel: int
    data: memoryview | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """A view into a storage, in elements; not yet held against the storage's bounds."""

    storage: RawStorage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True, eq=False)
class RawDtype:
    """A numpy number type: its code without byte order, and whether the bytes are swapped."""

    code: str
    big_endian: bool = False


@dataclass(slots=True, eq=False)
class RawArray:
    """A numpy array whose bytes lie in the file."""

    shape: tuple[int, ...] = ()
    dtype: RawDtype | None = None
    fortran: bool = False
    data: Bytes | None = None


@dataclass(slots=True, eq=False)
class RawObject:
    """An instance of a class that is not here: what kind it is and the state it was saved with."""

    kind: str  # "persistent" (official PyTorch), "network" (official TensorFlow) or "namespace" (argparse)
    class_name: str = ""
    version: int = 0  # of the persistence format
    state: dict[Any, Any] | None = None
