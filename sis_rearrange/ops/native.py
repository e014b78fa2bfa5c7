"""Load the native libraries and say which path is active. Nothing is built or loaded before an op is first called."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sis_rearrange.ops import build

IMPLS = ("auto", "native", "ref")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
VERSION = 1  # of the C interface
SMALL = 4096  # elements below which plain torch is as fast, so that "auto" does not bother
_log = logging.getLogger("sis_rearrange")
_lock = threading.Lock()


class EpilogueArguments(ctypes.Structure):
    """Mirror of the structure in ops/arguments.h."""

    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        *((name, ctypes.c_int64) for name in ("n", "c", "s")),
        *((name, ctypes.c_void_p) for name in ("scale", "noise", "strength", "bias")),
        *((name, ctypes.c_int64) for name in ("scale_step", "noise_step", "chunk")),
        ("act", ctypes.c_int32),
        *((name, ctypes.c_double) for name in ("alpha", "gain", "clamp")),
    ]


class FilterArguments(ctypes.Structure):
    """Mirror of the structure in ops/arguments.h."""

    _fields_ = [
        ("dtype", ctypes.c_int32),
        *((name, ctypes.c_int64) for name in ("n", "c")),
        *((name, ctypes.c_int32) for name in ("h", "w", "out_h", "out_w")),
        ("from_", ctypes.c_int64 * 4),
        ("to", ctypes.c_int64 * 4),
        *((name, ctypes.c_int32) for name in ("taps_y", "taps_x", "up_y", "up_x", "down_y", "down_x")),
        *((name, ctypes.c_int32) for name in ("pad_y", "pad_x")),
        ("filter", ctypes.c_void_p),
    ]


_POINTERS = {"sis_epilogue": 2, "sis_epilogue_grad": 4, "sis_curve": 3, "sis_upfirdn2d": 2}


@dataclass(frozen=True)
class Backend:
    """What an op on one kind of device runs on: a library, or None and the reason."""

    library: ctypes.CDLL | None
    why: str


def _open(path: Path) -> ctypes.CDLL:
    """Load a library and check that it is ours; OSError where it does not load."""
    library = ctypes.CDLL(str(path))
    if getattr(library, "sis_version", int)() != VERSION:
        raise OSError(f"{path} is of another version")
    for name, count in _POINTERS.items():
        order = [ctypes.c_int] if name == "sis_curve" else []
        getattr(library, name).argtypes = [ctypes.c_void_p, *order, *[ctypes.c_void_p] * (count + 1)]  # last: stream
    library.sis_path.restype = ctypes.c_char_p
    library.sis_choose_path.argtypes = [ctypes.c_char_p]
    return library


def _shipped() -> Path | None:
    """The CPU library that came with the package, if it was installed where a compiler was."""
    path = Path(__file__).resolve().parent / "lib" / "cpu.so"
    return path if path.is_file() else None


def _load_cpu() -> Backend:
    if shipped := _shipped():
        try:
            return Backend(_open(shipped), f"built at installation: {shipped}")
        except OSError as error:
            _log.info("the native ops built at installation do not load here: %s", error)
    try:
        folder = build.cache_folder() / "ops"
        path = build.build("cpu", folder)
        try:
            return Backend(_open(path), f"built for this machine: {path}")
        except OSError:  # no OpenMP library that fits what this compiler calls: one thread, but still fused
            path = build.build("cpu", folder, openmp=False)
            return Backend(_open(path), f"built for this machine, one thread only: {path}")
    except (build.BuildError, OSError) as error:
        return Backend(None, str(error))


def _load_gpu() -> Backend:
    if not torch.cuda.is_available():
        return Backend(None, "torch sees no CUDA device")
    number = "".join(map(str, torch.cuda.get_device_capability()))
    try:
        path = build.build("gpu", build.cache_folder() / "ops", architectures=[number])
        return Backend(_open(path), f"built for this GPU (sm_{number}): {path}")
    except (build.BuildError, OSError) as error:
        return Backend(None, str(error))


_backends: dict[bool, Backend] = {}


def find(on_gpu: bool = False) -> Backend:
    """The backend for the CPU or the GPU, looked for once per process. The first call may build it: seconds.

    ``SIS_NATIVE=0`` in the environment switches the native ops off.
    """
    if os.environ.get("SIS_NATIVE", "1").strip().lower() in ("0", "off", "false", "no"):
        return Backend(None, "switched off by SIS_NATIVE=0")
    if on_gpu not in _backends:
        with _lock:
            if on_gpu not in _backends:
                found = _load_gpu() if on_gpu else _load_cpu()
                if found.library is None and (torch.cuda.is_available() or not on_gpu):
                    _log.warning("native ops are off, plain torch does their work: %s", found.why)
                _backends[on_gpu] = found
    return _backends[on_gpu]


def _available(on_gpu: bool) -> bool:
    return find(on_gpu).library is not None


# What torch.compiler.assume_constant_result sets; that function itself would import the compiler, a second's work.
_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def backend(on_gpu: bool = False) -> tuple[str, str]:
    """("native" or "ref", why) for ops on the CPU or a CUDA device; builds the library if that was not tried yet."""
    found = find(on_gpu)
    return ("ref" if found.library is None else "native"), found.why


def use_native(impl: str, x: torch.Tensor) -> bool:
    """Whether an op on `x` takes the native path.

    ``impl``: "auto" takes it where it can and where it pays, but never under a tracer of plain torch graphs
    (TorchScript, ONNX), which could not follow; "native" raises RuntimeError where it is missing; "ref" never takes it.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}, must be one of {', '.join(IMPLS)}")
    if impl == "ref":
        return False
    possible = (x.is_cuda or x.is_cpu) and x.dtype in DTYPES
    if impl == "auto":
        if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
            return False
        return possible and x.numel() >= SMALL and _available(x.is_cuda)
    if not possible:
        raise RuntimeError(f"impl='native': there are no native ops for {x.dtype} on {x.device.type}")
    if not _available(x.is_cuda):
        raise RuntimeError(f"impl='native': {find(x.is_cuda).why}")
    return x.numel() > 0


def call(name: str, x: torch.Tensor, arguments: ctypes.Structure, *pointers: int) -> None:
    """Call a function of the library for `x`'s device, on torch's current stream there."""
    library = find(x.is_cuda).library
    assert library is not None
    function = getattr(library, name)
    if x.is_cuda:
        with torch.cuda.device(x.device):
            status = function(ctypes.byref(arguments), *pointers, torch.cuda.current_stream().cuda_stream)
    else:
        status = function(ctypes.byref(arguments), *pointers, None)
    if status:
        raise RuntimeError(f"{name} of the native library refused its arguments (status {status})")


def define(
    name: str,
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    save: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """An op under ``sis_rearrange::name``: ``run`` computes it, ``fake`` gives the shapes, the rest its gradient.

    Tracers (`torch.compile`, `torch.export`, fake tensors) see the `torch.library` op. Plain eager tensors take an
    autograd function over the same functions instead: several times less overhead per call.
    """
    traced = torch.library.custom_op(f"sis_rearrange::{name}", run, mutates_args=(), schema=schema)
    traced.register_fake(fake)
    traced.register_autograd(backward, setup_context=save)
    members = {"forward": run, "setup_context": save, "backward": backward}
    eager: Any = type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in members.items()})

    def op(x: torch.Tensor, *others: Any) -> Any:
        if torch.compiler.is_compiling() or type(x) not in (torch.Tensor, torch.nn.Parameter):
            return traced(x, *others)
        return eager.apply(x, *others)

    return op


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which the native ops compute and take their small operands: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
