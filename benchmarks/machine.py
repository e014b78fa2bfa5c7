"""What a figure depends on besides the code: processor, threads, versions; and how much memory a call takes."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sis_rearrange import __version__, ops

PROC = Path("/proc")
FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
PACKAGES = ("torch", "openvino", "numpy")


def describe() -> dict[str, Any]:
    """The machine and the software, JSON-able. ``load`` is what else was running when the run began."""
    info = _read(PROC / "cpuinfo")
    flags = set(re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)[:1][0].split()) if info else set()
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    kib = re.search(r"^MemTotal:\s*(\d+) kB", _read(PROC / "meminfo"), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "features": [name for name in FEATURES if name in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(int(kib[1]) / 2**20) if kib else None,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {"sis_rearrange": __version__, **{name: _version(name) for name in PACKAGES}},
        "ops": ops.backend()[0],
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# ---------------------------------------------------------------- memory


def resident_memory() -> float | None:
    """Megabytes of this process that are in memory now, what it freed given back first; None outside Linux."""
    _trim()
    return _status("VmRSS")


def peak_memory(call: Callable[[], Any]) -> float | None:
    """Most megabytes of this process in memory while ``call`` runs; None where the system does not say."""
    _trim()
    try:
        (PROC / "self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        return None
    call()
    return _status("VmHWM")


def _status(field: str) -> float | None:
    found = re.search(rf"^{field}:\s*(\d+) kB", _read(PROC / "self/status"), re.MULTILINE)
    return 1.024e-3 * float(found[1]) if found else None


def _trim() -> None:
    """Have the C library hand free memory back; only glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
