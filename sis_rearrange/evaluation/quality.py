"""Protocol "quality": how good the results are as pictures, and whether they keep look and layout; with intervals.

Where it says so in a metric's name, pictures are compared as sets (KID, precision, recall), as pairs (perceptual
distance), part by part (style), or with the true mask of the drawing (judged parts). Seeds and split are those of
protocol "main", so nothing that was trained or tuned on is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sis_rearrange.conditions import get_condition
from sis_rearrange.domains import split_indices
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.drawings import HeldOut, rendered_domain, synthesize_all
from sis_rearrange.evaluation.extractors import (
    INCEPTION_LAYER,
    Extractor,
    inception_extractor,
    judge_extractor,
    need_fidelity,
)
from sis_rearrange.evaluation.extractors import set_scores as score_sets
from sis_rearrange.evaluation.networks import NOISE_MODE, Networks, batches, parts
from sis_rearrange.evaluation.outcome import Outcome, Request, about, as_markdown, plain
from sis_rearrange.evaluation.perceptual import Perceptual, perceptual
from sis_rearrange.evaluation.protocol import QUICK
from sis_rearrange.evaluation.style import score_style
from sis_rearrange.metrics import Interval, bootstrap, confusions, miou, pixel_accuracy
from sis_rearrange.pack import Pack
from sis_rearrange.tensors import to_uint8


@dataclass(frozen=True)
class Amounts:
    """How much is looked at; counts go into the metrics' names."""

    pictures: int = 1000  # in each of the sets that are compared
    drawings: int = 200  # drawn in every condition and judged
    pairs: int = 256  # samples rearranged, for style and perceptual distance
    drawing_side: int = 256  # pixels


FULL_AMOUNTS = Amounts()
QUICK_AMOUNTS = Amounts(pictures=400, drawings=100, pairs=96)


class Quality:
    """One run of the protocol: what its parts share, and what they have found so far."""

    def __init__(self, pack: Pack, amounts: Amounts, progress: bool | None) -> None:
        self.pack, self.amounts, self.progress = pack, amounts, progress
        self.networks, self.judge = Networks.of(pack, QUICK.psi), pack.judge()
        self.metrics: dict[str, float | None] = {}
        self.intervals: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        domain, indices = rendered_domain(pack), split_indices("test", amounts.pictures)
        self.held_out = HeldOut(domain, indices, pack.resolution, amounts.drawings, amounts.drawing_side, progress)

    def add(self, count: int, scores: Mapping[str, float], intervals: Mapping[str, Interval]) -> None:
        """Note scores under their names and count."""
        self.metrics |= {f"{name}_{count}": plain(value) for name, value in scores.items()}
        self.intervals |= {f"{name}_{count}": interval.as_json() for name, interval in intervals.items()}

    def source_seeds(self, count: int) -> range:
        """Seeds of the looks."""
        return range(QUICK.source_seeds, QUICK.source_seeds + count)

    # ---- sets of pictures --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def sets(self, extractors: list[Extractor]) -> None:
        """Plain samples, and results of segmentation masks, against renders of the test split."""
        seeds = self.source_seeds(self.amounts.pictures)
        title, progress = "plain samples", self.progress
        renders = [torch.from_numpy(self.held_out.small[0][at]).permute(0, 3, 1, 2) for at in _silent(len(seeds))]
        samples = [
            _bytes(self.networks.picture(self.networks.sources(seeds[at])))
            for at in batches(len(seeds), title, progress)
        ]
        results = list(self._results("segmentation", self.held_out.small, seeds))
        for extractor in extractors:
            reals = extractor.all(renders)
            for name, pictures in (("plain", samples), ("conditioned", results)):
                self.add(len(seeds), *score_sets(extractor, extractor.all(pictures), reals, name))

    def _results(self, name: str, renders: tuple[np.ndarray, np.ndarray], seeds: range) -> Iterator[torch.Tensor]:
        condition, mapper = get_condition(name, self.pack.palette()), self.pack.mapper(name)
        indices = self.held_out.indices
        for each in synthesize_all(self.networks, mapper, condition, renders, indices, seeds, self.progress):
            yield _bytes(each.pictures)

    # ---- layout ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def layout(self) -> None:
        """Judged parts of results against the true masks, for every condition of the pack."""
        count, classes = self.amounts.drawings, len(self.pack.classes)
        truth = torch.from_numpy(self.held_out.small[1][:count])
        for name in self.pack.conditions():
            try:
                condition, mapper = get_condition(name, self.pack.palette()), self.pack.mapper(name)
                arguments = self.networks, mapper, condition, self.held_out.large, self.held_out.indices
                results = synthesize_all(*arguments, self.source_seeds(count), self.progress)
                each = [confusions(parts(self.judge, x.pictures), truth[x.at], classes) for x in results]
            except InputError as error:  # a condition whose extractor or plugin is not there
                self.notes.append(f"{name}: not judged ({error})")
                continue
            matrices = torch.cat(each)
            total = matrices.sum(dim=0)
            for metric, statistic in (("miou", miou), ("accuracy", pixel_accuracy)):
                title = f"{metric}_judge_{name}"
                self.add(count, {title: statistic(total)}, {title: bootstrap(matrices, statistic)})

    # ---- look --------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def look(self, perceptual: Perceptual) -> None:
        """Samples after their neighbours' masks and after their own; the same layout in two looks."""
        count = self.amounts.pairs
        seeds = range(QUICK.sample_seeds, QUICK.sample_seeds + count)
        masks = torch.cat([self.networks.sources(seeds[at]).labels for at in _silent(count)])
        found: dict[str, list[torch.Tensor]] = {"source": [], "other": [], "own": []}
        for at in batches(count, "rearranging samples", self.progress):
            source = self.networks.sources(seeds[at])
            found["source"].append(self.networks.picture(source))
            found["other"].append(self.networks.rearrange(source, masks.roll(-1, 0)[at])[1])
            found["own"].append(self.networks.rearrange(source, source.labels)[1])
        sources, others, own = (torch.cat(found[name]) for name in ("source", "other", "own"))
        self.add(count, *score_style(self.judge, self.pack.classes, others, sources))
        pairs = {"self": (own, sources), "other_look": (sources.roll(1, 0), own), "other_layout": (others, sources)}
        for name, (a, b) in pairs.items():
            title, distance = f"{perceptual.name}_{name}", perceptual(_bytes(a), _bytes(b))
            self.add(count, {title: float(distance.mean())}, {title: bootstrap(distance)})


