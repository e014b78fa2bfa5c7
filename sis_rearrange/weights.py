"""Safe reading and writing of network weights: ``(config, state_dict)`` in, one safetensors file out.

This module knows no network. It never unpickles: safetensors files are parsed by the safetensors library, torch zip
files by ``torch.load(weights_only=True)``, and what a file is gets decided by its content, not by its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from sis_rearrange.errors import InputError, nearest
from sis_rearrange.images import write_bytes

State = dict[str, torch.Tensor]

_HEAD = 512
_MAGIC = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WebP, WAV or AVI)"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PK", "a zip archive"),
    (b"\x80", "a Python pickle"),
)
# A fp16 mantissa keeps a relative error below 2**-11. A tensor that loses clearly more than that sits in the
# subnormal range (variances, tiny gains), where halving would silently flush it to zero.
_HALF_ERROR = 2e-3


def describe_content(head: bytes) -> str:
    """What a file is, from its first bytes (512 are plenty): a phrase for messages such as ``"a JPEG image"``."""
    if not head:
        return "empty"
    if _looks_like_safetensors(head):
        return "a safetensors file"
    for magic, phrase in _MAGIC:
        if head.startswith(magic):
            return phrase
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file it stands for (run `git lfs pull`)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (HTML), probably an error page saved by a download"
    if len(head) > 262 and head[257:262] == b"ustar":
        return "a tar archive"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head):
        return "a text file"
    return "of an unknown kind"


def sha256(path: str | Path) -> str:
    """Hex sha256 of a file, read in blocks; ``InputError`` where the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    return digest.hexdigest()


