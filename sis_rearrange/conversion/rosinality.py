"""Names of rosinality/stylegan2-pytorch as official PyTorch names, and back.

Both keep unit-scaled weights and multiply by the equalised learning rate at run time, so tensors change shape at most.
Its FIR kernels are stored with the gain of the upsampling, 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sis_rearrange.conversion.report import Place, Report
from sis_rearrange.errors import InputError

UP_GAIN = 4.0


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _first(x: torch.Tensor) -> torch.Tensor:
    return x[0]


def _scalar(x: torch.Tensor) -> torch.Tensor:
    return x.reshape([])


def _unscaled(x: torch.Tensor) -> torch.Tensor:
    return x / UP_GAIN


_STYLED = {
    "conv.weight": ("weight", _first),
    "conv.modulation.weight": ("affine.weight", _same),
    "conv.modulation.bias": ("affine.bias", _same),
    "conv.blur.kernel": ("resample_filter", _unscaled),
    "noise.weight": ("noise_strength", _scalar),
    "activate.bias": ("bias", lambda x: x.reshape(-1)),
    "bias": ("bias", lambda x: x.reshape(-1)),
}


def _styled_layer(index: int) -> str:
    """Official layer of the ``index``-th styled convolution, 0 being conv1 at 4x4; also of noise number ``index``."""
    return f"synthesis.b{2 ** ((index + 5) // 2)}.conv{1 - index % 2}"


def generator_place(name: str) -> Place | None:
    """The place of a tensor of g or g_ema; None where our generator has none for it."""
    if name == "latent_avg":  # beside the generator in a checkpoint, among its tensors in a safetensors file
        return Place("mapping.w_avg", lambda x: x.reshape(-1))
    if name == "input.input":
        return Place("synthesis.b4.const", _first)
    if match := re.fullmatch(r"style\.([1-9]\d?)\.(weight|bias)", name):  # style.0 has no weights
        return Place(f"mapping.fc{int(match[1]) - 1}.{match[2]}", _same)
    if match := re.fullmatch(r"noises\.noise_(\d{1,2})", name):
        return Place(f"{_styled_layer(int(match[1]))}.noise_const", lambda x: x[0, 0])
    if match := re.fullmatch(r"to_rgbs\.(\d{1,2})\.upsample\.kernel", name):
        return Place(f"synthesis.b{8 << int(match[1])}.resample_filter", _unscaled)
    if match := re.fullmatch(r"(conv1|convs\.(\d{1,2})|to_rgb1|to_rgbs\.(\d{1,2}))\.(.+)", name):
        if match[4] not in _STYLED:
            return None
        if match[1].startswith("to_rgb"):
            layer = f"synthesis.b{4 if match[3] is None else 8 << int(match[3])}.torgb"
        else:
            layer = _styled_layer(0 if match[2] is None else int(match[2]) + 1)
        target, change = _STYLED[match[4]]
        return Place(f"{layer}.{target}", change)
    return None


_RES_BLOCK = {
    "conv1.0.weight": "conv0.weight",
    "conv1.1.bias": "conv0.bias",
    "conv2.0.kernel": "conv1.resample_filter",
    "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias",
    "skip.0.kernel": "skip.resample_filter",
    "skip.1.weight": "skip.weight",
}
_D_ENDS = {
    "final_conv.0.weight": "b4.conv.weight",
    "final_conv.1.bias": "b4.conv.bias",
    "final_linear.0.weight": "b4.fc.weight",
    "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight",
    "final_linear.1.bias": "b4.out.bias",
}


def discriminator_place(name: str, resolution: int) -> Place | None:
    """The place of a tensor of d, whose pictures have ``resolution`` pixels; None where ours has none for it."""
    if name in _D_ENDS:
        return Place(_D_ENDS[name], _same)
    if match := re.fullmatch(r"convs\.0\.(0\.weight|1\.bias)", name):
        return Place(f"b{resolution}.fromrgb.{match[1][2:]}", _same)
    match = re.fullmatch(r"convs\.([1-9]\d?)\.(.+)", name)
    if match and match[2] in _RES_BLOCK:
        return Place(f"b{resolution >> (int(match[1]) - 1)}.{_RES_BLOCK[match[2]]}", _same)
    return None


def discriminator_resolution(names: Iterable[str]) -> int:
    """Pixels per side: 4, doubled by every residual block."""
    return 4 << len({match[1] for name in names if (match := re.match(r"convs\.([1-9]\d?)\.conv1\.", name))})


# ---- back ------------------------------------------------------------------------------------------------------------


def to_rosinality(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Report]:
    """``(state dict, extras, report)`` of an official network for rosinality's code; inverse of `to_official`.

    ``extras`` holds ``latent_avg [w_dim]`` of a generator. Raises InputError for networks without a counterpart there.
    """
    kind, args = config["kind"], config["args"]
    _check_expressible(kind, args)
    report = Report("pytorch")
    made = _generator_state(state) if kind == "generator" else _discriminator_state(state)
    sources = set()
    for name in made:
        place = generator_place(name) if kind == "generator" else discriminator_place(name, args["img_resolution"])
        assert place is not None
        report.place(place.name, name)
        sources.add(place.name)
    extras = {}
    if kind == "generator":
        extras["latent_avg"] = state["mapping.w_avg"].clone()
        report.place("mapping.w_avg", "latent_avg")
    for name in sorted(set(state) - sources - {"mapping.w_avg"}):
        report.dropped[name] = "a constant filter that its code makes itself"
    for name, value in expressible(args).items():
        if value != args[name]:
            report.dropped[name] = _LOST[name].format(args[name])
    report.notes.append(_how_to_load(kind, args, state))
    return {name: tensor.contiguous().clone() for name, tensor in made.items()}, extras, report


_LOST = {
    "conv_clamp": "its code has no limit on activations, which is {:g} here",
    "mbstd_group_size": "its code compares four samples with each other, here they are {}; scores of batches differ",
}


def expressible(args: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments with those changed that rosinality's code has no place for."""
    fixed = {"conv_clamp": None, "mbstd_group_size": 4}
    return {name: fixed.get(name, value) for name, value in args.items()}