def quality_outcome(pack: Pack, request: Request, amounts: Amounts | None = None) -> Outcome:
    """Run the protocol. Raises InputError where the pack lacks a network, and where torch-fidelity is not installed."""
    chosen = amounts or (QUICK_AMOUNTS if request.quick else FULL_AMOUNTS)
    need_fidelity()
    pairwise, why_not_lpips = perceptual()
    inception = inception_extractor(request.inception)
    judge = judge_extractor(pack.judge())
    extractors = [judge] if isinstance(inception, str) else [judge, inception]
    quality = Quality(pack, chosen, request.progress)
    quality.sets(extractors)
    quality.layout()
    quality.look(pairwise)
    looked = {each.prefix: (each.sha256, each.preprocessing) for each in extractors}
    looked[pairwise.name] = pairwise.sha256, pairwise.preprocessing
    seeds = {
        "samples": (QUICK.sample_seeds, QUICK.sample_seeds + chosen.pairs),
        "looks": (QUICK.source_seeds, QUICK.source_seeds + chosen.pictures),
    }
    results = about(
        pack,
        "quality",
        request,
        {"pictures": chosen.pictures, "drawings": chosen.drawings, "pairs": chosen.pairs},
        f"test, the first {chosen.pictures} renders",
        seeds,
        {name: preprocessing for name, (_, preprocessing) in looked.items()},
        {name: digest for name, (digest, _) in looked.items()},
    )
    results["metrics"], results["intervals"] = quality.metrics, quality.intervals
    notes = [note for note in (why_not_lpips, inception) if isinstance(note, str)]
    results["notes"] = [
        *notes,
        *quality.notes,
        f"psi {QUICK.psi:g}, noise {NOISE_MODE}; Inception's layer: {INCEPTION_LAYER}",
        *TEXT,
    ]
    return Outcome(results, as_markdown(results))


TEXT = (
    "KID: mean over 100 subsets of a quarter of the pictures, polynomial kernel of degree 3; its interval: ten "
    "disjoint blocks, Student; precision and recall: 3 neighbours",
    "self: a sample after its own proxy mask, against the sample (lower is better); other_layout: the same after "
    "another sample's mask; other_look: two samples (what unlike pictures score)",
    "style: lower is better; shuffled is what keeping nothing of the look would score",
)


def _bytes(images: torch.Tensor) -> torch.Tensor:
    """Float images ``[N, 3, H, W]`` in [-1, 1] as the uint8 of their files, same layout."""
    return torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)


def _silent(count: int) -> Iterator[slice]:
    return batches(count, "", progress=False)
