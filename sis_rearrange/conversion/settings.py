"""Settings of a network that its tensors do not show: what they change in the picture, which cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sis_rearrange.conversion.report import Report
from sis_rearrange.errors import InputError

MAPPING_LR = 0.01  # learning rate multiplier of our mapping networks
TF_LABEL_LR = 0.1  # ... of the TensorFlow discriminator's mapping of labels, where it says nothing
GROUP_SIZE = 4  # of a discriminator's minibatch statistics, where nothing is said
FIR_TAPS = (1, 3, 3, 1)
_ARCHITECTURES = {"generator": "skip", "discriminator": "resnet"}


def official_settings(config: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Constructor arguments of an official network as one flat dictionary, those of the mapping as ``mapping.*``.

    In our own files they lie under ``args``, or under ``networks`` and the network's ``name`` where there are several.
    """
    flat: dict[str, Any] = {}
    networks = config.get("networks")
    own = networks.get(name) if isinstance(networks, Mapping) else None
    for key, value in (dict(config) | ({"args": own} if own else {})).items():
        if key in ("args", "synthesis_kwargs", "block_kwargs", "epilogue_kwargs") and isinstance(value, Mapping):
            flat |= value
        elif key == "mapping_kwargs" and isinstance(value, Mapping):
            flat |= {f"mapping.{name}": setting for name, setting in value.items()}
        else:
            flat[key] = value
    return {key: value for key, value in flat.items() if value is not None}


def apply_settings(kind: str, given: Mapping[str, Any], state: dict[str, torch.Tensor], report: Report) -> None:
    """Change ``state`` where weights can express a setting, and note the settings that get lost.

    Raises InputError for settings under which our network would paint another picture.
    """
    for name, wanted in (
        ("architecture", _ARCHITECTURES[kind]),
        ("activation", "lrelu"),
        ("mapping.activation", "lrelu"),
        ("mapping.normalize_latents", True),
    ):
        if given.get(name, wanted) != wanted:
            setting = name.rpartition(".")[2]
            raise InputError(f"its {kind} has {setting} {_shown(given[name])}, and only {wanted!r} is supported")
    theirs = TF_LABEL_LR if kind == "discriminator" and report.layout == "tensorflow" else MAPPING_LR
    _scale_mapping(given.get("mapping.lr_multiplier", theirs), state, report)
    if given.get("num_fp16_res"):
        report.dropped["num_fp16_res"] = "float32 is used throughout"


def kept_settings(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of our constructors' arguments that no tensor shows; InputError for values that make no sense."""
    kept: dict[str, Any] = {"conv_clamp": conv_clamp(given)}
    if kind == "discriminator":
        group = given.get("mbstd_group_size", GROUP_SIZE)
        if type(group) is not int or not 0 < group < 1 << 20:
            raise InputError(
                f"its mbstd_group_size is {_shown(group)}, and must be a positive integer; the file is damaged"
            )
        kept["mbstd_group_size"] = group
    return kept


def conv_clamp(given: Mapping[str, Any]) -> float | None:
    """The limit on what every convolution gives, which the official programs keep in any precision; None for none."""
    limit = given.get("conv_clamp")
    if limit is None:
        return None
    if isinstance(limit, list):
        raise InputError(f"its layers have different limits on activations, {_shown(limit)}; only one for all is read")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < 1e30:
        raise InputError(f"its conv_clamp is {_shown(limit)}, and must be a positive number; the file is damaged")
    return float(limit)


def _shown(value: object) -> str:
    """A value out of a file for a message: one line, not too long."""
    return repr(value)[:60]


def _scale_mapping(lr_multiplier: object, state: dict[str, torch.Tensor], report: Report) -> None:
    """Weights and biases are multiplied by the learning rate multiplier at run time: fold in the ratio to ours."""
    names = [name for name in state if name.startswith("mapping.fc")]
    if lr_multiplier == MAPPING_LR or not names:
        return
    if not isinstance(lr_multiplier, int | float) or not 1e-6 < lr_multiplier < 1e6:
        raise InputError(f"its mapping network has lr_multiplier {_shown(lr_multiplier)}; the file is damaged")
    for name in names:
        state[name] = state[name] * (lr_multiplier / MAPPING_LR)
    report.notes.append(f"mapping weights scaled by {lr_multiplier / MAPPING_LR:g}, for another learning rate there")


def fir_taps(given: Mapping[str, Any]) -> tuple[float, ...]:
    """Taps of the resampling filter; InputError unless there are four, which is what our layers pad for."""
    taps = given.get("resample_filter", FIR_TAPS)
    numbers = isinstance(taps, list | tuple) and all(isinstance(tap, int | float) for tap in taps)
    if not numbers or len(taps) != len(FIR_TAPS) or not sum(taps) > 0:
        raise InputError(f"its resampling filter is {_shown(taps)}, and only filters of four taps are supported")
    return tuple(float(tap) for tap in taps)
