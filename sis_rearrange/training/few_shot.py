"""Learn parts from a handful of annotated samples of the generator: first to read them, then to draw from them.

One annotated sample is worth many: the extractor (`extractor.py`) reads parts off feature maps, so what it has learnt
from one sample holds for every other one. It labels the samples that the mapper is trained on. Rearranged pictures have
no feature maps below the tap, so a U-Net learns the extractor's labels on pictures (`distil.py`) and looks at those.
Neither the pack's segmenter nor its judge takes part, nor does any renderer.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from tqdm import trange

from sis_rearrange.conditions import Condition, get_condition
from sis_rearrange.conditions.palette import UNPAINTED
from sis_rearrange.cycle import Looks
from sis_rearrange.errors import InputError
from sis_rearrange.extractor import SemanticExtractor, reduced
from sis_rearrange.features import SplitGenerator, all_features, sample_ws, samples_at_once
from sis_rearrange.losses import part_weights
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.pack import (
    DISCRIMINATOR,
    PROXY,
    REARRANGER,
    SEGMENTER,
    Pack,
    load_pack,
    mapper_file,
    write_component,
)
from sis_rearrange.sample_parts import sample_parts
from sis_rearrange.sampling import pick_device
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.tensors import assert_shape
from sis_rearrange.training.distil import DistilConfig, DistilTraining
from sis_rearrange.training.mapper import MapperConfig, MapperTraining
from sis_rearrange.training.pack_training import facts_of, provenance
from sis_rearrange.training.run import TICK, run_training
from sis_rearrange.training.schedule import learning_rate
from sis_rearrange.training.seeds import TRAIN_SEEDS
from sis_rearrange.unet import ConvBlock, UNet

EXTRACTOR_STEPS = {"linear": 1000, "nonlinear": 200}
# Of the mapper's training unless asked otherwise: three minutes on two cores at 64 pixels, most of each step spent on
# what the rearranged pictures show.
MAPPER_SETTINGS: dict[str, Any] = {
    "kimg": 2.6,
    "batch": 8,
    "lr": 2e-3,
    "cycle": 3.0,
    "natural": 0.15,
    "cycle_batch": 7,
    "cycle_after": 0.15,
    "unpainted": 0.4,
}
STATISTICS_SEEDS = range(TRAIN_SEEDS - 201_000, TRAIN_SEEDS - 200_968)  # samples that give channels their spread
_LR = {"linear": 1e-3, "nonlinear": 5e-3}  # of Adam; LinearGAN's for the linear one
_AT_ONCE = 4  # annotated samples in a step


@dataclass(frozen=True, eq=False)
class Shot:
    """An annotated sample of the generator."""

    ws: torch.Tensor  # [num_ws, w_dim]
    labels: torch.Tensor  # int64 [H, W] of the picture's size, in [0, P); -1 where nothing was painted


def check_shots(shots: Sequence[Shot], generator: Generator, num_classes: int) -> None:
    """Raise InputError without any shot or with less than two parts painted, ValueError for wrong shapes and labels."""
    if not shots:
        raise InputError("no annotated picture: one is enough, none is not")
    side = generator.img_resolution
    for shot in shots:
        assert_shape(shot.ws, [generator.num_ws, generator.w_dim])
        assert_shape(shot.labels, [side, side])
        if int(shot.labels.min()) < UNPAINTED or int(shot.labels.max()) >= num_classes:
            raise ValueError(f"labels must lie in [0, {num_classes}), or be {UNPAINTED} for pixels nobody painted")
    painted = {int(label) for shot in shots for label in shot.labels.unique()} - {UNPAINTED}
    if len(painted) < 2:
        raise InputError("the annotated pictures show fewer than two parts; paint at least two, the background is one")


def shots_hash(shots: Sequence[Shot]) -> str:
    """Hex sha256 over ws and labels: what a run with these shots is told from others by."""
    digest = hashlib.sha256()
    for shot in shots:
        digest.update(shot.ws.detach().float().cpu().contiguous().numpy().tobytes())
        digest.update(shot.labels.cpu().contiguous().numpy().astype("int16").tobytes())
    return digest.hexdigest()


def train_extractor(
    generator: Generator,
    shots: Sequence[Shot],
    num_classes: int,
    kind: str = "nonlinear",  # or "linear", LinearGAN's
    steps: int | None = None,  # of Adam; None: `EXTRACTOR_STEPS`
    seed: int = 0,
    progress: bool | None = None,  # draw a bar on stderr; None: where it is a terminal
) -> SemanticExtractor:
    """Learn to read the parts of ``shots`` off the generator's feature maps; seconds on two cores.

    Pixels that nobody painted (-1) teach nothing. Same arguments, same network. It comes back in eval mode, its
    parameters need no gradient. Raises as `check_shots`.
    """
    check_shots(shots, generator, num_classes)
    steps = EXTRACTOR_STEPS[kind] if steps is None else steps
    device = generator.mapping.w_avg.device
    maps, labels = _shot_maps(generator, shots, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extractor = SemanticExtractor([x.shape[1] for x in maps], num_classes, kind).to(device)
        if kind != "linear":
            extractor.set_statistics(_sample_maps(generator))
        _fit(extractor.train(), maps, labels, steps, seed, progress)
    return extractor.eval().requires_grad_(False)


@torch.no_grad()
def _shot_maps(
    generator: Generator, shots: Sequence[Shot], device: torch.device
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Feature maps of all shots, `reduced`, and their labels ``[N, H, W]``."""
    found = [reduced(all_features(generator, shot.ws[None].to(device).float())[0]) for shot in shots]
    labels = torch.stack([shot.labels.long() for shot in shots]).to(device)
    return [torch.cat(maps) for maps in zip(*found, strict=True)], labels


