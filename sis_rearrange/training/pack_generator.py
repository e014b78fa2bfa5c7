"""Train the generator of a domain pack, which may not exist yet, and write it with its discriminator."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sis_rearrange.domains import Domain, domain_names, get_domain
from sis_rearrange.domains.base import check_request
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.pack import DISCRIMINATOR, GENERATOR, PROXY, create_pack, load_pack, write_component
from sis_rearrange.pack_files import INFO_FILE
from sis_rearrange.training.distance import JudgeDistance, judge_of
from sis_rearrange.training.generator import GeneratorConfig, GeneratorTraining
from sis_rearrange.training.growth import Networks, grow, read_start
from sis_rearrange.training.origins import inherited_licences, stages_before
from sis_rearrange.training.pack_training import facts_of
from sis_rearrange.training.run import TICK, run_training
from sis_rearrange.training.scale import make_scale
from sis_rearrange.training.sources import ImageFiles, Pictures, Renders
from sis_rearrange.training.states import stored_states


@dataclass(frozen=True)
class Material:
    """What a generator is trained on and from."""

    data: str  # name of an embedded domain, or path of a folder or zip of images
    fit: str | None = None  # how images become square: crop, pad, stretch; None: they must be square
    mirror: bool = False  # every second pass over images shows them mirrored; renders never come to a second
    resume_from: str = ""  # weight file, state of a run, or pack, of the same resolution; "": none
    grow_from: str = ""  # the same of a lower resolution
    judge: str = ""  # pack whose judge scores the samples; "": the trained pack, where it has one
    score_samples: int = 500  # samples per score; 0: no scores
    workers: int = 2  # processes that render or read pictures
    licence: str = ""  # of a folder's or zip's pictures, for a new pack; a domain has its own
    credit: str = ""  # attribution that pictures made with that pack carry

    def __post_init__(self) -> None:
        if self.resume_from and self.grow_from:
            raise InputError("--resume-from and --grow-from: give one of them")
        if self.score_samples < 0 or self.score_samples == 1:
            raise InputError(f"--score-samples {self.score_samples}: must be 0 or at least 2")

    def domain(self) -> Domain | None:
        """The embedded domain, where ``data`` names one and no such path exists."""
        return get_domain(self.data) if self.data in domain_names() and not Path(self.data).exists() else None

    def pictures(self, config: GeneratorConfig) -> Pictures:
        """The pictures to train on."""
        domain = self.domain()
        if domain is not None:
            if self.fit:
                raise InputError(f"--fit {self.fit}: is for folders and zips; {domain.name} is rendered square")
            check_request(0, config.resolution)
            return Renders(domain, config.resolution)
        if not Path(self.data).exists():
            hint = nearest(self.data, domain_names())
            raise InputError(f"--data {self.data}: no such folder or zip, and no embedded domain of that name{hint}")
        return ImageFiles(Path(self.data), config.resolution, self.fit, self.mirror, config.seed)

    def networks(self, config: GeneratorConfig, run: Path) -> Networks | None:
        """The networks to start from; None for fresh ones. A run may go on when what it started from is gone."""
        source = self.grow_from or self.resume_from
        if not source:
            return None
        try:
            return grow(read_start(source), config.resolution, config.seed) if self.grow_from else read_start(source)
        except InputError:
            for state in stored_states(run):  # only the shapes matter: the loop fills in what it finds sound
                with contextlib.suppress(InputError):
                    return read_start(str(state.path))
            raise

    def distance(self, pack: Path, config: GeneratorConfig, run: Path) -> JudgeDistance | None:
        """The score of the samples; None where there is no judge, no held-out render, or none is wanted."""
        domain, judge = self.domain(), self.judge or (str(pack) if (pack / INFO_FILE).is_file() else "")
        if self.judge and domain is None:
            raise InputError("--judge: needs an embedded domain as --data, whose renders the samples are compared to")
        if domain is None or not judge or not self.score_samples:
            return None
        return judge_of(judge, domain, self.score_samples, config.resolution, run / "val.npz", self.workers)


def generator_training(
    pack: Path, run: Path, config: GeneratorConfig, material: Material, device: str = "cpu"
) -> GeneratorTraining:
    """The training of a pack's generator; writes nothing."""
    start = material.networks(config, run)
    origin = material.grow_from or material.resume_from
    distance = material.distance(pack, config, run)
    scale = make_scale(device, config.precision, config.accumulate)
    return GeneratorTraining(config, material.pictures(config), material.workers, start, origin, distance, scale)


def train_pack_generator(
    pack_path: str,
    run: Path,
    config: GeneratorConfig,
    material: Material,
    replace: bool = False,
    device: str = "cpu",
    tick: float = TICK,
) -> dict[str, float]:
    """Train a generator and its discriminator and write both into the pack; returns the scores.

    Where there is no pack yet, one is made: an embedded domain's with its part names, one for images without any.
    Raises InputError for a pack of another resolution, and for one whose proxy clusters belong to the generator it has,
    unless that is to be ``replace``d.
    """
    pack = Path(pack_path)
    training = generator_training(pack, run, config, material, device)
    scale = training.scale
    scale.on_main(lambda: _open_pack(pack, config, material, replace))
    before = _before(training.origin, pack, run)
    scores = run_training(training, run, tick)
    if not scale.main:
        return scores
    seen = {
        "images_seen": training.steps * training.batch,
        "data": training.pictures.describe(),
        "from": training.origin,
        "run": run.name,
    }
    for relpath, kind, network in (
        (GENERATOR, "generator", training.ema),
        (DISCRIMINATOR, "discriminator", training.d),
    ):
        write_component(
            pack,
            relpath,
            _portable(network),
            {"kind": kind, "args": network.config},
            facts_of(config, scores, scale.processes) | seen | before,
        )
    return scores


def _before(origin: str, pack: Path, run: Path) -> dict[str, Any]:
    source = None
    if origin and not Path(origin).is_file():  # weight files say nothing of themselves
        with contextlib.suppress(InputError):  # a run may go on, and end, when that pack is gone
            source = load_pack(origin)
    return stages_before(origin, source, GENERATOR, pack, run)


def _open_pack(pack: Path, config: GeneratorConfig, material: Material, replace: bool) -> None:
    _check_pack(pack, config, material, replace)
    if not (pack / INFO_FILE).is_file():
        _create_pack(pack, config, material)


def _create_pack(pack: Path, config: GeneratorConfig, material: Material) -> None:
    domain = material.domain()
    licence, credit = (domain.licence, domain.credit) if domain else (material.licence, material.credit)
    art = [{"what": "the training pictures", "licence": licence, "credit": credit}] if licence or credit else []
    parts = (domain.name, domain.classes, domain.palette) if domain else (pack.name, (), ())
    create_pack(pack, pack.name, *parts, config.resolution, art + _inherited(material, art))


def _inherited(material: Material, own: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    source = material.grow_from or material.resume_from
    if not source or Path(source).is_file():  # weight files name no licence
        return []
    return inherited_licences(load_pack(source), own)


def _check_pack(pack: Path, config: GeneratorConfig, material: Material, replace: bool) -> None:
    if not (pack / INFO_FILE).is_file():
        return
    opened = load_pack(pack)
    if opened.resolution != config.resolution:
        raise InputError(f"{pack}: is for {opened.resolution} pixels, not --resolution {config.resolution}")
    if PROXY in opened.info["files"] and not replace:
        raise InputError(
            f"{pack}: its clusters, rearranger and mappers belong to the generator it has; train into a new pack, or "
            "give --replace and train them again"
        )


def _portable(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
