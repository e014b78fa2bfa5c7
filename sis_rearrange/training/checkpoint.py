"""State to resume a training from: one safetensors file with networks, optimisers and progress, saved atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes
from sis_rearrange.weights import encode_weights, read_weights

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(
    run: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    settings: Mapping[str, Any],
    progress: Mapping[str, Any],
) -> None:
    """Write everything that is needed to go on to the run folder; ``settings`` and ``progress`` are JSON-able."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for number, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{number}/{slot}": value for slot, value in slots.items()}
    config = {"settings": _plain(settings), "progress": _plain(progress)}
    write_bytes(run / CHECKPOINT, encode_weights(tensors, config, half=False))


def load_checkpoint(
    run: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    settings: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Put the run folder's checkpoint into ``modules`` and ``optimizers``; returns its progress, None where none is.

    Raises InputError where the file is damaged, or where the run was started with other ``settings``.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return None
    config, tensors = read_weights(path)
    before, now = config.get("settings", {}), _plain(settings)
    if before != now:
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise InputError(
            f"{run}: was started with other settings ({', '.join(changed)}); repeat those or choose another folder"
        )
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{name}/"):
                number, slot = key.split("/")[2:]
                state.setdefault(int(number), {})[slot] = value
        # The learning rate is set before every step, so the groups hold nothing to restore
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    progress: dict[str, Any] = config["progress"]
    return progress


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON reads it back: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