def read_weights(path: str | Path, key: str | None = None) -> tuple[dict[str, Any], State]:
    """Read ``(config, state_dict)`` from a safetensors file or a torch zip file of plain tensors.

    ``key`` picks one state dict where a torch file holds several (``"G_ema"``, ``"D"``). Floating tensors come back
    as contiguous float32 on the CPU, integer and boolean ones unchanged. ``config`` is ``{}`` where the file has none.
    Raises ``InputError`` for a missing, truncated or foreign file, for a pickle that needs code to be run, and for
    NaN or infinite values.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: is not a file; give the path of a .safetensors or .pt weight file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
            _check_kind(head, size, str(path))
            data = head + file.read()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path of the weights") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_weights(data, str(path), key)


def decode_weights(data: bytes, name: str, key: str | None = None) -> tuple[dict[str, Any], State]:
    """``read_weights`` for bytes already in memory; ``name`` is what messages call them."""
    _check_kind(data[:_HEAD], len(data), name)
    if _looks_like_safetensors(data[:_HEAD]):
        if key is not None:
            raise InputError(f"{name}: a safetensors file holds one network, so there is no {key!r} to pick in it")
        config, state = _decode_safetensors(data, name)
    else:
        config, state = _decode_torch_zip(data, name, key)
    return _jsonable(config, name), _checked_state(state, name, len(data))


def encode_weights(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], half: bool = True) -> bytes:
    """The bytes of the safetensors file for ``state`` and JSON-able ``config``: the same input, the same bytes.

    With ``half`` floating tensors become float16, save those that would overflow or lose their digits in it, which
    stay float32. Raises ``InputError`` for NaN or infinite values (a training run that diverged).
    """
    tensors: State = {}
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        if tensor.is_floating_point():
            _require_finite(tensor, name, "not written; the training diverged")
            tensor = _halved(tensor) if half else tensor.float()
        # clone: safetensors refuses tensors that share memory, as tied weights do
        tensors[name] = tensor.contiguous().clone()
    # One metadata key only: the library keeps them in an unordered map, so two would make the bytes vary.
    text = json.dumps(dict(config), sort_keys=True, allow_nan=False)
    return safetensors.torch.save(tensors, metadata={"config": text})


def write_weights(
    path: str | Path, state: Mapping[str, torch.Tensor], config: Mapping[str, Any], half: bool = True
) -> None:
    """Write ``encode_weights(state, config, half)`` to ``path``, atomically: whole file or no file."""
    write_bytes(path, encode_weights(state, config, half))


def _looks_like_safetensors(head: bytes) -> bool:
    # 8 bytes of little-endian header length (the library's limit is 100 MB), then JSON. Asked before the pickle
    # magic, because a header of 0x..80 bytes starts with the very byte of a pickle.
    return len(head) >= 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def _check_kind(head: bytes, size: int, name: str) -> None:
    """Raise the ``InputError`` that fits unless the content is a safetensors or a zip file."""
    if _looks_like_safetensors(head) or head.startswith(b"PK\x03\x04"):
        return
    what = describe_content(head)
    if not head:
        raise InputError(f"{name}: is empty (0 bytes); copy or download the weights again")
    if head.startswith(b"\x80"):
        raise InputError(
            f"{name}: is a Python pickle ({size:,} bytes), which can run code when read, so it is not "
            "opened; convert it to safetensors first (official .pkl files are not read yet)"
        )
    raise InputError(f"{name}: is {what} ({size:,} bytes), not weights; give a .safetensors file or a torch .pt file")


def _decode_safetensors(data: bytes, name: str) -> tuple[dict[str, Any], State]:
    try:
        state = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        config = json.loads(metadata.get("config", "{}"))
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{name}: is a damaged or truncated safetensors file ({len(data):,} bytes: "
            f"{_first_line(error)}); copy or download it again"
        ) from error
    return config, state


def _decode_torch_zip(data: bytes, name: str, key: str | None) -> tuple[dict[str, Any], State]:
    size = f"{len(data):,} bytes"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise InputError(f"{name}: is a damaged or truncated zip file ({size}); copy or download it again") from error
    names = [entry.filename.rsplit("/", 1)[-1] for entry in entries]
    if "constants.pkl" in names:
        raise InputError(f"{name}: is a TorchScript program ({size}), which is code; save its state_dict instead")
    if "data.pkl" not in names or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise InputError(f"{name}: is a zip archive ({size}) but not one that torch.save wrote; unpack it first")
    try:
        payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{name}: holds Python objects that need code to be run ({size}), so it is not opened; "
            "save plain tensors with torch.save(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, OSError) as error:
        raise InputError(
            f"{name}: is a damaged or truncated torch file ({size}: {_first_line(error)}); copy or download it again"
        ) from error
    return _pick_state(payload, name, key)


def _pick_state(payload: object, name: str, key: str | None) -> tuple[dict[str, Any], State]:
    """The config and the wanted state dict of an unpickled torch file."""
    if not isinstance(payload, dict):
        raise InputError(f"{name}: holds a {type(payload).__name__}, not a dictionary of tensors; save a state_dict")
    config = payload.get("config", {})
    nested = {str(k): v for k, v in payload.items() if k != "config" and _is_state(v)}
    if key is not None:
        if key not in nested:
            raise InputError(
                f"{name}: holds no state dict {key!r}{nearest(key, list(nested))}; "
                f"it has {', '.join(sorted(nested)) or 'none'}"
            )
        return config, nested[key]
    flat = {k: v for k, v in payload.items() if isinstance(v, torch.Tensor)}
    if flat and not nested:
        return config, flat
    if len(nested) == 1 and not flat:
        return config, next(iter(nested.values()))
    if not nested:
        raise InputError(f"{name}: holds no tensors; save a state_dict")
    raise InputError(f"{name}: holds several state dicts ({', '.join(sorted(nested))}); say which one is wanted")


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())


def _checked_state(state: Mapping[Any, torch.Tensor], name: str, size: int) -> State:
    """Contiguous tensors, floating ones float32 and finite."""
    # A stride of 0 lets a tiny file claim terabytes; twice the file leaves room for tied weights.
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > 2 * size:
        raise InputError(f"{name}: its tensors claim more memory than the file's {size:,} bytes hold; refused")
    checked: State = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
            raise InputError(f"{name}: entry {key!r} is not a plain tensor; save dense real tensors under text names")
        if tensor.is_floating_point():
            tensor = tensor.float()
            _require_finite(tensor, key, f"in {name}; the file is damaged or its training diverged")
        checked[key] = tensor.detach().contiguous()
    return checked


def _require_finite(tensor: torch.Tensor, key: str, remark: str) -> None:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise InputError(f"tensor {key} holds {bad:,} NaN or infinite values of {tensor.numel():,}: {remark}")


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """float16 where that keeps the values, else float32."""
    full = tensor.float()
    half = full.half()
    error = (half.float() - full).norm()
    keeps = bool(torch.isfinite(half).all()) and bool(error <= _HALF_ERROR * full.norm())
    return half if keeps else full


def _jsonable(config: object, name: str) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise InputError(f"{name}: its config is a {type(config).__name__}, not a dictionary; write the file again")
    try:
        return dict(json.loads(json.dumps(config)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: its config is not plain JSON ({_first_line(error)}); write it again") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