def _sample_maps(generator: Generator) -> Iterator[list[torch.Tensor]]:
    """Feature maps of the samples that the channels' spread is taken from."""
    for ws in sample_ws(generator, STATISTICS_SEEDS).split(samples_at_once(generator)):
        with torch.no_grad():
            yield all_features(generator, ws)[0]


def _fit(
    extractor: SemanticExtractor,
    maps: Sequence[torch.Tensor],
    labels: torch.Tensor,
    steps: int,
    seed: int,
    progress: bool | None,
) -> None:
    """Adam on the cross-entropy of painted pixels, a few shots at a time; rare parts weigh more but in LinearGAN's."""
    linear, count = extractor.kind == "linear", len(labels)
    size = maps[-1].shape[2:]
    if labels.shape[1:] != size:
        labels = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    weights = None
    if not linear:
        weights = part_weights(labels[labels != UNPAINTED], extractor.num_classes)
    lr, order = _LR[extractor.kind], torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(extractor.parameters(), lr=lr, weight_decay=0.0 if linear else 1e-2)
    disable = None if progress is None else not progress
    for step in trange(steps, desc=f"{extractor.kind} extractor", unit="step", disable=disable, leave=False):
        if not linear:
            optimizer.param_groups[0]["lr"] = learning_rate(step, steps, lr)
        at = torch.randperm(count, generator=order)[:_AT_ONCE].to(labels.device)
        logits = extractor.member_logits([x[at] for x in maps])
        members = logits.shape[1]
        target = labels[at].repeat_interleave(members, dim=0)
        loss = F.cross_entropy(logits.flatten(0, 1), target, weights, ignore_index=UNPAINTED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


# ---- from the extractor to a mapper ----------------------------------------------------------------------------------


def distil_training(
    generator: Generator, shots: Sequence[Shot], num_classes: int, config: DistilConfig, progress: bool | None = None
) -> DistilTraining:
    """The training of a U-Net that labels pictures as the extractor of ``shots`` labels their feature maps."""
    extractor = train_extractor(
        generator, shots, num_classes, config.kind, config.extractor_steps, config.seed, progress
    )
    ws = torch.stack([shot.ws for shot in shots])
    labels = torch.stack([shot.labels.long() for shot in shots])
    return DistilTraining(generator, extractor, ws, labels, config, shots_hash(shots))


class TaughtMapperTraining(MapperTraining):
    """A mapper's training whose samples are labelled by an extractor; the U-Net looks at rearranged pictures alone."""

    extractor: SemanticExtractor

    def _seen(self, looks: Looks) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures of samples, and the parts that the extractor reads off their feature maps."""
        return sample_parts(self.split.generator, self.extractor, looks.ws)


def mapper_from_shots(
    pack: Pack,
    segmenter: UNet,
    config: MapperConfig,
    device: torch.device,
    extractor: SemanticExtractor | None = None,
) -> MapperTraining:
    """The training of a pack's mapper with both in place of the pack's segmenter; extractor None: the U-Net alone."""
    proxy = copy.deepcopy(pack.proxy()).to(device)
    split = SplitGenerator(copy.deepcopy(pack.generator()).to(device), proxy.resolution)
    condition = get_condition(config.condition, pack.palette())
    rearranger = copy.deepcopy(pack.rearranger()).to(device) if config.cycle > 0 else None
    critic = copy.deepcopy(pack.discriminator()).to(device) if config.cycle > 0 and config.natural > 0 else None
    networks = (split, proxy, condition, segmenter.eval().requires_grad_(False), config, rearranger, critic)
    if extractor is None:
        return MapperTraining(*networks)
    training = TaughtMapperTraining(*networks)
    training.extractor = extractor
    return training


@torch.no_grad()
def overlook_unknown(mapper: SemanticMapper, condition: Condition, shots: Sequence[Shot], num_classes: int) -> None:
    """Make the mapper take parts that no shot shows for unpainted, in place.

    It has never seen them drawn, so what their channels' initial weights say of them means nothing; a part that is left
    out is filled in as ``MapperConfig.unpainted`` has taught it.
    """
    shown = {int(label) for shot in shots for label in shot.labels.unique()}
    unknown = [label for label in range(num_classes) if label not in shown]
    first = cast("torch.nn.Conv2d", cast("ConvBlock", mapper.unet.down[0])[0])
    count = condition.channels  # those after them say where a cell is
    read_as = condition.without(torch.eye(count)[:, :, None, None], unknown)[:, :, 0, 0]  # [channel, as which others]
    own = first.weight[:, :count]
    first.weight[:, :count] = torch.einsum("ojhw,cj->ochw", own, read_as.to(own))


def few_shot_config(pack: Pack, condition: str = "segmentation", **chosen: Any) -> MapperConfig:
    """Settings for a few shots, short as these trainings are; ``chosen`` stands in place of `MAPPER_SETTINGS`."""
    settings = MAPPER_SETTINGS | ({} if DISCRIMINATOR in pack.info["files"] else {"natural": 0.0}) | chosen
    return MapperConfig(condition, **settings)


def check_ready(pack: Pack, config: MapperConfig) -> None:
    """InputError unless the pack has what this training of a mapper needs, part names among it."""
    needed = [PROXY] + [REARRANGER] * (config.cycle > 0) + [DISCRIMINATOR] * (config.cycle > 0 and config.natural > 0)
    for relpath in needed:
        if relpath not in pack.info["files"]:
            hint = "train with --natural 0" if relpath == DISCRIMINATOR else "run train_rearranger.py first"
            raise InputError(f"pack {pack.name!r} has no {relpath}; {hint}")
    if not pack.classes:
        raise InputError(f"pack {pack.name!r} names no parts; `sis label export --classes` and `import` give it some")


def first_training(pack: Pack, num_classes: int, config: MapperConfig, device: str) -> MapperTraining:
    """The training of the mapper as it is before anything was learnt, for a look at sizes and memory."""
    check_ready(pack, config)
    with torch.random.fork_rng(devices=[]):
        untrained = UNet(3, num_classes, DistilConfig().widths).eval()
    where = pick_device(device)
    return mapper_from_shots(pack, untrained.to(where), config, where)


class Learnt(NamedTuple):
    """What a few annotated samples have taught; networks in eval mode."""

    mapper: SemanticMapper
    segmenter: UNet  # labels pictures as the extractor labels their feature maps
    scores: dict[str, float]  # of the mapper; ``minutes`` of both trainings, ``score/segmenter_agreement``


def learn_from_shots(
    pack: Pack,
    shots: Sequence[Shot],
    run: Path,
    config: MapperConfig | None = None,  # None: `few_shot_config`
    distil: DistilConfig | None = None,
    device: str = "cpu",
    tick: float = TICK,
    progress: bool | None = None,
) -> Learnt:
    """Train the mapper of one condition from annotated samples alone; the pack stays as it is.

    The folder ``run`` gets the mapper's run and, in ``run/segmenter``, that of the U-Net on whose labels it is trained;
    the same call again goes on. Seed and truncation of both are the mapper's. Raises as `check_shots`, `check_ready`
    and `run_training`.
    """
    config = config or few_shot_config(pack)
    check_ready(pack, config)
    where = pick_device(device)
    labelling = replace(
        distil or DistilConfig(bfloat16=config.precision == "bfloat16"), seed=config.seed, psi=config.psi
    )
    generator = copy.deepcopy(pack.generator()).to(where)
    teaching = distil_training(generator, shots, len(pack.classes), labelling, progress)
    told = run_training(teaching, run / "segmenter", tick)
    segmenter = teaching.segmenter.eval().requires_grad_(False)
    training = mapper_from_shots(pack, segmenter, config, where, teaching.extractor)
    scores = run_training(training, run, tick)
    overlook_unknown(training.ema, training.condition, shots, len(pack.classes))
    scores["minutes"] += told["minutes"]
    return Learnt(training.ema, segmenter, scores | {"score/segmenter_agreement": told["score/agreement"]})


def train_mapper_from_shots(
    pack_path: str | Path,
    shots: Sequence[Shot],
    run: Path,
    config: MapperConfig | None = None,
    distil: DistilConfig | None = None,
    device: str = "cpu",
    tick: float = TICK,
    progress: bool | None = None,
) -> Learnt:
    """`learn_from_shots`, and write the mapper into the pack.

    A pack without a segmenter, or with one that was learnt like this before, keeps the U-Net as its own.
    """
    pack = load_pack(pack_path)
    config = config or few_shot_config(pack)
    learnt = learn_from_shots(pack, shots, run, config, distil, device, tick, progress)
    about: dict[str, Any] = {"shots": len(shots), "shots_sha256": shots_hash(shots)}
    facts, net = facts_of(config, learnt.scores) | about, learnt.mapper
    made = {"kind": "mapper", "args": net.config}
    write_component(pack.path, mapper_file(config.condition), net.state_dict(), made, facts)
    if SEGMENTER not in pack.info["files"] or "shots" in pack.component_config(SEGMENTER):
        unet, facts = learnt.segmenter, provenance(**about, minutes=facts["minutes"])
        made = {"kind": "unet", "args": unet.config, "role": "segmenter", "classes": list(pack.classes), **about}
        write_component(pack.path, SEGMENTER, unet.state_dict(), made, facts)
    return learnt
