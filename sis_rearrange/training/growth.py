"""Networks to start from: another training's, or those of half the resolution, grown by a block without a jump."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn

from sis_rearrange.errors import InputError
from sis_rearrange.loading import build, convert, pick
from sis_rearrange.pack import DISCRIMINATOR, load_pack
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.weights import NetworkRecord, read_networks

_RAW = ("G", "g")  # names of generators that are trained; the others are averages of those
_STATE_NETWORKS = ("G", "G_ema", "D")  # in a state of `training.generator`


@dataclass
class Networks:
    """A generator, its moving average, and a discriminator, all of one resolution."""

    generator: Generator
    average: Generator
    discriminator: Discriminator | None  # None: the file held none, start with a fresh one

    @property
    def resolution(self) -> int:
        """Pixels per side."""
        return self.generator.img_resolution


def read_start(source: str) -> Networks:
    """Networks of a weight file of any layout, of a state of a run, or of a pack; InputError where there are none."""
    path = Path(source)
    if not path.is_file():
        pack = load_pack(source)
        average = pack.generator()
        critic = copy.deepcopy(pack.discriminator()) if DISCRIMINATOR in pack.info["files"] else None
        return _trainable(source, copy.deepcopy(average), copy.deepcopy(average), critic)
    records = _without_optimizers(read_networks(path))

    def built(record: NetworkRecord) -> nn.Module:
        return build(convert(record, path, tuple(records)), path)

    average_record = pick(records, "generator", None, path)
    raw = next((records[name] for name in _RAW if name in records), average_record)
    try:
        critic_record = pick(records, "discriminator", None, path)
    except InputError:  # generators alone are common
        return _trainable(source, built(raw), built(average_record), None)
    return _trainable(source, built(raw), built(average_record), built(critic_record))


def _without_optimizers(records: dict[str, NetworkRecord]) -> dict[str, NetworkRecord]:
    """The networks in a state of a run as records of their own; other files as they are."""
    single = records.get("")
    if len(records) != 1 or single is None or not any(name.startswith("module/") for name in single.state):
        return records
    split = {}
    for name in _STATE_NETWORKS:
        prefix = f"module/{name}/"
        state = {key.removeprefix(prefix): value for key, value in single.state.items() if key.startswith(prefix)}
        if state:
            split[name] = NetworkRecord(single.layout, name, None, {}, state, {})
    return split or records


def _trainable(source: str, generator: nn.Module, average: nn.Module, discriminator: nn.Module | None) -> Networks:
    if not isinstance(generator, Generator) or not isinstance(average, Generator):
        raise InputError(f"{source}: holds no generator; give the weights of a StyleGAN2 generator")
    assert discriminator is None or isinstance(discriminator, Discriminator)
    if generator.c_dim or (discriminator is not None and discriminator.c_dim):
        raise InputError(f"{source}: its generator has class labels; training is for networks without them")
    return Networks(copy.deepcopy(generator), copy.deepcopy(average), discriminator)


def grow(networks: Networks, resolution: int, seed: int = 0) -> Networks:
    """The networks at a higher resolution, block by block; pictures and judgements start as those of the old ones.

    A new block of the generator adds nothing to the picture at first (its ``torgb`` is zero): the picture is the old
    one, enlarged. A new block of the discriminator halves the picture and reads it as the old ``fromrgb`` did.
    """
    if resolution <= networks.resolution or resolution & (resolution - 1):
        raise InputError(
            f"--grow-from: its networks make pictures of {networks.resolution} pixels; --resolution {resolution} must "
            "be 2, 4, ... times that; --resume-from takes networks of the same"
        )
    while networks.resolution < resolution:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + networks.resolution)
            critic = networks.discriminator
            generator = grow_generator(networks.generator)
            average = grow_generator(networks.average)
            last = f"synthesis.b{generator.img_resolution}."
            average.load_state_dict(  # the average of a block that was never trained is that block
                average.state_dict() | {k: v for k, v in generator.state_dict().items() if k.startswith(last)}
            )
            networks = Networks(generator, average, None if critic is None else grow_discriminator(critic))
    return networks


def grow_generator(old: Generator) -> Generator:
    """A generator of twice the resolution that starts with the old one's pictures, enlarged."""
    new = Generator(**(old.config | {"img_resolution": 2 * old.img_resolution}))
    new.load_state_dict(new.state_dict() | old.state_dict(), strict=True)
    torgb = getattr(new.synthesis, f"b{new.img_resolution}").torgb
    nn.init.zeros_(torgb.weight)
    nn.init.zeros_(torgb.bias)
    return new


@torch.no_grad()
def grow_discriminator(old: Discriminator) -> Discriminator:
    """A discriminator of twice the resolution that starts with the old one's logits for the halved picture.

    Two channels of opposite sign carry each colour through leaky ReLUs unchanged; the last convolution of the new block
    takes the place of the old ``fromrgb``, which reads the picture no more. Channels that are not needed start at
    random with no say. InputError for blocks that are too narrow.
    """
    new = Discriminator(**(old.config | {"img_resolution": 2 * old.img_resolution}))
    state = {name: value for name, value in old.state_dict().items() if ".fromrgb." not in name}
    new.load_state_dict(new.state_dict() | state, strict=True)
    block, before = getattr(new, f"b{new.img_resolution}"), getattr(old, f"b{old.img_resolution}").fromrgb
    colours = before.weight.shape[1]
    width = block.conv0.weight.shape[1]
    if width < 2 * colours:
        raise InputError(f"a block of {width} channels is too narrow to grow into; use a larger --channel-base")
    signs = torch.cat([torch.eye(colours), -torch.eye(colours)])  # [2C, C]: colour to pairs
    # lrelu(x) - lrelu(-x) is 1.2 x; each layer also multiplies by the gain of its activation
    back = torch.cat([torch.eye(colours), -torch.eye(colours)], dim=1) / (
        1.2 * math.sqrt(2)
    )  # [C, 2C]: pairs to colour
    pairs = 2 * colours
    # fromrgb: picture to pairs
    block.fromrgb.weight[:pairs] = (signs / block.fromrgb.weight_gain)[:, :, None, None]
    block.fromrgb.bias[:pairs] = 0
    # conv0: pairs to pairs, one pixel at a time
    block.conv0.weight[:pairs] = 0
    block.conv0.weight[:pairs, :pairs, 1, 1] = signs @ back / block.conv0.weight_gain
    block.conv0.bias[:pairs] = 0
    # conv1: filtered and halved, then what the old fromrgb did; its gain loses sqrt(0.5) beside the silent skip, which
    # is made good in the weights
    reads = before.weight[:, :, 0, 0] * before.weight_gain * math.sqrt(2)
    block.conv1.weight.zero_()
    block.conv1.weight[:, :pairs, 1, 1] = reads @ back / block.conv1.weight_gain
    block.conv1.bias.copy_(before.bias * math.sqrt(2))
    block.skip.weight.zero_()
    return new
