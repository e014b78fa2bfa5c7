"""The constructor arguments of a StyleGAN2, read off the shapes of its weights: most files carry no configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from sis_rearrange.errors import InputError

State = Mapping[str, torch.Tensor]


def generator_args(state: State) -> dict[str, Any]:
    """Arguments of `stylegan2.Generator` for an official state dict; InputError where it is none."""
    try:
        channels = _channels(state, r"synthesis\.b(\d{1,5})\.conv1\.weight")
        w_dim = state["synthesis.b4.conv1.affine.weight"].shape[1]
        c_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
        embedded = state["mapping.embed.weight"].shape[0] if c_dim else 0
        return {
            "z_dim": state["mapping.fc0.weight"].shape[1] - embedded,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": max(channels),
            "img_channels": state["synthesis.b4.torgb.weight"].shape[0],
            **_channel_rule(channels),
            "num_layers": _mapping_layers(state),
        }
    except InputError:
        raise
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"these are not the weights of a StyleGAN2 generator ({_missing(error)})") from None


def discriminator_args(state: State) -> dict[str, Any]:
    """Arguments of `stylegan2.Discriminator` for an official state dict; InputError where it is none."""
    try:
        channels = _channels(state, r"b(\d{1,5})\.conv0\.weight")
        channels[4] = state["b4.fc.weight"].shape[0]
        c_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
        return {
            "c_dim": c_dim,
            "img_resolution": max(channels),
            "img_channels": state[f"b{max(channels)}.fromrgb.weight"].shape[1],
            **_channel_rule(channels),
            "num_layers": _mapping_layers(state) if c_dim else 8,
        }
    except InputError:
        raise
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"these are not the weights of a StyleGAN2 discriminator ({_missing(error)})") from None


def _mapping_layers(state: State) -> int:
    return sum(re.fullmatch(r"mapping\.fc\d{1,3}\.weight", name) is not None for name in state)


def _channels(state: State, pattern: str) -> dict[int, int]:
    """Resolution of a block -> channels of its convolution."""
    matches = ((re.fullmatch(pattern, name), tensor) for name, tensor in state.items())
    return {int(match[1]): tensor.shape[0] for match, tensor in matches if match}


def _channel_rule(channels: Mapping[int, int]) -> dict[str, int]:
    """``channel_base`` and ``channel_max`` of ``min(channel_base // resolution, channel_max)``."""
    most = max(channels.values())
    narrow = {resolution: count for resolution, count in channels.items() if count < most}
    # Rounding down leaves a range of bases for every block; where none is narrower, any large one says the same.
    wide = [most * resolution for resolution, count in channels.items() if count == most]
    base = max([resolution * count for resolution, count in narrow.items()] + wide)
    if any(min(base // resolution, most) != count for resolution, count in channels.items()):
        raise InputError(f"the channels of its blocks, {dict(sorted(channels.items()))}, follow no rule that is known")
    return {"channel_base": base, "channel_max": most}


def _missing(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else "they have other shapes"