def _check_expressible(kind: str, args: Mapping[str, Any]) -> None:
    other = "use --layout official"
    if args.get("c_dim"):
        raise InputError(f"a class-conditional {kind} has no rosinality layout; {other}")
    if args.get("img_channels", 3) != 3:
        raise InputError(f"rosinality's {kind} has 3 image channels, not {args['img_channels']}; {other}")
    if kind == "generator" and args["z_dim"] != args["w_dim"]:
        raise InputError(f"rosinality's generator has z as wide as w, not {args['z_dim']} and {args['w_dim']}; {other}")


def _how_to_load(kind: str, args: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> str:
    """The options under which rosinality's code has this network's sizes."""
    pattern = r"synthesis\.b(\d+)\.conv1\.weight" if kind == "generator" else r"b(\d+)\.conv0\.weight"
    channels = {int(m[1]): tensor.shape[0] for name, tensor in state.items() if (m := re.fullmatch(pattern, name))}
    fits = [m for m in (1, 2, 4, 8) if all(n == (512 if r <= 32 else 16384 * m // r) for r, n in channels.items())]
    size = f"--size {args['img_resolution']}"
    if not fits:
        return f"there: {size}, and its table of channels must say {channels}"
    rest = f", latent {args['w_dim']}, n_mlp {args['num_layers']}" if kind == "generator" else ""
    return f"there: {size} --channel_multiplier {fits[-1] if len(fits) == 1 else 2}{rest}"


def _generator_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A generator's official state dict as rosinality's, without ``w_avg``, which is kept beside it as latent_avg."""
    resolutions = sorted(int(m[1]) for name in state if (m := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", name)))
    out = {"input.input": state["synthesis.b4.const"][None]}
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state)
    for i in range(layers):
        for part in ("weight", "bias"):
            out[f"style.{i + 1}.{part}"] = state[f"mapping.fc{i}.{part}"]
    for index in range(2 * len(resolutions) - 1):
        ours, theirs = _styled_layer(index), "conv1" if index == 0 else f"convs.{index - 1}"
        out |= _modulated(state, ours, theirs)
        out[f"{theirs}.noise.weight"] = state[f"{ours}.noise_strength"].reshape(1)
        out[f"{theirs}.activate.bias"] = state[f"{ours}.bias"]
        out[f"noises.noise_{index}"] = state[f"{ours}.noise_const"][None, None]
        if index % 2:
            out[f"{theirs}.conv.blur.kernel"] = state[f"{ours}.resample_filter"] * UP_GAIN
    for index, resolution in enumerate(resolutions):
        ours, theirs = f"synthesis.b{resolution}.torgb", "to_rgb1" if index == 0 else f"to_rgbs.{index - 1}"
        out |= _modulated(state, ours, theirs)
        out[f"{theirs}.bias"] = state[f"{ours}.bias"].reshape(1, -1, 1, 1)
        if index:
            out[f"{theirs}.upsample.kernel"] = state[f"synthesis.b{resolution}.resample_filter"] * UP_GAIN
    return out


def _modulated(state: Mapping[str, torch.Tensor], ours: str, theirs: str) -> dict[str, torch.Tensor]:
    return {
        f"{theirs}.conv.weight": state[f"{ours}.weight"][None],
        f"{theirs}.conv.modulation.weight": state[f"{ours}.affine.weight"],
        f"{theirs}.conv.modulation.bias": state[f"{ours}.affine.bias"],
    }


def _discriminator_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A discriminator's official state dict as rosinality's."""
    resolutions = sorted(int(m[1]) for name in state if (m := re.fullmatch(r"b(\d+)\.conv0\.weight", name)))
    top = resolutions[-1]
    out = {f"convs.0.{at}.{part}": state[f"b{top}.fromrgb.{part}"] for at, part in ((0, "weight"), (1, "bias"))}
    for resolution in resolutions:
        index = int(math.log2(top // resolution)) + 1
        out |= {f"convs.{index}.{theirs}": state[f"b{resolution}.{ours}"] for theirs, ours in _RES_BLOCK.items()}
    return out | {theirs: state[ours] for theirs, ours in _D_ENDS.items()}
