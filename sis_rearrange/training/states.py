"""States to resume from: one safetensors file each, written atomically, named by step and hash, the last few kept.

A state holds networks, averages, optimisers and counters. Nothing random has to be kept: what a step sees follows from
the settings and its number alone. The name carries the hash of the content, so that a damaged file shows, and the
state before it is taken instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes
from sis_rearrange.weights import decode_weights, encode_weights

KEEP = 3  # states per run folder
FOLDER = "states"
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.safetensors")
_OLD = "checkpoint.safetensors"  # what version 0.1 wrote

Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]
Former = Callable[[Mapping[str, Any]], dict[str, Any]]


class Stored(NamedTuple):
    """A state file, by its name."""

    path: Path
    step: int
    digest: str  # first 16 hex digits of the sha256 of its bytes


def stored_states(run: Path) -> list[Stored]:
    """The state files of a run folder, newest first."""
    found = []
    for path in (run / FOLDER).glob("step-*.safetensors"):
        if match := _NAME.fullmatch(path.name):
            found.append(Stored(path, int(match[1]), match[2]))
    return sorted(found, key=lambda state: (state.step, state.digest), reverse=True)


def encode_state(
    modules: Modules, optimizers: Optimizers, settings: Mapping[str, Any], progress: Mapping[str, Any]
) -> bytes:
    """A state as the bytes of a safetensors file. ``settings`` and ``progress`` are JSON-able.

    Raises InputError where a network holds NaN: such a state is not worth keeping.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for number, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{number}/{slot}": value for slot, value in slots.items()}
    return encode_weights(tensors, {"settings": as_json(settings), "progress": as_json(progress)}, half=False)


def write_state(run: Path, step: int, data: bytes) -> Path:
    """Write a state and drop the oldest beyond `KEEP`; returns its path. Raises InputError for a full disk."""
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = run / FOLDER / f"step-{step:09d}-{digest}.safetensors"
    write_bytes(path, data)
    for old in stored_states(run)[KEEP:]:
        with contextlib.suppress(OSError):
            old.path.unlink()
    return path


def newest_state(run: Path, say: Callable[[str], None]) -> bytes | None:
    """The newest sound state of a run folder, None where there is none.

    A damaged state is renamed to ``*.damaged``, ``say`` is told, and the one before it is taken. Raises InputError
    where every state is damaged, and for a folder of version 0.1.
    """
    states = stored_states(run)
    if not states:
        if (run / _OLD).exists():
            raise InputError(f"{run}: holds {_OLD} of version 0.1, which cannot be continued; choose another folder")
        return None
    problem, damaged = "", []
    for state in states:
        try:
            data = _read(state)
        except InputError as error:
            problem = problem or str(error)
            damaged.append(state.path)
            continue
        if damaged:
            say(f"{problem}; going on from {state.path.name}")
        for path in damaged:
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".damaged"))
        return data
    raise InputError(f"{problem}, and so is every other state; remove {run / FOLDER} to start over")


def put_state(
    data: bytes,
    run: Path,  # where it is from, for messages
    modules: Modules,
    optimizers: Optimizers,
    settings: Mapping[str, Any],
    former: Former | None = None,
) -> dict[str, Any]:
    """Put a state into place; returns its progress. InputError where the run was started with other ``settings``.

    ``former``: says the settings of a state that an earlier version wrote in today's words.
    """
    config, tensors = decode_weights(data, str(run))
    before = config.get("settings", {})
    _check_settings(run, before if former is None else as_json(former(before)), as_json(settings))
    _fill(modules, optimizers, tensors)
    progress: dict[str, Any] = config["progress"]
    return progress


def completed(before: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a state with the defaults of those that were added since, nested ones too."""
    full = {**defaults, **before}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(before.get(name), Mapping):
            full[name] = completed(before[name], value)
    if "bfloat16" in full:  # before there were three precisions
        full["precision"] = "bfloat16" if full.pop("bfloat16") else "float32"
    return full


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON reads it back: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _read(state: Stored) -> bytes:
    try:
        data = state.path.read_bytes()
    except OSError as error:
        raise InputError(f"{state.path}: cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(data).hexdigest()[:16] != state.digest:
        raise InputError(f"{state.path}: is damaged (its content does not match the hash in its name)")
    return data


def _check_settings(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before != now:
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise InputError(
            f"{run}: was started with other settings ({', '.join(changed)}); repeat those or choose another folder"
        )


def _fill(modules: Modules, optimizers: Optimizers, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{name}/"):
                number, slot = int(key.split("/")[2]), key.split("/")[3]
                like = parameters[number]
                # In the layout the optimiser would have made it in: another one sums in another order
                laid_out = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
                state.setdefault(number, {})[slot] = laid_out.detach()
        # The learning rate is set before every step, so the groups hold nothing to restore
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
