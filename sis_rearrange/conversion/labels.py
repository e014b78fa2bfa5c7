"""Class labels: the average w over them, and networks of a single class made from conditional ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sis_rearrange.errors import InputError
from sis_rearrange.stylegan2 import MappingNetwork, normalize_2nd_moment
from sis_rearrange.tensors import seeded_normal

MEAN_SAMPLES = 4096  # of w, where a file has no average
_PREFIX = "mapping."


def mean_w(args: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean of w ``[w_dim]`` over seeded z, and over all labels where there are some."""
    mapping = _mapping(state, args["z_dim"], args["c_dim"], args["w_dim"], args["num_layers"])
    z = seeded_normal(range(MEAN_SAMPLES), [args["z_dim"]])
    c = torch.eye(args["c_dim"])[torch.arange(MEAN_SAMPLES) % args["c_dim"]] if args["c_dim"] else None
    with torch.no_grad():
        return mapping(z, c).mean(dim=0)


def for_label(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], label: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """An official network without labels that does what a conditional one does for class ``label``; exact.

    The embedded label is a constant, which the generator's first mapping layer takes into its bias and the
    discriminator's last layer into its weights. ``w_avg`` becomes that of the class. InputError for a label that the
    network does not have.
    """
    kind, args = config["kind"], dict(config["args"])
    if not 0 <= label < args["c_dim"]:
        known = f"0 to {args['c_dim'] - 1}" if args["c_dim"] else "no classes"
        raise InputError(f"class {label}: the {kind} has {known}")
    made = {name: tensor for name, tensor in state.items() if kind == "generator" or not name.startswith(_PREFIX)}
    c = torch.eye(args["c_dim"])[label : label + 1]
    if kind == "generator":
        z_dim, weight = args["z_dim"], state["mapping.fc0.weight"]
        embed = made.pop("mapping.embed.weight")
        y = normalize_2nd_moment(c @ embed.t() / math.sqrt(args["c_dim"]) + made.pop("mapping.embed.bias"))
        gain = math.sqrt(weight.shape[1])  # weights are divided by the root of the layer's inputs
        made["mapping.fc0.weight"] = weight[:, :z_dim] * (math.sqrt(z_dim) / gain)
        made["mapping.fc0.bias"] = state["mapping.fc0.bias"] + (weight[:, z_dim:] @ y[0]) / gain
    else:
        layers = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in state)
        width = state["b4.out.weight"].shape[0]
        with torch.no_grad():
            y = _mapping(state, 0, args["c_dim"], width, layers)(None, c) / math.sqrt(width)
        made["b4.out.weight"] = y @ state["b4.out.weight"]
        made["b4.out.bias"] = y @ state["b4.out.bias"]
    args["c_dim"] = 0
    if kind == "generator":
        made["mapping.w_avg"] = mean_w(args, made)
    return {**config, "args": args}, made


def _mapping(state: Mapping[str, torch.Tensor], z_dim: int, c_dim: int, w_dim: int, num_layers: int) -> MappingNetwork:
    mapping = MappingNetwork(z_dim, c_dim, w_dim, None, num_layers, track_average=False)
    own = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    own.pop("w_avg", None)
    try:
        mapping.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise InputError(f"its mapping network is not that of a StyleGAN2 ({' '.join(str(error).split())})") from error
    return mapping
