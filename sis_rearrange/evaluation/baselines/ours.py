"""Ours among the methods of the table: a mapper from few shots, then the pack's rearranger; and refined."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from tqdm import tqdm

from sis_rearrange.cycle import Cycle
from sis_rearrange.evaluation.baselines.base import Baseline, Rearranging, check_masks, check_shots, fitted
from sis_rearrange.evaluation.networks import Networks, bars_shown
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.pack import DISCRIMINATOR, Pack
from sis_rearrange.proxy import within_reach
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.refinement import REACH, STEPS, refinement
from sis_rearrange.sample_parts import COLOUR_WEIGHT
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.distil import DistilConfig
from sis_rearrange.training.few_shot import (
    EXTRACTOR_STEPS,
    MAPPER_SETTINGS,
    Shot,
    distil_training,
    few_shot_config,
    mapper_from_shots,
    overlook_unknown,
    shots_hash,
)
from sis_rearrange.training.mapper import MapperConfig
from sis_rearrange.training.run import Training

AT_ONCE = 12  # pictures refined at a time


@dataclass
class Ours(Rearranging):
    """What ``train_mapper.py --shots`` does, without writing anything: extractor, segmenter, mapper, rearranger."""

    psi: float = 0.9
    distil: DistilConfig = DistilConfig()  # of the segmenter that learns the extractor's labels
    chosen: dict[str, Any] = field(default_factory=dict)  # settings of the mapper other than `MAPPER_SETTINGS`

    networks = (*Rearranging.networks, DISCRIMINATOR)
    name = "ours"
    title = "ours, few-shot mapper and rearranger"

    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """Train segmenter and mapper; see `Baseline.fit`."""
        check_shots(shots, pack)
        given = pack.hash, pack.rearranger_file, shots_hash(shots), seed
        if given == vars(self).get("_given"):  # by `Refined`, which shares this one
            return
        started = time.monotonic()
        distil = replace(self.distil, psi=self.psi, seed=seed)
        config = few_shot_config(pack, **{**self.chosen, "psi": self.psi, "seed": seed})
        generator = copy.deepcopy(pack.generator())
        teaching = distil_training(generator, shots, len(pack.classes), distil, progress)
        run_to_end(teaching, progress)
        training = mapper_from_shots(pack, teaching.segmenter, config, torch.device("cpu"), teaching.extractor)
        run_to_end(training, progress)
        overlook_unknown(training.ema, training.condition, shots, len(pack.classes))
        self._networks, self._mapper = Networks.of(pack, self.psi), training.ema
        self._segmenter = teaching.segmenter.eval().requires_grad_(False)
        self._given, self.fit_seconds = given, time.monotonic() - started

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`; everything about the trainings that is decided elsewhere is written out."""
        mapper = MapperConfig("segmentation", **MAPPER_SETTINGS | self.chosen)
        steps = (
            EXTRACTOR_STEPS[self.distil.kind] if self.distil.extractor_steps is None else self.distil.extractor_steps
        )
        distil = replace(self.distil, extractor_steps=steps)
        return {"psi": self.psi, "distil": asdict(distil), "colours": COLOUR_WEIGHT, "mapper": asdict(mapper)}

    def asked(self, masks: torch.Tensor, source_labels: torch.Tensor) -> torch.Tensor:
        """See `Rearranging.asked`."""
        return within_reach(self.logits(masks), source_labels).argmax(dim=1)

    def logits(self, masks: torch.Tensor) -> torch.Tensor:
        """What the mapper says of drawn masks ``[N, R, R]``: ``[N, K, r, r]``."""
        mapper: SemanticMapper = fitted(self, "_mapper")
        return mapper(one_hot(masks, mapper.in_channels))  # hard cells, as a mask file of this size has them


@dataclass
class Refined(Baseline):
    """`Ours`, then `refinement` by the segmenter that the same shots have taught; both share what was learnt."""

    ours: Ours
    steps: int = STEPS

    networks = Ours.networks
    name = "refined"
    title = "ours, refined"

    @property
    def psi(self) -> float:  # type: ignore[override]
        """Truncation of the samples."""
        return self.ours.psi

    @property
    def fit_seconds(self) -> float:  # type: ignore[override]
        """See `Baseline`."""
        return self.ours.fit_seconds

    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """See `Baseline.fit`; nothing is learnt twice."""
        self.ours.fit(pack, shots, seed, progress)

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`."""
        return {**self.ours.settings(), "refine": self.steps, "reach": REACH}

    def synthesize(self, masks: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See `Baseline.synthesize`."""
        networks: Networks = fitted(self.ours, "_networks")
        check_masks(masks, seeds, networks.split.generator.img_resolution)
        assert isinstance(networks.rearranger, Rearranger)
        cycle = Cycle(networks.split, networks.rearranger, fitted(self.ours, "_segmenter"))
        pictures = []
        for start in range(0, len(seeds), AT_ONCE):
            at = slice(start, start + AT_ONCE)
            with torch.no_grad():
                looks, logits = networks.sources(seeds[at]), self.ours.logits(masks[at])
            logits = logits + refinement(cycle, logits, looks, masks[at], self.steps)
            with torch.no_grad():
                pictures.append(cycle.picture(logits, looks).clamp(-1, 1))
        return torch.cat(pictures)


def run_to_end(training: Training, progress: bool | None) -> None:
    """All steps of a training, none of them kept on disk: the cell they belong to is what is kept."""
    with tqdm(total=training.steps, desc=training.name, unit="step", disable=not bars_shown(progress)) as bar:
        while training.step < training.steps:
            training.train_step()
            bar.update()
