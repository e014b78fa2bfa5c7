"""Synthesis layers for inference on a CPU with about a third of the multiplications; see ops/winograd_kernels.h.

A library of its own beside the other native ops, built and found in the same way. There is no plain-torch reference of
the same signature here: `sis_rearrange.inference` holds each layer to the network's own arithmetic.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
from pathlib import Path

import torch

from sis_rearrange.ops import build
from sis_rearrange.ops.native import Backend

PANEL = 16  # channels come in multiples of this
_log = logging.getLogger("sis_rearrange")
_lock = threading.Lock()
_found: list[Backend] = []


class _LayerArguments(ctypes.Structure):
    """Mirror of the structure in ops/winograd.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weights", "styles", "demodulation", "noise", "bias")),
        *((name, ctypes.c_void_p) for name in ("y", "wide", "room")),
        *((name, ctypes.c_int64) for name in ("n", "height", "width", "in_", "out", "block")),
        ("threads", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("slope", "clamp")),
    ]


class _RgbArguments(ctypes.Structure):
    """Mirror of the structure in ops/winograd.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weights", "bias", "skip", "y")),
        *((name, ctypes.c_int64) for name in ("n", "height", "width", "in_")),
        ("threads", ctypes.c_int32),
        ("clamp", ctypes.c_float),
    ]


def backend() -> Backend:
    """The library, looked for once per process and built where that was not done yet, or None and the reason."""
    if os.environ.get("SIS_NATIVE", "1").strip().lower() in ("0", "off", "false", "no"):
        return Backend(None, "switched off by SIS_NATIVE=0")
    with _lock:
        if not _found:
            _found.append(_load())
    return _found[0]


def _load() -> Backend:
    shipped = Path(__file__).resolve().parent / "lib" / "winograd.so"
    if shipped.is_file():
        try:
            return Backend(_open(ctypes.CDLL(str(shipped))), f"built at installation: {shipped}")
        except (OSError, AttributeError) as error:
            _log.info("the native synthesis layers built at installation do not load here: %s", error)
    try:
        folder = build.cache_folder() / "ops"
        path = build.build("winograd", folder)
        try:
            return Backend(_open(ctypes.CDLL(str(path))), f"built for this machine: {path}")
        except OSError:  # no OpenMP library that fits: one thread
            path = build.build("winograd", folder, openmp=False)
            return Backend(_open(ctypes.CDLL(str(path))), f"built for this machine, one thread only: {path}")
    except (build.BuildError, OSError) as error:
        return Backend(None, str(error))


def _open(library: ctypes.CDLL) -> ctypes.CDLL:
    sizes, pointer = [ctypes.c_int64] * 2, ctypes.c_void_p
    library.sis_winograd_pack.argtypes = [pointer, *sizes, ctypes.c_int32, ctypes.c_float, pointer]
    library.sis_winograd_room.argtypes = [pointer]
    library.sis_winograd_room.restype = ctypes.c_int64
    library.sis_winograd_layer.argtypes = [pointer]
    library.sis_winograd_rgb.argtypes = [pointer]
    library.sis_winograd_path.restype = ctypes.c_char_p
    library.sis_winograd_choose_path.argtypes = [ctypes.c_char_p]
    return library


def _library() -> ctypes.CDLL:
    found = backend()
    if found.library is None:
        raise RuntimeError(f"the native synthesis layers are missing: {found.why}")
    return found.library


def _address(x: torch.Tensor | None) -> int | None:
    if x is None:
        return None
    assert x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous(), (x.dtype, x.device, x.stride())
    return x.data_ptr()


def pack(weight: torch.Tensor, up: bool, gain: float = 1.0) -> torch.Tensor:
    """``gain * weight``, float32 ``[out, in, 3, 3]``, as `layer` wants it; four times the size and a little more."""
    out, channels = weight.shape[:2]
    packed = torch.empty((41 if up else 36) * out * channels)
    weight = weight.detach().contiguous()
    if _library().sis_winograd_pack(_address(weight), channels, out, up, gain, _address(packed)):
        raise ValueError(f"channels must be multiples of {PANEL}, got {channels} and {out}")
    return packed


class Room:
    """Memory that layers work in, kept from call to call: fresh pages would cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Float32 memory of a shape, with anything in it; the same as at the last call under this name."""
        count = torch.Size(shape).numel()
        kept = self._kept.get(name)
        if kept is None or kept.numel() < count:
            self._kept.pop(name, None)  # before the new one comes
            kept = self._kept[name] = torch.empty(count)
        return kept[:count].view(shape)


def layer(
    x: torch.Tensor,  # [N, h, w, in]
    packed: torch.Tensor,  # weights, from `pack`
    styles: torch.Tensor,  # [N, in]
    demodulation: torch.Tensor,  # [N, out]
    noise: torch.Tensor | None,  # [H, W]
    bias: torch.Tensor,  # [out]
    slope: float,  # of the leaky ReLU
    up: bool,  # twice as high and wide
    room: Room,
    name: str,  # of the memory in `room` for the result
    clamp: float | None = None,  # largest absolute value of the result; None: no limit
) -> torch.Tensor:
    """``clamp(lrelu(demodulation * conv(x * styles) + noise + bias))``, ``[N, H, W, out]``, in `room`'s memory.

    ``conv`` is 3x3 with zero padding; with ``up`` transposed with stride 2, then filtered with (1 3 3 1) / 4 along
    both axes.
    """
    n, height, width, channels = x.shape
    out, factor = demodulation.shape[1], 2 if up else 1
    threads = torch.get_num_threads()
    y = room.take(name, n, factor * height, factor * width, out)
    wide = room.take("wide", n, 2 * height + 1, 2 * width + 1, out) if up else None
    arguments = _LayerArguments(
        *map(_address, (x, packed, styles, demodulation, noise, bias, y, wide)),
        None,
        *(n, height, width, channels, out, _block(channels, up), threads),
        slope,
        math.inf if clamp is None else clamp,
    )
    library = _library()
    memory = room.take("room", threads * library.sis_winograd_room(ctypes.byref(arguments)))
    arguments.room = _address(memory)
    if library.sis_winograd_layer(ctypes.byref(arguments)):
        raise ValueError(f"channels must be multiples of {PANEL}, got {channels} and {out}")
    return y


def _block(channels: int, up: bool) -> int:
    """Tiles to work on at a time: few enough for the cache of a core, enough to pay for reading the weights."""
    if up:
        return 28 if channels >= 512 else 7
    return 56 if channels >= 512 else 28


def to_rgb(
    x: torch.Tensor,  # [N, H, W, in]
    weights: torch.Tensor,  # [N, 3, in], modulated
    bias: torch.Tensor,  # [3]
    skip: torch.Tensor | None,  # [N, 3, H / 2, W / 2]: the picture so far
    clamp: float | None = None,  # largest absolute value of what is added to it; None: no limit
) -> torch.Tensor:
    """1x1 convolution to RGB, clamped, plus the picture so far, upsampled: ``[N, 3, H, W]``."""
    n, height, width, channels = x.shape
    y = torch.empty(n, 3, height, width)
    arguments = _RgbArguments(
        *map(_address, (x, weights, bias, skip, y)),
        *(n, height, width, channels, torch.get_num_threads()),
        math.inf if clamp is None else clamp,
    )
    if _library().sis_winograd_rgb(ctypes.byref(arguments)):
        raise ValueError(f"channels must be multiples of {PANEL}, got {channels}")
    return y
