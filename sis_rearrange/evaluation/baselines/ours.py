"""Ours among the methods of the table: a mapper from few shots, then the pack's rearranger."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from tqdm import tqdm

from sis_rearrange.evaluation.baselines.base import Rearranging, check_shots, fitted
from sis_rearrange.evaluation.networks import Networks, bars_shown
from sis_rearrange.pack import Pack
from sis_rearrange.proxy import within_reach
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.distil import DistilConfig
from sis_rearrange.training.few_shot import (
    EXTRACTOR_STEPS,
    MAPPER_SETTINGS,
    Shot,
    distil_training,
    few_shot_config,
    mapper_from_shots,
)
from sis_rearrange.training.mapper import MapperConfig
from sis_rearrange.training.run import Training


@dataclass
class Ours(Rearranging):
    """What ``train_mapper.py --shots`` does, without writing anything: extractor, segmenter, mapper, rearranger."""

    psi: float = 0.9
    distil: DistilConfig = DistilConfig()  # of the segmenter that learns the extractor's labels
    chosen: dict[str, Any] = field(default_factory=dict)  # settings of the mapper other than `MAPPER_SETTINGS`

    name = "ours"
    title = "ours, few-shot mapper and rearranger"

    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """Train segmenter and mapper; see `Baseline.fit`."""
        check_shots(shots, pack)
        distil = replace(self.distil, psi=self.psi, seed=seed)
        config = few_shot_config(pack, **{**self.chosen, "psi": self.psi, "seed": seed})
        generator = copy.deepcopy(pack.generator())
        teaching = distil_training(generator, shots, len(pack.classes), distil, progress)
        run_to_end(teaching, progress)
        training = mapper_from_shots(pack, teaching.segmenter, config, torch.device("cpu"), teaching.extractor)
        run_to_end(training, progress)
        self._networks, self._mapper = Networks.of(pack, self.psi), training.ema

    def settings(self) -> dict[str, Any]:
        """See `Baseline.settings`; everything about the trainings that is decided elsewhere is written out."""
        mapper = MapperConfig("segmentation", **MAPPER_SETTINGS | self.chosen)
        steps = (
            EXTRACTOR_STEPS[self.distil.kind] if self.distil.extractor_steps is None else self.distil.extractor_steps
        )
        distil = replace(self.distil, extractor_steps=steps)
        return {"psi": self.psi, "distil": asdict(distil), "mapper": asdict(mapper)}

    def asked(self, masks: torch.Tensor, source_labels: torch.Tensor) -> torch.Tensor:
        """See `Rearranging.asked`."""
        mapper = fitted(self, "_mapper")
        logits = mapper(one_hot(masks, mapper.in_channels))  # hard cells, as a mask file of this size has them
        return within_reach(logits, source_labels).argmax(dim=1)


def run_to_end(training: Training, progress: bool | None) -> None:
    """All steps of a training, none of them kept on disk: the cell they belong to is what is kept."""
    with tqdm(total=training.steps, desc=training.name, unit="step", disable=not bars_shown(progress)) as bar:
        while training.step < training.steps:
            training.train_step()
            bar.update()
