"""Variable names of the TensorFlow-era networks (stylegan2, stylegan2-ada) as official PyTorch names.

Arrays lie as TensorFlow wants them: kernels HWIO, dense weights [in, out]. Upsampling kernels were applied flipped, and
the style bias was stored without its 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sis_rearrange.conversion.report import Place

Change = Callable[[torch.Tensor], torch.Tensor]


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _kernel(x: torch.Tensor) -> torch.Tensor:
    return x.permute(3, 2, 0, 1)


def _flipped_kernel(x: torch.Tensor) -> torch.Tensor:
    return x.flip([0, 1]).permute(3, 2, 0, 1)


def _dense(x: torch.Tensor) -> torch.Tensor:
    return x.t()


_COUNTERS = {"lod": "a counter of the training", "dlatent_avg_beta": "a setting of the training"}
# The containers that a variable's name may start with
_PREFIX = re.compile(r"^(?:(?:G|D|Gs|mapping|synthesis|[GD]_\w+)/)+")
_LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
_LAYER_VARIABLES: dict[str, tuple[str, Change]] = {
    "bias": ("bias", _same),
    "mod_weight": ("affine.weight", _dense),
    "mod_bias": ("affine.bias", lambda x: x + 1),
    "noise_strength": ("noise_strength", lambda x: x.reshape([])),
}


def generator_place(name: str) -> Place | None:
    """The place of a variable of G or Gs; None where our generator has none for it."""
    name = _PREFIX.sub("", name)
    if name in ("dlatent_avg", "w_avg"):
        return Place("mapping.w_avg", _same)
    if name == "4x4/Const/const":
        return Place("synthesis.b4.const", lambda x: x[0])
    if match := re.fullmatch(r"(?:Dense(\d{1,2})|LabelEmbed)/(weight|bias)", name):
        layer = "embed" if match[1] is None else f"fc{match[1]}"
        return Place(f"mapping.{layer}.{match[2]}", _dense if match[2] == "weight" else _same)
    if match := re.fullmatch(r"noise(\d{1,2})", name):
        index = int(match[1])
        layer = f"b{2 ** ((index + 5) // 2)}.conv{1 - index % 2}"
        return Place(f"synthesis.{layer}.noise_const", lambda x: x[0, 0])
    if match := re.fullmatch(r"(\d{1,5})x\1/(Conv|Conv0_up|Conv1|ToRGB)/(\w+)", name):
        layer, variable = f"synthesis.b{match[1]}.{_LAYERS[match[2]]}", match[3]
        if variable == "weight":
            return Place(f"{layer}.weight", _flipped_kernel if match[2] == "Conv0_up" else _kernel)
        if variable in _LAYER_VARIABLES:
            target, change = _LAYER_VARIABLES[variable]
            return Place(f"{layer}.{target}", change)
    return None


def discriminator_place(name: str) -> Place | None:
    """The place of a variable of D; None where our discriminator has none for it."""
    name = _PREFIX.sub("", name)
    if match := re.fullmatch(r"(LabelEmbed|Mapping(\d{1,2})|4x4/Dense0|Output)/(weight|bias)", name):
        fixed = {"LabelEmbed": "mapping.embed", "4x4/Dense0": "b4.fc", "Output": "b4.out"}
        return Place(
            f"{fixed.get(match[1], f'mapping.fc{match[2]}')}.{match[3]}", _dense if match[3] == "weight" else _same
        )
    if match := re.fullmatch(r"(\d{1,5})x\1/(FromRGB|Conv|Conv0|Conv1_down|Skip)/(weight|bias)", name):
        layers = {"FromRGB": "fromrgb", "Conv": "conv", "Conv0": "conv0", "Conv1_down": "conv1", "Skip": "skip"}
        return Place(f"b{match[1]}.{layers[match[2]]}.{match[3]}", _kernel if match[3] == "weight" else _same)
    return None


def counter(name: str) -> str | None:
    """Why a variable is of no use to anybody who does not train on; None for all others."""
    return _COUNTERS.get(_PREFIX.sub("", name))


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a network's ``static_kwargs`` under official PyTorch names."""
    names = {
        "nonlinearity": "activation",
        "mapping_nonlinearity": "mapping.activation",
        "mapping_lrmul": "mapping.lr_multiplier",
        "normalize_latents": "mapping.normalize_latents",
        "resample_kernel": "resample_filter",
        "mbstd_num_features": "mbstd_num_channels",
    }
    return {names.get(key, key): value for key, value in config.items() if value is not None}
