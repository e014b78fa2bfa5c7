"""The networks of a weight file, whatever its layout: the way into this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sis_rearrange.errors import nearest
from sis_rearrange.weights.inert import RawObject
from sis_rearrange.weights.kinds import HEAD, check_kind, looks_like_safetensors, looks_like_zip, read_bytes
from sis_rearrange.weights.official import (
    NetworkRecord,
    check_generation,
    is_persistent,
    is_tf_network,
    pytorch_networks,
    tf_networks,
)
from sis_rearrange.weights.own_format import decode_safetensors
from sis_rearrange.weights.reading import Reading, shown
from sis_rearrange.weights.torch_files import read_pickle, read_zip
from sis_rearrange.weights.values import NotPlain, State, as_json, as_state, is_tensor, plain_entries

_ROSINALITY = re.compile(r"^(module\.)?(style\.\d+\.(weight|bias)|convs\.\d+\.|to_rgbs?\d?\.|final_(conv|linear)\.)")


def read_networks(path: str | Path) -> dict[str, NetworkRecord]:
    """Every network of a weight file, by the name the file gives it, in the file's order.

    Reads, by content and never by extension: official PyTorch snapshots of stylegan2-ada-pytorch and of stylegan3's
    StyleGAN2 configurations (``"G"``, ``"D"``, ``"G_ema"``), official TensorFlow snapshots (``"G"``, ``"D"``,
    ``"Gs"``), checkpoints of rosinality/stylegan2-pytorch (``"g"``, ``"d"``, ``"g_ema"``), plain state dicts and
    safetensors (one network named ``""``). No code of the file runs and nothing that it names is imported. Raises
    ``InputError`` for everything else, for damaged files, for StyleGAN1 and StyleGAN3, and for NaN or infinite weights.
    """
    return decode_networks(read_bytes(path), str(path))


def decode_networks(data: bytes, name: str) -> dict[str, NetworkRecord]:
    """``read_networks`` for bytes already in memory; ``name`` is what messages call them."""
    check_kind(data[:HEAD], len(data), name)
    reading = Reading(name, len(data))
    if looks_like_safetensors(data[:HEAD]):
        config, state = decode_safetensors(data, reading)
        check_generation(state, reading)
        kind = config.get("kind")
        return {"": NetworkRecord("safetensors", "", kind if isinstance(kind, str) else None, config, state)}
    view = memoryview(data)
    payload = read_zip(view, reading) if looks_like_zip(view) else read_pickle(view, reading)
    if is_persistent(payload):
        payload = {"": payload}
    if is_tf_network(payload):
        payload = (payload,)
    if type(payload) in (tuple, list) and 0 < len(payload) <= 8 and all(map(is_tf_network, payload)):  # type: ignore
        return tf_networks(list(payload), reading)  # type: ignore[call-overload]
    if type(payload) is not dict:
        raise reading.refused(f"holds a {_kind_of(payload)}, not a dictionary of tensors; save a state_dict")
    if any(map(is_persistent, payload.values())):
        return pytorch_networks(payload, reading)
    return _state_dicts(payload, reading)


def read_weights(path: str | Path, key: str | None = None) -> tuple[dict[str, Any], State]:
    """Read ``(config, state_dict)`` of one network from any file that ``read_networks`` reads.

    ``key`` picks one where the file holds several (``"G_ema"``, ``"D"``). Floating tensors come back as contiguous
    float32 on the CPU, integer and boolean ones unchanged. ``config`` is ``{}`` where the file has none. Raises
    ``InputError`` for a missing, truncated or foreign file, for a pickle that needs code to be run, and for NaN or
    infinite values.
    """
    return decode_weights(read_bytes(path), str(path), key)


def decode_weights(data: bytes, name: str, key: str | None = None) -> tuple[dict[str, Any], State]:
    """``read_weights`` for bytes already in memory; ``name`` is what messages call them."""
    records = decode_networks(data, name)
    reading = Reading(name, len(data))
    if key is None and len(records) > 1:
        raise reading.refused(f"holds several state dicts ({', '.join(sorted(records))}); say which one is wanted")
    if key is not None and looks_like_safetensors(data[:HEAD]):
        raise reading.refused(f"a safetensors file holds one network, so there is no {key!r} to pick in it")
    if key is not None and key not in records:
        raise reading.refused(
            f"holds no state dict {key!r}{nearest(key, list(records))}; it has {', '.join(sorted(records)) or 'none'}"
        )
    record = records[key] if key is not None else next(iter(records.values()))
    return record.config, record.state


def _state_dicts(payload: Mapping[Any, Any], reading: Reading) -> dict[str, NetworkRecord]:
    """The networks of a file of state dicts, or of one: plain ones and rosinality's."""
    try:
        config = as_json(payload.get("config", {}), reading)
    except NotPlain as error:
        raise reading.refused(f"its config is not plain JSON ({error}); write it again") from error
    if not isinstance(config, dict):
        raise reading.refused(f"its config is a {type(config).__name__}, not a dictionary; write the file again")
    nested = {shown(name): value for name, value in payload.items() if name != "config" and _is_state(value, reading)}
    flat = {name: value for name, value in payload.items() if is_tensor(value)}
    if not nested and not flat:
        raise reading.refused("holds no tensors; save a state_dict")
    if not nested:
        return {"": _record("", flat, config, {}, reading)}
    # beside networks: single tensors such as rosinality's latent_avg, and whatever is plain, such as its arguments
    extras: dict[str, Any] = {**_plain_extras(payload, reading), **as_state(flat, reading)}
    return {name: _record(name, state, config, extras, reading) for name, state in nested.items()}


def _record(
    name: str, values: Mapping[Any, Any], config: dict[str, Any], extras: dict[str, Any], reading: Reading
) -> NetworkRecord:
    check_generation((key for key in values if isinstance(key, str)), reading)
    state = as_state(values, reading)
    layout = "rosinality" if any(map(_ROSINALITY.match, state)) else "plain"
    return NetworkRecord(layout, name, None, config, state, extras)


def _plain_extras(payload: Mapping[Any, Any], reading: Reading) -> dict[str, Any]:
    values: dict[Any, Any] = {}
    for name, value in payload.items():
        if name == "config":
            continue
        inert = type(value) is RawObject and value.kind == "namespace"
        values[name] = plain_entries(value.state, reading) if inert else value
    return plain_entries(values, reading)


def _is_state(value: object, reading: Reading) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    reading.spend_operations(len(value))
    return all(map(is_tensor, value.values()))


def _kind_of(payload: object) -> str:
    return payload.kind if type(payload) is RawObject else type(payload).__name__.removeprefix("Raw").lower()
