"""Memory of a training: what it took, what a step keeps, and how its lack shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

import torch
import torch.nn as nn


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch or Python say that an allocation failed."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def peak_memory(device_type: str = "cpu") -> int:
    """The most memory this process has held so far, in bytes: the device's where there is one, else the host's."""
    if device_type != "cpu":
        device = torch.get_device_module(device_type)
        if hasattr(device, "max_memory_allocated"):
            return int(device.max_memory_allocated())
    try:
        import resource
    except ImportError:
        return 0
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if os.uname().sysname == "Darwin" else kibibytes * 1024


def saved_bytes(work: Callable[[], object], networks: Collection[nn.Module] = ()) -> int:
    """Bytes that autograd keeps while ``work`` runs, the ``networks``' own parameters left out."""
    own = {p.untyped_storage().data_ptr() for network in networks for p in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # What is freed within the step leaves its address to others: count the largest
            kept[storage.data_ptr()] = max(kept.get(storage.data_ptr(), 0), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(kept.values())
